"""All metrics at `/metrics`: names, types, labels and meanings.

Every series is bounded in number: no label is an id of a course, a query or a path that a caller chooses.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from models.counters import COUNTERS

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds: from a search with a cached query to a slow search on a CPU."""
SHORT_SECONDS = (0.0001, 0.00025, 0.0005, *SECONDS)
"""The same for parts of a request."""
TEXTS = (1, 2, 4, 8, 16, 32, 64)
TOKENS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)

_SAME_CATALOGUE = "All search apps of a catalogue show the same value: combine them with max()."


@dataclass(frozen=True)
class Family:
    """A metric."""

    name: str
    """Of a counter, it ends with `_total`; of a histogram, the series end with `_bucket`, `_sum` and `_count`."""
    kind: Literal["counter", "gauge", "histogram"]
    meaning: str
    """Shown as HELP. Durations are in seconds."""
    labels: Mapping[str, str] | None = None
    """What the values of each label are."""
    buckets: tuple[float, ...] = ()
    """Upper bounds of a histogram."""
    only_in_search_app: bool = True
    """Whether the embedding app does not have it."""
    of_processes: Literal["livesum", "livemax"] = "livesum"
    """Which value a gauge has if the app runs as several processes: the sum of theirs, or the maximum."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels, in the order of their values."""
        return tuple(self.labels or ())

    def counter(self, registry: CollectorRegistry) -> Counter:
        """A counter that events increment."""
        return Counter(self.name, self.meaning, self.label_names, registry=registry)

    def gauge(self, registry: CollectorRegistry) -> Gauge:
        """A gauge that several processes set."""
        return Gauge(self.name, self.meaning, self.label_names, registry=registry, multiprocess_mode=self.of_processes)

    def histogram(self, registry: CollectorRegistry) -> Histogram:
        """A histogram that events add to."""
        return Histogram(self.name, self.meaning, self.label_names, registry=registry, buckets=self.buckets)

    def read(self, values: Mapping[tuple[str, ...], float]) -> Metric:
        """The family with values that were read for a scrape, by the values of the labels."""
        metric: CounterMetricFamily | GaugeMetricFamily
        if self.kind == "counter":
            metric = CounterMetricFamily(self.name, self.meaning, labels=self.label_names)
        else:
            metric = GaugeMetricFamily(self.name, self.meaning, labels=self.label_names)
        for labels, value in values.items():
            metric.add_metric(labels, value)
        return metric


_ROUTE = {"route": "path template of the route; `none` for static files, unknown paths and refused requests"}
REQUEST_SECONDS = Family(
    "course_search_http_request_duration_seconds",
    "histogram",
    "Seconds until the last byte of the response was sent.",
    {**_ROUTE, "status": "HTTP status; 499 if the client left before the end"},
    SECONDS,
    only_in_search_app=False,
)
ERRORS = Family(
    "course_search_http_errors_total",
    "counter",
    "Responses with an error, by its code.",
    {**_ROUTE, "code": "code of the error"},
    only_in_search_app=False,
)
PHASE_SECONDS = Family(
    "course_search_phase_duration_seconds",
    "histogram",
    "Seconds of the phases of a request, as in the header Server-Timing.",
    {"phase": "`open` (of the snapshots), `embed` (of the query, with the wait for the model), `search`, `rerank`"},
    SHORT_SECONDS,
    only_in_search_app=False,
)

_QUEUE = {"queue": "`queries`, which are computed first, or `bulk`"}
QUEUE_WAITING = Family(
    "course_search_model_queue_waiting",
    "gauge",
    "Queries that wait for a batch, or bulk calls that have not started.",
    _QUEUE,
    only_in_search_app=False,
)
QUEUE_WAIT_SECONDS = Family(
    "course_search_model_queue_wait_seconds",
    "histogram",
    "Seconds that a query, or a part of a bulk call, waited for the embedding model.",
    _QUEUE,
    SHORT_SECONDS,
    only_in_search_app=False,
)
QUEUE_REFUSED = Family(
    "course_search_model_queue_refused_total",
    "counter",
    "Calls that were refused, because the queue of the embedding model was full.",
    _QUEUE,
    only_in_search_app=False,
)
BATCH_TEXTS = Family(
    "course_search_model_batch_texts",
    "histogram",
    "Texts that the embedding model computed together.",
    _QUEUE,
    TEXTS,
    only_in_search_app=False,
)
BATCH_TOKENS = Family(
    "course_search_model_batch_tokens",
    "histogram",
    "Tokens that the embedding model computed together.",
    _QUEUE,
    TOKENS,
    only_in_search_app=False,
)
BATCH_SECONDS = Family(
    "course_search_model_batch_seconds",
    "histogram",
    "Seconds of the computations of the embedding model. Those of bulk calls include pauses for queries.",
    _QUEUE,
    SECONDS,
    only_in_search_app=False,
)
BREAKER_OPEN = Family(
    "course_search_embedding_breaker_open",
    "gauge",
    "1 while the embedding model is not available or its service is known to be away, otherwise 0.",
    only_in_search_app=False,
    of_processes="livemax",
)

_CACHE = {"cache": "name of the cache, as in GET /caches"}
_CACHE_COUNTERS = {
    "hits": "Lookups that found the value in the cache.",
    "misses": "Lookups that did not find the value in the cache.",
    "evictions": "Values removed to make room for others.",
    "expirations": "Values removed because their time to live ended.",
    "loads": "Loads that succeeded.",
    "load_failures": "Loads that failed.",
    "load_seconds": "Total seconds of successful loads.",
}
_CACHE_GAUGES = {"entries": "Values in the cache.", "max_entries": "Maximum number of values in the cache."}
CACHE_FAMILIES = {
    **{
        field: Family(f"course_search_cache_{field}_total", "counter", meaning, _CACHE, only_in_search_app=False)
        for field, meaning in _CACHE_COUNTERS.items()
    },
    **{
        field: Family(f"course_search_cache_{field}", "gauge", meaning, _CACHE, only_in_search_app=False)
        for field, meaning in _CACHE_GAUGES.items()
    },
}
"""By the field of `retrieval.cache.CacheStats`."""

ANSWERS = Family("course_search_answers_total", "counter", "Searches that were answered, of one course or of several.")
ANSWERS_OF_KIND = Family(
    "course_search_answers_of_kind_total",
    "counter",
    "Answers of a kind that may need attention. An answer may be of several kinds.",
    {
        "kind": "`degraded` (a part of the search was not possible), `stale` (something newer exists or is being "
        "made), `empty` (no results), `irrelevant` (answerable is false), `cut` (a part of the query was not searched)"
    },
)
SNAPSHOTS_MAPPED = Family("course_search_snapshots_mapped", "gauge", "Snapshot files that are mapped into memory.")
SNAPSHOTS_MAPPED_BYTES = Family(
    "course_search_snapshots_mapped_bytes", "gauge", "Size of these files. The system may drop their pages at any time."
)
SNAPSHOT_BUILDS = Family(
    "course_search_snapshot_builds_total",
    "counter",
    "Snapshots that this app built from the collection, because there was no file.",
    {
        "trigger": "`search`, or `fetch`: the thread that fetches new generations",
        "result": "`built`, `not_saved` (searched from memory, because the file cannot be written), `not_ready` (the "
        "collection is missing or being written) or `failed`",
    },
)
QUESTIONS_DROPPED = Family(
    "course_search_questions_dropped_total",
    "counter",
    "Questions and feedback that could not be written to the catalogue.",
)

CATALOGUE_UP = Family(
    "course_search_catalogue_up",
    "gauge",
    "1 if the catalogue answered for this scrape; otherwise 0, and all series that are read from it are absent.",
)
COURSES = Family(
    "course_search_courses",
    "gauge",
    f"Courses by embedding status. {_SAME_CATALOGUE}",
    {"status": "`not_started`, `pending`, `running`, `done`, `failed`; `other` for a value of another program"},
)
COURSES_FAILED = Family(
    "course_search_courses_failed",
    "gauge",
    f"Failed courses. {_SAME_CATALOGUE}",
    {"retry": "`scheduled`, or `none`: they stay failed until someone changes something"},
)
OLDEST_DUE_SECONDS = Family(
    "course_search_oldest_due_seconds",
    "gauge",
    "Seconds since the oldest course became due, that is, has content or a request that is not published; 0 if none "
    "is. Left out are failed courses without a scheduled retry, and courses whose files are being read. "
    f"{_SAME_CATALOGUE}",
)
UPLOADS = Family(
    "course_search_uploads",
    "gauge",
    f"Uploaded files by status. {_SAME_CATALOGUE}",
    {"status": "`pending`, `running`, `succeeded`, `failed`"},
)
OLDEST_UPLOAD_SECONDS = Family(
    "course_search_oldest_upload_seconds",
    "gauge",
    "Seconds that the oldest uploaded file has been pending, or in work without progress; 0 if none is. "
    f"{_SAME_CATALOGUE}",
)

_PIPELINE = f"The pipeline counts it in the catalogue. {_SAME_CATALOGUE}"
PIPELINE_FAMILIES = {
    name: Family(
        f"course_search_pipeline_{name}_total",
        "counter",
        f"{counter.meaning} {_PIPELINE}",
        {counter.label: ", ".join(f"`{kind}`" for kind in counter.kinds)} if counter.label else None,
    )
    for name, counter in COUNTERS.items()
}
"""By the name of the counter in the catalogue."""

FAMILIES: tuple[Family, ...] = (
    REQUEST_SECONDS,
    ERRORS,
    PHASE_SECONDS,
    ANSWERS,
    ANSWERS_OF_KIND,
    QUEUE_WAITING,
    QUEUE_WAIT_SECONDS,
    QUEUE_REFUSED,
    BATCH_TEXTS,
    BATCH_TOKENS,
    BATCH_SECONDS,
    BREAKER_OPEN,
    *CACHE_FAMILIES.values(),
    SNAPSHOTS_MAPPED,
    SNAPSHOTS_MAPPED_BYTES,
    SNAPSHOT_BUILDS,
    QUESTIONS_DROPPED,
    CATALOGUE_UP,
    COURSES,
    COURSES_FAILED,
    OLDEST_DUE_SECONDS,
    UPLOADS,
    OLDEST_UPLOAD_SECONDS,
    *PIPELINE_FAMILIES.values(),
)
"""All metrics, in the order of the reference."""
BY_NAME = {family.name.removesuffix("_total"): family for family in FAMILIES}
"""By the name that prometheus_client gives them."""

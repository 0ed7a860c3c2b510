"""The metrics that events update while requests are answered. Each object has a registry of its own.

The default registry of prometheus_client would be shared by all apps of a process. Updates take about a microsecond.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram

from search_api.operations import families


class QueueMeasures(NamedTuple):
    """What is measured of a queue of the embedding model."""

    wait_seconds: Histogram
    refused: Counter
    batch_texts: Histogram
    batch_tokens: Histogram
    batch_seconds: Histogram

    def computed(self, token_counts: tuple[int, ...], seconds: float) -> None:
        """The model has computed texts with these numbers of tokens together."""
        self.batch_texts.observe(len(token_counts))
        self.batch_tokens.observe(sum(token_counts))
        self.batch_seconds.observe(seconds)


class ModelMeasures:
    """What is measured of the embedding model of an app."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        histograms = (families.BATCH_TEXTS, families.BATCH_TOKENS, families.BATCH_SECONDS)
        wait, refused = (
            families.QUEUE_WAIT_SECONDS.histogram(self.registry),
            families.QUEUE_REFUSED.counter(self.registry),
        )
        batches = [family.histogram(self.registry) for family in histograms]

        def of(queue: str) -> QueueMeasures:
            return QueueMeasures(wait.labels(queue), refused.labels(queue), *(each.labels(queue) for each in batches))

        self.queries, self.bulk = of("queries"), of("bulk")


class SearchMeasures:
    """What is measured of searches and snapshots."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._answers = families.ANSWERS.counter(self.registry)
        of_kind = families.ANSWERS_OF_KIND.counter(self.registry)
        self._degraded, self._stale, self._empty, self._irrelevant, self._cut = (
            of_kind.labels(kind) for kind in ("degraded", "stale", "empty", "irrelevant", "cut")
        )
        builds = families.SNAPSHOT_BUILDS.counter(self.registry)
        self.snapshot_builds: Mapping[tuple[str, str], Counter] = {
            (trigger, result): builds.labels(trigger, result)
            for trigger in ("search", "fetch")
            for result in ("built", "not_saved", "not_ready", "failed")
        }
        """By what triggered the build, and its result."""

    def count_answer(self, answer: Mapping[str, Any]) -> None:
        """Count what is sent, as `SearchResponse` or `CoursesSearchResponse` documents it."""
        self._answers.inc()
        if answer["degraded"]:
            self._degraded.inc()
        if answer["stale"]:
            self._stale.inc()
        if not answer["results"]:
            self._empty.inc()
        if answer["answerable"] is False:
            self._irrelevant.inc()
        if answer["query_cut"]:
            self._cut.inc()


class RequestMeasures:
    """What is measured of the requests of an app.

    The series of known labels are kept in dictionaries, because `labels()` takes longer than the update.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        seconds = families.REQUEST_SECONDS.histogram(self.registry)
        phases = families.PHASE_SECONDS.histogram(self.registry)
        self._errors = families.ERRORS.counter(self.registry)
        self._seconds = _Series(lambda key: seconds.labels(*key))
        self._phases = _Series(phases.labels)

    def ended(
        self, route: str, status: int, seconds: float, error_code: str | None, phases: Mapping[str, float]
    ) -> None:
        """A request has ended.

        Args:
            route: The path template of its route.
            status: Its HTTP status.
            seconds: Its duration.
            error_code: The code of the error in its answer; None if there is none.
            phases: Seconds of its phases, by name.
        """
        self._seconds[route, status].observe(seconds)
        if error_code is not None:
            self._errors.labels(route, error_code).inc()
        for phase, value in phases.items():
            self._phases[phase].observe(value)


class _Series(dict[Any, Histogram]):
    """The series of a histogram by their labels."""

    def __init__(self, series: Callable[[Any], Histogram]) -> None:
        super().__init__()
        self._series = series

    def __missing__(self, labels: Any) -> Histogram:
        return self.setdefault(labels, self._series(labels))

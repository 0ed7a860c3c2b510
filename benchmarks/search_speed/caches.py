"""Benchmark of the caches, in process: opening a course, and requests with and without the caches."""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.search_speed.worker import RESULTS, Question
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.http.errors import EmbeddingNotReadyError, OverloadedError
from search_api.search.schemas import SearchRequest
from search_api.search.snapshots import SnapshotKey
from search_api.services import Services

logger = logging.getLogger(__name__)

MAX_OPENINGS, MAX_OPENING_SECONDS = 10, 5.0
MAX_BUILDS, MAX_BUILDING_SECONDS = 3, 5.0
HITS = 1000
MAX_REQUESTS_SECONDS = 30.0
"""Approximate time limit for all requests of a course."""
RETRY_SECONDS = 0.01


def measure_opening(services: Services, course_id: str, questions: Sequence[Question]) -> dict[str, float]:
    """Median milliseconds of the first search of a course.

    Returns:
        `search_ms` of a course that is open, `first_ms` of one that is not open but on disk, `load_ms` of the loading
        in it, `build_ms` of a search after the files on disk were deleted, and `hit_ms` of finding the course in the
        cache.
    """
    cache = services.caches["courses"]
    search = partial(_search, services, course_id, {"query": questions[0].text})
    search()
    searches = [_seconds(search) for _ in range(MAX_OPENINGS)]
    course = services.courses.published(course_id)
    key = SnapshotKey(course_id, course.embedding_generation, course.embedding_fingerprint)
    hits = [_seconds(lambda: cache.peek(key)) for _ in range(HITS)]
    if cache.peek(key) is None:
        raise RuntimeError("the course is not in the cache after a search")
    firsts: list[float] = []
    loads: list[float] = []
    while len(firsts) < MAX_OPENINGS and sum(firsts) < MAX_OPENING_SECONDS:
        cache.clear_cache()
        cache.clear_cache_stats()
        firsts.append(_seconds(search))
        loads.append(cache.get_cache_stats().load_seconds)
    builds: list[float] = []
    while len(builds) < MAX_BUILDS and sum(builds) < MAX_BUILDING_SECONDS:
        SnapshotStore(SnapshotSettings()).delete(course_id)
        cache.clear_cache()
        builds.append(_seconds(partial(wait_until_ready, search)))
    medians = {"search": searches, "first": firsts, "load": loads, "build": builds, "hit": hits}
    return {f"{name}_ms": _milliseconds(statistics.median(seconds)) for name, seconds in medians.items()}


def measure_requests(services: Services, course_id: str, questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """Seconds of 100 requests, with the caches and without, that is, with caches cleared before each request.

    There are 20 requests if 100 would take too long.

    Raises:
        RuntimeError: 20 requests would take too long, too.
    """

    def simple(number: int) -> None:
        _search(services, course_id, {"query": questions[number % len(questions)].text})

    def complex_(number: int) -> None:
        sections = [questions[(number + step) % len(questions)].section for step in range(3)]
        filters = {"section_id": sections}
        request = {"query": questions[number % len(questions)].text, "filters": filters, "context": 2}
        _search(services, course_id, request)

    def total_seconds(request: Callable[[int], None], requests: int, cold: int) -> float:
        """Seconds of all requests. The caches are cleared before `cold` of them, evenly spread."""
        seconds = 0.0
        for number in range(requests):
            if number * cold // requests != (number - 1) * cold // requests:
                _clear_caches(services)
            seconds += _seconds(partial(request, number))
        return round(seconds, 4)

    _clear_caches(services)
    cold_seconds = _seconds(partial(simple, 0))
    for requests, cold in ((100, 15), (20, 3)):
        if cold_seconds * (2 * requests + cold) < MAX_REQUESTS_SECONDS:
            break
    else:
        raise RuntimeError(f"a first search takes {cold_seconds:.1f} s, which is too long for 20 requests")
    figures = {}
    for name, request, cold_of_kind in (("simple", simple, cold), ("complex", complex_, 0)):
        total_seconds(request, requests, 0)  # analyses the texts for their highlights, which these caches do not save
        figures[name] = {
            "requests": requests,
            "cold": cold_of_kind,
            "with_cache_s": total_seconds(request, requests, cold_of_kind),
            "without_s": total_seconds(request, requests, requests),
        }
    return figures


def _clear_caches(services: Services) -> None:
    for name in ("courses", "queries"):
        services.caches[name].clear_cache()


def wait_until_ready(search: Callable[[], object]) -> None:
    """Search until the course is loaded. The process that gives the commands has a time limit."""
    last_message = ""
    while True:
        try:
            search()
        except (EmbeddingNotReadyError, OverloadedError) as error:
            if error.message != last_message:
                last_message = error.message
                logger.warning("%s", last_message)
            time.sleep(RETRY_SECONDS)
        else:
            return


def _search(services: Services, course_id: str, body: Mapping[str, Any]) -> None:
    request = SearchRequest.model_validate({"top_k": RESULTS, **body})
    if degraded := services.search.search(course_id, request)["degraded"]:
        raise RuntimeError(degraded)


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 4)

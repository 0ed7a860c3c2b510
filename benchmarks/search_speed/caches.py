"""What the caches save, in process: loading a course, requests of which some are cold, and demanding ones."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.search_speed.worker import RESULTS, Question
from search_api.search.schemas import SearchRequest
from search_api.search.service import IndexKey
from search_api.services import Services

LOADS, LOADING_SECONDS = 5, 10.0
HITS = 1000
REQUESTS, COLD = 100, 15


def measure_loading(services: Services, course_id: str, questions: Sequence[Question]) -> dict[str, float]:
    """How long a course takes to load, and how long to be found in the cache; medians, in milliseconds."""
    cache, course = services.caches["courses"], services.courses.published(course_id)
    key = IndexKey(course_id, course.embedding_generation, course.embedding_fingerprint)
    loads: list[float] = []
    while len(loads) < LOADS and sum(loads) < LOADING_SECONDS:
        cache.clear_cache()
        cache.clear_cache_stats()
        services.search.search(course_id, SearchRequest(query=[questions[0].text]))
        while cache.peek(key) is None:  # a search does not wait long for a large course
            time.sleep(0.01)
        loads.append(cache.get_cache_stats().load_seconds)
    hits = [_seconds(lambda: cache.peek(key)) for _ in range(HITS)]
    return {"load_ms": _milliseconds(statistics.median(loads)), "hit_ms": _milliseconds(statistics.median(hits))}


def measure_requests(services: Services, course_id: str, questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """How long 100 requests take, with the cache and without it, which means emptied before each of them."""

    def simple(number: int) -> None:
        _search(services, course_id, {"query": questions[number % len(questions)].text})

    def demanding(number: int) -> None:
        sections = [questions[(number + step) % len(questions)].section for step in range(3)]
        filters = {"section_id": sections}
        request = {"query": questions[number % len(questions)].text, "filters": filters, "context": 2}
        _search(services, course_id, request)

    def series(request: Callable[[int], None], cold: int) -> float:
        """Seconds of all requests, `cold` of which, evenly spread, find the caches empty."""
        seconds = 0.0
        for number in range(REQUESTS):
            if number * cold // REQUESTS != (number - 1) * cold // REQUESTS:
                for name in ("courses", "queries"):
                    services.caches[name].clear_cache()
            seconds += _seconds(partial(request, number))
        return round(seconds, 4)

    simple(0)
    return {
        "simple": {
            "requests": REQUESTS,
            "cold": COLD,
            "with_cache_s": series(simple, COLD),
            "without_s": series(simple, REQUESTS),
        },
        "demanding": {
            "requests": REQUESTS,
            "cold": 0,
            "with_cache_s": series(demanding, 0),
            "without_s": series(demanding, REQUESTS),
        },
    }


def _search(services: Services, course_id: str, body: Mapping[str, Any]) -> None:
    request = SearchRequest.model_validate({"top_k": RESULTS, **body})
    if degraded := services.search.search(course_id, request).degraded:
        raise RuntimeError(degraded)


def _seconds(call: Callable[[], Any]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _milliseconds(seconds: float) -> float:
    return round(seconds * 1000, 4)

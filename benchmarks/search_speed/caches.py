"""Benchmark of the time that the caches save, in process: loading a course, simple requests, and expensive requests."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from benchmarks.search_speed.worker import RESULTS, Question
from search_api.search import service
from search_api.search.schemas import SearchRequest
from search_api.search.service import IndexKey
from search_api.services import Services

MAX_LOADS, MAX_LOADING_SECONDS = 5, 10.0
HITS = 1000
REQUESTS, COLD_REQUESTS = 100, 15


def measure_loading(services: Services, course_id: str, questions: Sequence[Question]) -> dict[str, float]:
    """Median milliseconds of loading a course and of a cache hit."""
    cache, course = services.caches["courses"], services.courses.published(course_id)
    key = IndexKey(course_id, course.embedding_generation, course.embedding_fingerprint)
    loads: list[float] = []
    while len(loads) < MAX_LOADS and sum(loads) < MAX_LOADING_SECONDS:
        cache.clear_cache()
        cache.clear_cache_stats()
        services.search.search(course_id, SearchRequest(query=[questions[0].text]))
        while cache.peek(key) is None:  # a search answers before a large course is loaded
            time.sleep(0.01)
        loads.append(cache.get_cache_stats().load_seconds)
    hits = [_seconds(lambda: cache.peek(key)) for _ in range(HITS)]
    return {"load_ms": _milliseconds(statistics.median(loads)), "hit_ms": _milliseconds(statistics.median(hits))}


def measure_requests(services: Services, course_id: str, questions: Sequence[Question]) -> dict[str, dict[str, float]]:
    """Seconds of 100 requests, with the caches and without, that is, with caches cleared before each request."""

    def simple(number: int) -> None:
        _search(services, course_id, {"query": questions[number % len(questions)].text})

    def expensive(number: int) -> None:
        sections = [questions[(number + step) % len(questions)].section for step in range(3)]
        filters = {"section_id": sections}
        request = {"query": questions[number % len(questions)].text, "filters": filters, "context": 2}
        _search(services, course_id, request)

    def total_seconds(request: Callable[[int], None], cold: int) -> float:
        """Seconds of all requests. The caches are cleared before `cold` of them, evenly spread."""
        seconds = 0.0
        for number in range(REQUESTS):
            if number * cold // REQUESTS != (number - 1) * cold // REQUESTS:
                for name in ("courses", "queries"):
                    services.caches[name].clear_cache()
            seconds += _seconds(partial(request, number))
        return round(seconds, 4)

    service.LOAD_PATIENCE_SECONDS = 60.0  # Chroma must not answer instead, however busy the machine is
    simple(0)
    return {
        "simple": {
            "requests": REQUESTS,
            "cold": COLD_REQUESTS,
            "with_cache_s": total_seconds(simple, COLD_REQUESTS),
            "without_s": total_seconds(simple, REQUESTS),
        },
        "expensive": {
            "requests": REQUESTS,
            "cold": 0,
            "with_cache_s": total_seconds(expensive, 0),
            "without_s": total_seconds(expensive, REQUESTS),
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

"""Prometheus metrics at `/metrics`: request durations, cache statistics and dropped questions.

Each app has a separate registry instead of the default one of prometheus_client, which all apps of a process would
share. Cache statistics are read from the caches on each request to `/metrics`.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from retrieval.cache import InstanceCache
from search_api.http.dependencies import AppModelServices
from search_api.questions.service import QueryLog
from search_api.services import Services

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds in seconds: from a search with a cached query to a slow search on a CPU."""

NO_ROUTE = "none"
"""Label of static files, unknown paths and requests refused before routing. It bounds the number of series."""

_CACHE_COUNTERS = {
    "hits": "Lookups that found the value in the cache.",
    "misses": "Lookups that did not find the value in the cache.",
    "evictions": "Values removed to make room for others.",
    "expirations": "Values removed because their time to live ended.",
    "loads": "Loads that succeeded.",
    "load_failures": "Loads that failed.",
    "load_seconds": "Total seconds of successful loads.",
}
_CACHE_GAUGES = {
    "entries": "Values in the cache.",
    "max_entries": "Maximum number of values in the cache.",
}


def add_metrics(app: FastAPI) -> None:
    """Measure all requests and serve `/metrics`, which is not in the OpenAPI document."""
    registry = CollectorRegistry()
    seconds = Histogram(
        "course_search_http_request_duration_seconds",
        "Seconds until the last byte of the response was sent.",
        ["route", "status"],
        buckets=BUCKETS,
        registry=registry,
    )
    app.add_middleware(RequestMetricsMiddleware, seconds=seconds)

    @app.get("/metrics", include_in_schema=False)
    def metrics(services: AppModelServices) -> Response:
        texts = [generate_latest(registry), generate_latest(CacheCollector(services.caches))]
        if isinstance(services, Services):
            texts.append(generate_latest(DroppedQuestionCollector(services.questions)))
        return Response(b"".join(texts), media_type=CONTENT_TYPE_LATEST)


class RequestMetricsMiddleware:
    """Counts and times requests. It is the outermost middleware, so it includes requests that others refuse."""

    def __init__(self, app: ASGIApp, seconds: Histogram) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and measure it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500  # the server's answer to an exception without a handler

        async def send_and_record_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self.app(scope, receive, send_and_record_status)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self.seconds.labels(route, status).observe(time.perf_counter() - started)


class CacheCollector(Collector):
    """Cache statistics as Prometheus metric families, labelled with the name of the cache."""

    def __init__(self, caches: Mapping[str, InstanceCache[Any, Any]]) -> None:
        self._caches = caches

    def collect(self) -> Iterator[Metric]:
        """The current statistics; each cache is read once, so its values are consistent."""
        stats = {name: cache.get_cache_stats() for name, cache in self._caches.items()}
        for family, fields in ((CounterMetricFamily, _CACHE_COUNTERS), (GaugeMetricFamily, _CACHE_GAUGES)):
            for field, meaning in fields.items():
                metric = family(f"course_search_cache_{field}", meaning, labels=["cache"])
                for name, figures in stats.items():
                    metric.add_metric([name], getattr(figures, field))
                yield metric


class DroppedQuestionCollector(Collector):
    """How many questions and feedback could not be recorded, although QUERY_LOG is on."""

    def __init__(self, questions: QueryLog) -> None:
        self._questions = questions

    def collect(self) -> Iterator[Metric]:
        """The current number."""
        yield CounterMetricFamily(
            "course_search_questions_dropped",
            "Questions and feedback that could not be written to the catalogue.",
            value=self._questions.dropped,
        )

"""Metrics for Prometheus, at `/metrics`: how long requests take, and how the caches do.

Each app has its own; Prometheus' usual registry is one for the whole process. The caches count for themselves and are
asked when somebody reads the metrics.
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

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Seconds: a search takes milliseconds on a GPU, tenths of a second on a CPU, and longer while a model is loaded."""

NO_ROUTE = "none"
"""Stands for files, unknown paths and what is refused before it reaches a route: they must not make a label each."""

_CACHE_COUNTERS = {
    "hits": "Look-ups that found their value.",
    "misses": "Look-ups that did not find their value.",
    "evictions": "Values that made way for others.",
    "expirations": "Values that became too old.",
    "loads": "Loads that succeeded.",
    "load_failures": "Loads that failed.",
    "load_seconds": "Seconds that successful loads took.",
    "too_large": "Values larger than the whole cache, which were not kept.",
}
_CACHE_GAUGES = {
    "entries": "Values that are kept.",
    "bytes": "Bytes that the kept values add up to.",
    "max_entries": "How many values are kept at most.",
}


def add_metrics(app: FastAPI) -> None:
    """Measure every request from now on, and serve the metrics; they are no part of the API's schema."""
    registry = CollectorRegistry()
    seconds = Histogram(
        "course_search_http_request_duration_seconds",
        "Seconds until the last byte of the answer was handed over.",
        ["route", "status"],
        buckets=BUCKETS,
        registry=registry,
    )
    app.add_middleware(RequestMetricsMiddleware, seconds=seconds)

    @app.get("/metrics", include_in_schema=False)
    def metrics(services: AppModelServices) -> Response:
        caches = CacheCollector(services.caches)
        return Response(generate_latest(registry) + generate_latest(caches), media_type=CONTENT_TYPE_LATEST)


class RequestMetricsMiddleware:
    """Outside of all others, so that it sees what they refuse too."""

    def __init__(self, app: ASGIApp, seconds: Histogram) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and measure it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500  # what the server answers to an error that nobody handles

        async def send_noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        started = time.perf_counter()
        try:
            await self.app(scope, receive, send_noting_status)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self.seconds.labels(route, status).observe(time.perf_counter() - started)


class CacheCollector(Collector):
    """The statistics of caches as Prometheus' families, one label a cache."""

    def __init__(self, caches: Mapping[str, InstanceCache[Any, Any]]) -> None:
        self._caches = caches

    def collect(self) -> Iterator[Metric]:
        """What the caches have counted up to now; those of one cache belong to one moment."""
        stats = {name: cache.get_cache_stats() for name, cache in self._caches.items()}
        for family, fields in ((CounterMetricFamily, _CACHE_COUNTERS), (GaugeMetricFamily, _CACHE_GAUGES)):
            for field, meaning in fields.items():
                metric = family(f"course_search_cache_{field}", meaning, labels=["cache"])
                for name, figures in stats.items():
                    metric.add_metric([name], getattr(figures, field))
                yield metric

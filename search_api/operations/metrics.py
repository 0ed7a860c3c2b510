"""Prometheus metrics at `/metrics`: what events counted, and what is read for each scrape.

Each app has registries of its own instead of the default one of prometheus_client, which all apps of a process would
share. `search_api.operations.families` lists the metrics.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from fastapi import FastAPI, Request
from prometheus_client import CONTENT_TYPE_LATEST, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.overview import Overview
from models.tables import EmbeddingStatus, ResourceStatus
from search_api.http.dependencies import AppModelServices
from search_api.http.error_responses import ERROR_CODE
from search_api.http.server_timing import PHASES
from search_api.operations import families
from search_api.operations.measures import RequestMeasures
from search_api.operations.processes import AllProcesses, are_several
from search_api.services import ModelServices, Services

NO_ROUTE = "none"
"""Label of static files, unknown paths and requests refused before routing. It bounds the number of series."""
OTHER_STATUS = "other"


def add_metrics(app: FastAPI) -> None:
    """Measure all requests and serve `/metrics`, which is not in the OpenAPI document."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # series that Prometheus does not need
    requests = RequestMeasures()
    app.add_middleware(RequestMetricsMiddleware, measures=requests)

    @app.get("/metrics", include_in_schema=False)
    async def metrics(request: Request, services: AppModelServices) -> Response:
        collectors: list[Collector] = [requests.registry, services.embedding.measures.registry, *_read(services)]
        if isinstance(services, Services):
            collectors.append(services.measures.registry)
        if processes := request.state.processes:
            collectors = [processes]
        if isinstance(services, Services):
            collectors.append(CatalogueCollector(await services.catalogue_reader.overview()))
        # On a thread, because it takes milliseconds; not on one of those that answer requests, which may all wait.
        texts = await asyncio.to_thread(lambda: [generate_latest(collector) for collector in collectors])
        return Response(b"".join(texts), media_type=CONTENT_TYPE_LATEST)


@contextmanager
def shared_metrics(services: ModelServices) -> Iterator[AllProcesses | None]:
    """Share the metrics with the other processes of the app during the block; None if there are none."""
    if not are_several():
        yield None
        return
    processes = AllProcesses(_read(services))
    with processes.copied():
        yield processes


def _read(services: ModelServices) -> list[Collector]:
    """What is read for each scrape, and differs from process to process."""
    return [ModelCollector(services), *([SearchCollector(services)] if isinstance(services, Services) else [])]


class RequestMetricsMiddleware:
    """Counts and times requests. It is the outermost middleware, so it includes requests that others refuse."""

    def __init__(self, app: ASGIApp, measures: RequestMeasures) -> None:
        self.app = app
        self.measures = measures

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
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            self.measures.ended(route, status, seconds, scope.get(ERROR_CODE), scope.get(PHASES, {}))


class ModelCollector(Collector):
    """The present state of the embedding model and of the caches."""

    def __init__(self, services: ModelServices) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """Each cache is read once, so its values are consistent."""
        embedding = self._services.embedding
        yield families.QUEUE_WAITING.read({(queue,): number for queue, number in embedding.waiting.items()})
        yield families.BREAKER_OPEN.read({(): embedding.is_known_to_be_away})
        stats = {name: cache.get_cache_stats() for name, cache in self._services.caches.items()}
        for field, family in families.CACHE_FAMILIES.items():
            yield family.read({(name,): getattr(figures, field) for name, figures in stats.items()})


class SearchCollector(Collector):
    """The present state of the snapshots, and how many questions could not be recorded, although QUERY_LOG is on."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def collect(self) -> Iterator[Metric]:
        """The current numbers."""
        number, size = self._services.snapshots.mapped()
        yield families.SNAPSHOTS_MAPPED.read({(): number})
        yield families.SNAPSHOTS_MAPPED_BYTES.read({(): size})
        yield families.QUESTIONS_DROPPED.read({(): self._services.questions.dropped})


class CatalogueCollector(Collector):
    """What the catalogue says, if it answered.

    Args:
        overview: The state of the courses and the counters of the pipeline; None if it did not answer.
    """

    def __init__(self, overview: Overview | None) -> None:
        self._overview = overview

    def collect(self) -> Iterator[Metric]:
        """The state that was read, with the age of what is due now."""
        overview = self._overview
        yield families.CATALOGUE_UP.read({(): overview is not None})
        if overview is None:
            return
        courses = dict.fromkeys(EmbeddingStatus, 0)
        others = sum(number for status, number in overview.courses.items() if status not in courses)
        known = {status: overview.courses.get(status, 0) for status in courses}
        yield families.COURSES.read(
            {**{(str(status),): number for status, number in known.items()}, (OTHER_STATUS,): others}
        )
        scheduled = known[EmbeddingStatus.FAILED] - overview.given_up
        yield families.COURSES_FAILED.read({("scheduled",): scheduled, ("none",): overview.given_up})
        yield families.OLDEST_DUE_SECONDS.read({(): _age(overview.due_since)})
        yield families.UPLOADS.read({(str(status),): overview.uploads.get(status, 0) for status in ResourceStatus})
        yield families.OLDEST_UPLOAD_SECONDS.read({(): _age(overview.waiting_since)})
        for name, family in families.PIPELINE_FAMILIES.items():
            values = {kind: value for (counter, kind), value in overview.counters.items() if counter == name}
            yield family.read({(kind,) if kind else (): value for kind, value in values.items()})


def _age(since: datetime | None) -> float:
    """Seconds since a time; 0 if there is none, or if a clock is ahead."""
    return 0.0 if since is None else max(0.0, (datetime.now(UTC) - since).total_seconds())

"""App factories, which `cli.web_server` serves: `create_app` and `create_embedding_app`.

The search app loads the embedding model into its process, unless EMBEDDING_SERVICE_URL is set. The embedding app
serves only that model, as the embedding service of search apps and pipelines on other machines.
"""

from collections.abc import AsyncIterator, Callable, Mapping, MutableMapping, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from functools import cache
from importlib.metadata import version
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from documents.settings import DocumentSettings
from search_api.app_settings import SearchSettings
from search_api.courses.routes import router as course_routes
from search_api.embeddings.routes import openai_router as openai_routes
from search_api.embeddings.routes import router as embedding_routes
from search_api.http.allowed_hosts import AllowedHosts, LoopbackHostMiddleware
from search_api.http.auth import InternalTokenMiddleware, without_token
from search_api.http.body_limit import RequestSizeMiddleware
from search_api.http.browser_headers import BrowserHeadersMiddleware
from search_api.http.cors import CorsMiddleware, CrossOriginMiddleware
from search_api.http.error_responses import add_error_handlers, answer_error
from search_api.http.head import HeadMiddleware
from search_api.http.overload import OverloadMiddleware
from search_api.http.request_id import RequestIdMiddleware
from search_api.http.root_path import RootPathMiddleware
from search_api.http.server_timing import ServerTimingMiddleware
from search_api.http.stop_signal import on_stop_signal
from search_api.http.waits import MOST_IN_CATALOGUE
from search_api.logs import configure_logging
from search_api.operations.caches import router as cache_routes
from search_api.operations.health import app_readiness, liveness, model_readiness
from search_api.operations.metrics import add_metrics, shared_metrics
from search_api.page.routes import add_page
from search_api.questions.routes import router as question_routes
from search_api.reranking import service as reranking
from search_api.reranking.routes import router as rerank_routes
from search_api.resources.routes import router as resource_routes
from search_api.resources.routes import upload_router as upload_routes
from search_api.search import snapshots
from search_api.search.chunk_route import router as chunk_routes
from search_api.search.routes import router as search_routes
from search_api.search.routes import several_router as several_courses_routes
from search_api.services import ModelServices, Services, open_model_services, open_services
from telemetry.traces import flush, start_tracing

_CONVENTIONS = """
Every error is `{"error": {"code": "…", "message": "…"}}`: programs use the code, the message is for people.
If INTERNAL_TOKEN is set, every request must send it in the header `X-Internal-Token`, or as a bearer token
(button *Authorize*).
"""
DESCRIPTION = f"""
Searches embedded courses, triggers embeddings and reports their progress.
{_CONVENTIONS}"""
EMBEDDING_DESCRIPTION = f"""
Computes embedding vectors of texts.
{_CONVENTIONS}"""

PROBES = ("/healthz", "/readyz", "/metrics", "/v1/models")
"""Paths without traces: they are asked every few seconds, and tell nothing. The pipeline asks for the models."""

Running = Callable[[ASGIApp, Mapping[str, Any], SearchSettings], AbstractAsyncContextManager[Mapping[str, Any]]]
"""Runs a part of an app, given the state of its requests, and yields more of that state."""


def _is_probe(scope: MutableMapping[str, Any]) -> bool:
    return str(scope["path"]).endswith(PROBES)


@asynccontextmanager
async def _nothing(
    _app: ASGIApp, _state: Mapping[str, Any], _settings: SearchSettings
) -> AsyncIterator[dict[str, Any]]:
    yield {}


def create_app(
    settings: SearchSettings | None = None,
    services: Callable[[SearchSettings], AbstractContextManager[Services]] = open_services,
) -> FastAPI:
    """The search app. Its services are opened when the server starts and closed when it stops.

    Args:
        settings: Read from the environment by default.
        services: Opens the services that the routes use.

    Raises:
        pydantic.ValidationError: A setting is invalid.
    """
    from search_api.mcp.endpoint import McpRoute, running_tools  # takes half a second, and only this app needs it

    settings = settings or SearchSettings()
    app = _new_app(
        "Course search",
        DESCRIPTION,
        settings,
        services,
        search_routes.routes,
        service_name="course-search-api",
        running=running_tools,
    )
    app.include_router(chunk_routes)
    app.include_router(several_courses_routes)
    app.include_router(upload_routes)
    app.include_router(resource_routes)
    app.include_router(course_routes)
    app.include_router(embedding_routes)
    app.include_router(openai_routes)
    app.include_router(rerank_routes)
    app.include_router(question_routes)
    app.include_router(cache_routes)
    app.include_router(liveness)
    app.include_router(app_readiness)
    app.routes.append(McpRoute(settings))
    add_page(app)
    return app


def create_embedding_app(
    settings: SearchSettings | None = None,
    services: Callable[[SearchSettings], AbstractContextManager[ModelServices]] = open_model_services,
) -> FastAPI:
    """The embedding app; arguments and errors are the same as for `create_app`."""
    app = _new_app(
        "Course search: embedding",
        EMBEDDING_DESCRIPTION,
        settings or SearchSettings(),
        services,
        service_name="course-search-embedding",
    )
    app.include_router(embedding_routes)
    app.include_router(openai_routes)
    app.include_router(liveness)
    app.include_router(model_readiness)
    return app


def _new_app(
    title: str,
    description: str,
    settings: SearchSettings,
    services: Callable[[SearchSettings], AbstractContextManager[ModelServices]],
    first_routes: Sequence[BaseRoute] = (),
    *,
    service_name: str,
    running: Running = _nothing,
) -> FastAPI:
    """An app with token check, body limit, error handlers and metrics.

    `first_routes` are compared first. `running` runs while the app does, and yields what its route needs in the state.
    `service_name` is the default in traces.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        with (
            services(settings) as opened,
            on_stop_signal(opened.embedding.stop_bulk),
            shared_metrics(opened) as processes,
        ):
            state = {"services": opened, "processes": processes}
            async with running(app, state, settings) as part:
                yield {**state, **part}
        await anyio.to_thread.run_sync(flush)

    configure_logging(log_queries=settings.log_queries)  # here, because the server logs its start before the lifespan
    tracing = start_tracing(service_name)
    most_waiting = (
        2 * (settings.embedding_queue_limit + 1) + reranking.QUEUE_LIMIT + 1 + snapshots.MAX_WAITING + MOST_IN_CATALOGUE
    )
    hosts = AllowedHosts(settings.mcp_allowed_hosts)
    app = FastAPIOffline(
        title=title,
        version=version("course-search"),
        description=description.strip(),
        lifespan=lifespan,
        routes=list(first_routes),
        telemetry={
            "tracing": tracing is not None,
            "tracer_provider": tracing,
            "exclude": _is_probe,
            "operation_spans": False,  # each dependency and the validation of each answer
            "metrics": False,  # each request would look for a provider
            "logs": False,
            "auto_configure": False,
        },
        middleware=[  # outermost first: the token check needs the path, and comes before the body is read
            Middleware(RequestIdMiddleware),
            Middleware(ServerTimingMiddleware),
            *([Middleware(CorsMiddleware, origins=settings.allowed_origins)] if settings.allowed_origins else []),
            Middleware(BrowserHeadersMiddleware),
            Middleware(ServerErrorMiddleware, handler=answer_error),  # within those that add headers to each answer
            *([] if settings.tokens else [Middleware(LoopbackHostMiddleware, hosts=hosts)]),
            Middleware(CrossOriginMiddleware, origins=settings.allowed_origins),
            Middleware(RootPathMiddleware),
            Middleware(InternalTokenMiddleware, tokens=settings.tokens),
            Middleware(OverloadMiddleware, most_waiting=most_waiting),
            Middleware(
                RequestSizeMiddleware,
                max_bytes=settings.max_request_bytes,
                max_upload_bytes=DocumentSettings().upload_max_bytes,
            ),
        ],
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        redoc_url=None,
        static_url="/docs/static",
    )
    if not settings.tokens:
        complete = app.openapi
        app.openapi = cache(lambda: without_token(complete()))  # type: ignore[method-assign]
    add_metrics(app)
    app.add_middleware(HeadMiddleware)  # outermost, because it changes what all others see
    add_error_handlers(app)
    return app

"""App factories, for `uvicorn --factory search_api.app:create_app` or `…:create_embedding_app`.

The search app loads the embedding model into its process, unless EMBEDDING_SERVICE_URL is set. The embedding app
serves only that model, as the embedding service of search apps and pipelines on other machines.
"""

import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypedDict

import anyio.to_thread
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware
from starlette.routing import BaseRoute

from search_api.app_settings import SearchSettings
from search_api.courses.routes import router as course_routes
from search_api.embeddings.routes import openai_router as openai_routes
from search_api.embeddings.routes import router as embedding_routes
from search_api.http.auth import InternalTokenMiddleware
from search_api.http.body_limit import RequestSizeMiddleware
from search_api.http.error_responses import add_error_handlers
from search_api.http.root_path import RootPathMiddleware
from search_api.http.stop_signal import on_stop_signal
from search_api.operations.caches import router as cache_routes
from search_api.operations.health import app_readiness, liveness, model_readiness
from search_api.operations.metrics import add_metrics
from search_api.page.routes import add_page
from search_api.reranking import service as reranking
from search_api.search.routes import router as search_routes
from search_api.services import ModelServices, Services, open_model_services, open_services

_CONVENTIONS = """
Every error is `{"error": {"code": "…", "message": "…"}}`: programs use the code, the message is for people.
If INTERNAL_TOKEN is set, every request must send it in the header `X-Internal-Token` (button *Authorize*).
"""
DESCRIPTION = f"""
Searches embedded courses, triggers embeddings and reports their progress.
{_CONVENTIONS}"""
EMBEDDING_DESCRIPTION = f"""
Computes embedding vectors of texts.
{_CONVENTIONS}"""


class _State(TypedDict):
    services: ModelServices


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
    app = _new_app("Course search", DESCRIPTION, settings or SearchSettings(), services, search_routes.routes)
    app.include_router(course_routes)
    app.include_router(embedding_routes)
    app.include_router(openai_routes)
    app.include_router(cache_routes)
    app.include_router(liveness)
    app.include_router(app_readiness)
    add_page(app)
    return app


def create_embedding_app(
    settings: SearchSettings | None = None,
    services: Callable[[SearchSettings], AbstractContextManager[ModelServices]] = open_model_services,
) -> FastAPI:
    """The embedding app; arguments and errors are the same as for `create_app`."""
    app = _new_app("Course search: embedding", EMBEDDING_DESCRIPTION, settings or SearchSettings(), services)
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
) -> FastAPI:
    """An app with token check, body limit, error handlers and metrics; `first_routes` are compared first."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[_State]:
        _configure_logging()
        # Each call that waits for a model blocks a thread. Extra threads leave the default number to other calls.
        waiting = 2 * settings.embedding_queue_limit + reranking.QUEUE_LIMIT
        anyio.to_thread.current_default_thread_limiter().total_tokens += waiting
        with services(settings) as opened, on_stop_signal(opened.embedding.stop_bulk):
            yield {"services": opened}

    app = FastAPIOffline(
        title=title,
        version="1",
        description=description.strip(),
        lifespan=lifespan,
        routes=list(first_routes),
        telemetry={"tracing": False, "metrics": False, "logs": False},  # each request would look for providers
        middleware=[  # outermost first: the token check needs the path, and comes before the body is read
            Middleware(RootPathMiddleware),
            Middleware(InternalTokenMiddleware, token=settings.internal_token),
            Middleware(RequestSizeMiddleware, max_bytes=settings.max_request_bytes),
        ],
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        redoc_url=None,
        static_url="/docs/static",
    )
    add_metrics(app)
    add_error_handlers(app)
    return app


def _configure_logging() -> None:
    """Log the product's packages at INFO level, unless logging is already configured."""
    if not logging.getLogger().handlers:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        for package in ("embedding", "retrieval", "search_api"):
            logging.getLogger(package).setLevel(logging.INFO)

"""The search app, built by a factory: `uvicorn --factory search_api.app:create_app`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from typing import TypedDict

import anyio.to_thread
from fastapi import FastAPI
from fastapi_offline import FastAPIOffline
from starlette.middleware import Middleware

from search_api import caches, rerank_service, routes
from search_api.auth import InternalTokenMiddleware
from search_api.error_responses import add_error_handlers
from search_api.limits import RequestSizeMiddleware
from search_api.metrics import add_metrics
from search_api.page import add_page
from search_api.services import Services, open_services
from search_api.settings import SearchSettings

DESCRIPTION = """
Searches the courses that have been embedded, and triggers and follows their embedding.

Every error is `{"error": {"code": "…", "message": "…"}}`: decide by the code, show the message to people.
Where the app runs with INTERNAL_TOKEN, every call carries it in `X-Internal-Token` (button *Authorize*).
"""


class _State(TypedDict):
    services: Services


def create_app(
    settings: SearchSettings | None = None,
    services: Callable[[SearchSettings], AbstractContextManager[Services]] = open_services,
) -> FastAPI:
    """The app; its services are opened when the server starts it and closed when it stops.

    Args:
        settings: From the environment unless given.
        services: Opens what the routes work with.

    Raises:
        pydantic.ValidationError: a setting has no valid value.
    """
    settings = settings or SearchSettings()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[_State]:
        # Calls that wait for a model must not use up the threads the others need.
        waiting = settings.embedding_queue_limit + rerank_service.QUEUE_LIMIT
        anyio.to_thread.current_default_thread_limiter().total_tokens += waiting
        with services(settings) as opened:
            yield {"services": opened}

    app = FastAPIOffline(
        title="Course search",
        version="1",
        description=DESCRIPTION.strip(),
        lifespan=lifespan,
        middleware=[  # outermost first: who may not call may not send a body either
            Middleware(InternalTokenMiddleware, token=settings.internal_token),
            Middleware(RequestSizeMiddleware, max_bytes=settings.max_request_bytes),
        ],
        generate_unique_id_function=lambda route: route.name,
        redirect_slashes=False,
        redoc_url=None,
        static_url="/docs/static",
    )
    app.include_router(routes.api)
    app.include_router(caches.api)
    app.include_router(routes.health)
    add_page(app)
    add_metrics(app)
    add_error_handlers(app)
    return app

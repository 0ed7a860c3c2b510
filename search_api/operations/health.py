"""Health probes.

The liveness probe is `async`: it needs no thread, so it answers even while all threads are blocked.
"""

from collections.abc import Callable
from typing import TypeVar

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from embedding.errors import EmbeddingError
from embedding.vector_store.errors import VectorStoreError
from models.database import DatabaseUnavailableError
from search_api.http.dependencies import AppModelServices, AppServices
from search_api.http.error_responses import error_body, openapi_responses
from search_api.http.errors import ApiError, NotReadyError
from search_api.operations.schemas import (
    Alive,
    Component,
    Components,
    ModelComponents,
    ModelNotReadyResponse,
    ModelReadiness,
    NotReadyResponse,
    Readiness,
)

_NOT_READY = openapi_responses(NotReadyError)[503]

R = TypeVar("R", Readiness, ModelReadiness)

liveness = APIRouter(tags=["health"])
app_readiness = APIRouter(tags=["health"])
model_readiness = APIRouter(tags=["health"])


@liveness.get("/healthz", summary="Liveness")
async def alive() -> Alive:
    """The process is running. Dependencies are not checked."""
    return Alive()


@app_readiness.get(
    "/readyz",
    summary="Readiness",
    responses={503: {**_NOT_READY, "model": NotReadyResponse}},
    response_model=Readiness,
)
def ready(services: AppServices) -> Readiness | JSONResponse:
    """Check the course database, the vector store and the embedding model."""
    return _answer(
        Readiness(
            components=Components(
                catalogue=_state(services.courses.check),
                vector_store=_state(services.vector_store.check),
                model=_state(services.embedding.check),
            )
        )
    )


@model_readiness.get(
    "/readyz",
    summary="Readiness",
    responses={503: {**_NOT_READY, "model": ModelNotReadyResponse}},
    response_model=ModelReadiness,
)
def model_ready(services: AppModelServices) -> ModelReadiness | JSONResponse:
    """Check the embedding model."""
    return _answer(ModelReadiness(components=ModelComponents(model=_state(services.embedding.check))))


def _answer(readiness: R) -> R | JSONResponse:
    states = readiness.components.model_dump()
    failed = [f"{name}: {state['message']}" for name, state in states.items() if not state["ok"]]
    if not failed:
        return readiness
    return JSONResponse(
        error_body(NotReadyError("; ".join(failed))) | readiness.model_dump(),
        NotReadyError.status,
    )


def _state(check: Callable[[], object]) -> Component:
    try:
        check()
    except (DatabaseUnavailableError, EmbeddingError, VectorStoreError, ApiError) as error:
        return Component(ok=False, message=str(error))
    return Component(ok=True, message="")

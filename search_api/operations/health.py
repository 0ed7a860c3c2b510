"""Health probes.

They need none of the threads that answer requests, so they answer even while all of these are blocked.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from embedding.errors import EmbeddingError
from embedding.vector_store.errors import VectorStoreError
from models.database import DatabaseUnavailableError
from search_api.http.dependencies import AppModelServices, AppServices
from search_api.http.error_responses import error_response, openapi_responses
from search_api.http.errors import ApiError, NotReadyError
from search_api.operations.checks import CHECK_SECONDS, BoundedCheck
from search_api.operations.schemas import (
    Alive,
    Component,
    ModelNotReadyResponse,
    ModelReadiness,
    NotReadyResponse,
    Readiness,
)

_NOT_READY = openapi_responses(NotReadyError)[503]

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
async def ready(services: AppServices) -> dict[str, Any] | JSONResponse:
    """Check the course database, the vector store and the embedding model.

    `degraded` also has the status 200: without the vector store, published courses are searched, and without the
    model only with `method: "keyword"`. Only without the database nothing can be answered.
    """
    return await _answer(services.checks, required="catalogue")


@model_readiness.get(
    "/readyz",
    summary="Readiness",
    responses={503: {**_NOT_READY, "model": ModelNotReadyResponse}},
    response_model=ModelReadiness,
)
async def model_ready(services: AppModelServices) -> dict[str, Any] | JSONResponse:
    """Check the embedding model."""
    return await _answer(services.checks, required="model")


async def _answer(checks: Mapping[str, BoundedCheck[object]], required: str) -> dict[str, Any] | JSONResponse:
    """The state of all components, checked at the same time; 503 if the required one is not available."""
    states = dict(zip(checks, await asyncio.gather(*map(_state, checks.values())), strict=True))
    failed = [f"{name}: {state.message}" for name, state in states.items() if not state.ok]
    components = {name: state.model_dump() for name, state in states.items()}
    if states[required].ok:
        return {"status": "degraded" if failed else "ready", "components": components}
    return error_response(NotReadyError("; ".join(failed)), more={"status": "not_ready", "components": components})


async def _state(check: BoundedCheck[object]) -> Component:
    try:
        await check.run()
    except TimeoutError:
        return Component(ok=False, message=f"It has not answered within {CHECK_SECONDS} s")
    except (DatabaseUnavailableError, EmbeddingError, VectorStoreError, ApiError) as error:
        return Component(ok=False, message=str(error))
    return Component(ok=True, message="")

"""The routes: each checks what the settings limit, calls one service and shapes the answer.

They are plain functions because everything they call blocks, so that each call runs on a thread of its own. The
liveness probe is not: it must answer even while every thread waits for something that hangs.
"""

from collections.abc import Callable
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response, Security
from fastapi.responses import JSONResponse

from embedding.vector_store import VectorStoreError
from models.database import DatabaseUnavailableError
from search_api import errors
from search_api.auth import token_header
from search_api.error_responses import documented, error_body
from search_api.errors import ApiError, InvalidRequestError, NotReadyError
from search_api.schemas import (
    Alive,
    Component,
    Components,
    CourseList,
    CourseSummary,
    EmbeddingState,
    EmbedRequest,
    EmbedResponse,
    ErrorResponse,
    NotReadyResponse,
    Readiness,
    TriggerResponse,
)
from search_api.search_bodies import answer_body, plan_of
from search_api.search_schemas import SearchRequest, SearchResponse
from search_api.services import Services


async def _services(request: Request) -> Services:
    services: Services = request.state.services
    return services


AppServices = Annotated[Services, Depends(_services)]
CourseId = Annotated[str, Path(description="Any text, percent-encoded.", examples=["abc123"])]

_BODY_ERRORS = (errors.RequestTooLargeError, errors.UnsupportedMediaTypeError, InvalidRequestError)

health = APIRouter(tags=["health"])
api = APIRouter(
    dependencies=[Security(token_header)],
    responses={
        **documented(errors.UnauthorizedError, errors.InternalError),
        "default": {"model": ErrorResponse, "description": "Every other error has the same shape."},
    },
)


@api.post(
    "/courses/{course_id:path}/search",
    tags=["search"],
    summary="Search a course",
    response_model=SearchResponse,
    responses=documented(
        errors.EmbeddingNotReadyError,
        errors.CourseNotFoundError,
        *_BODY_ERRORS,
        errors.DatabaseUnavailableError,
        errors.EmbeddingServiceUnavailableError,
        errors.OverloadedError,
        errors.VectorStoreFailedError,
    ),
)
def search_course(course_id: CourseId, request: SearchRequest, services: AppServices) -> Response:
    """The chunks of the course that answer the query best, best first. The course must be `done`.

    `query` alone is enough. By default both the meaning and the words are compared.
    """
    settings = services.settings
    for query in request.query:
        _at_most(settings.search_max_query_chars, len(query), "query", "characters")
    _at_most(settings.search_max_top_k, request.top_k, "top_k")
    answer = answer_body(services.search.search(course_id, plan_of(request)), request)
    return Response(answer.model_dump_json(), media_type="application/json")  # a third faster than checking it again


@api.post(
    "/courses/{course_id:path}/embed",
    tags=["embedding"],
    summary="Embed a course",
    responses=documented(errors.CourseNotFoundError, errors.AlreadyRunningError, errors.DatabaseUnavailableError),
)
def embed_course(course_id: CourseId, services: AppServices) -> TriggerResponse:
    """Ask for the course to be embedded, for the first time or again, and return at once.

    The pipeline does the work; `embedding_status` tells how far it is. Until it is done the course cannot be searched.
    """
    services.courses.request_embedding(course_id)
    return TriggerResponse()


@api.get(
    "/courses/{course_id:path}/embedding_status",
    tags=["embedding"],
    summary="How far the embedding of a course is",
    responses=documented(errors.CourseNotFoundError, errors.DatabaseUnavailableError),
)
def embedding_status(course_id: CourseId, services: AppServices) -> EmbeddingState:
    """Status, progress from 0.0 to 1.0, and why the latest embedding failed, if it did."""
    course = services.courses.get(course_id)
    return EmbeddingState(
        course_id=course.id,
        status=course.embedding_status,
        progress=course.embedding_progress,
        error=course.embedding_error,
    )


@api.get(
    "/courses",
    tags=["embedding"],
    summary="All courses and their embedding",
    responses=documented(errors.DatabaseUnavailableError),
)
def list_courses(services: AppServices) -> CourseList:
    """Which courses there are, and which of them can be searched."""
    return CourseList(
        courses=[
            CourseSummary(
                course_id=course.id,
                embedding_status=course.embedding_status,
                embedding_progress=course.embedding_progress,
                embedding_error=course.embedding_error,
            )
            for course in services.courses.all()
        ]
    )


@api.post(
    "/embed",
    tags=["embedding"],
    summary="Turn texts into vectors",
    responses=documented(*_BODY_ERRORS, errors.EmbeddingServiceUnavailableError, errors.OverloadedError),
)
def embed_texts(request: EmbedRequest, services: AppServices) -> EmbedResponse:
    """Vectors of the texts as documents, that is without the prompt the model puts before a query."""
    _at_most(services.settings.embed_max_texts, len(request.texts), "texts")
    embeddings = services.embedding.embed_documents(request.texts)
    model = services.embedding.model
    return EmbedResponse(
        embeddings=embeddings.vectors.tolist(),
        model=model.name,
        dimensions=model.dimensions,
        truncated=embeddings.truncated,
    )


@health.get("/healthz", summary="Liveness")
async def alive() -> Alive:
    """The process answers; says nothing of what it depends on."""
    return Alive()


@health.get(
    "/readyz",
    summary="Readiness",
    responses={**documented(NotReadyError), 503: {**documented(NotReadyError)[503], "model": NotReadyResponse}},
    response_model=Readiness,
)
def ready(services: AppServices) -> Readiness | JSONResponse:
    """Whether the course database, the vector store and the model are all there; each says what is wrong with it."""
    components = Components(
        catalogue=_state(services.courses.check),
        vector_store=_state(services.vector_store.check),
        model=_state(lambda: services.embedding.model),
    )
    failed = [f"{name}: {state['message']}" for name, state in components.model_dump().items() if not state["ok"]]
    if not failed:
        return Readiness(components=components)
    return JSONResponse(
        error_body(NotReadyError("; ".join(failed))) | Readiness(components=components).model_dump(),
        NotReadyError.status,
    )


def _at_most(limit: int, given: int, field: str, unit: str = "") -> None:
    if given > limit:
        raise InvalidRequestError(f"{field}: at most {limit} {unit}".rstrip())


def _state(check: Callable[[], object]) -> Component:
    try:
        check()
    except (DatabaseUnavailableError, VectorStoreError, ApiError) as error:
        return Component(ok=False, message=str(error))
    return Component(ok=True, message="")

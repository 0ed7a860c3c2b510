"""The routes about courses: each checks what the settings limit, calls one service and shapes the answer.

They are plain functions because everything they call blocks, so that each call runs on a thread of its own.
"""

from typing import Annotated

from fastapi import APIRouter, Path, Response, Security

from search_api import errors
from search_api.auth import token_header
from search_api.dependencies import AppServices
from search_api.error_responses import GUARDED, documented
from search_api.errors import at_most
from search_api.fast_route import FastSearchRoute
from search_api.schemas import CourseList, CourseSummary, EmbeddingState, TriggerResponse
from search_api.search_bodies import answer_body, plan_of
from search_api.search_schemas import SearchRequest, SearchResponse

CourseId = Annotated[str, Path(description="Any text, percent-encoded.", examples=["abc123"])]

api = APIRouter(dependencies=[Security(token_header)], responses=GUARDED)
search = APIRouter(dependencies=[Security(token_header)], responses=GUARDED, route_class=FastSearchRoute)


@search.post(
    "/courses/{course_id:path}/search",
    tags=["search"],
    summary="Search a course",
    response_model=SearchResponse,
    responses=documented(
        errors.EmbeddingNotReadyError,
        errors.CourseNotFoundError,
        *errors.BODY_ERRORS,
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
        at_most(settings.search_max_query_chars, len(query), "query", "characters")
    at_most(settings.search_max_top_k, request.top_k, "top_k")
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

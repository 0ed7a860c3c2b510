"""Routes that trigger the embedding of a course, report its progress and list courses.

The routes are not `async`, because they call blocking code; FastAPI runs each call on a separate thread.
"""

from typing import Annotated

from fastapi import APIRouter, Query, Security

from models.tables import EmbeddingStatus
from search_api.courses.schemas import MAX_COURSES, CourseList, CourseSummary, EmbeddingState, TriggerResponse
from search_api.courses.service import next_cursor
from search_api.http import errors
from search_api.http.auth import token_header
from search_api.http.dependencies import AppServices, CourseId
from search_api.http.error_responses import GUARDED_RESPONSES, openapi_responses

router = APIRouter(tags=["embedding"], dependencies=[Security(token_header)], responses=GUARDED_RESPONSES)


@router.post(
    "/courses/{course_id:path}/embed",
    summary="Embed a course",
    responses=openapi_responses(
        errors.CourseNotFoundError, errors.AlreadyRunningError, errors.DatabaseUnavailableError
    ),
)
def embed_course(course_id: CourseId, services: AppServices) -> TriggerResponse:
    """Request an embedding of the course and return immediately.

    The pipeline embeds the course in the background; `embedding_status` shows its progress. Until it is `done`, the
    last published generation is searched.
    """
    services.courses.request_embedding(course_id)
    return TriggerResponse()


@router.get(
    "/courses/{course_id:path}/embedding_status",
    summary="Progress of an embedding",
    responses=openapi_responses(errors.CourseNotFoundError, errors.DatabaseUnavailableError),
)
def embedding_status(course_id: CourseId, services: AppServices) -> EmbeddingState:
    """The status, the progress (0.0 to 1.0), and the error if the latest embedding failed."""
    course = services.courses.get(course_id)
    return EmbeddingState(
        course_id=course.id,
        status=course.embedding_status,
        progress=course.embedding_progress,
        error=course.embedding_error,
        due=course.embedding_due_since is not None,
    )


@router.get(
    "/courses",
    summary="Courses",
    responses=openapi_responses(errors.InvalidRequestError, errors.DatabaseUnavailableError),
)
def list_courses(
    services: AppServices,
    search: Annotated[str | None, Query(description="Only courses with this text in their id, in any case.")] = None,
    status: Annotated[EmbeddingStatus | None, Query(description="Only courses with this embedding status.")] = None,
    limit: Annotated[
        int | None, Query(ge=1, le=MAX_COURSES, description="Courses on a page; by default, all are on one page.")
    ] = None,
    cursor: Annotated[
        str | None, Query(description="The `next_cursor` of the page before; the other parameters must be the same.")
    ] = None,
) -> CourseList:
    """Courses with their embedding state, ordered by id. A course that is `done` can be searched."""
    page = services.courses.page(search, status, limit, cursor)
    return CourseList(
        courses=[CourseSummary.of(course, services.settings.dagster_url) for course in page.courses],
        next_cursor=next_cursor(page),
        total=page.total,
    )

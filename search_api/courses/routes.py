"""Routes that trigger the embedding of a course, report its progress and list all courses.

The routes are not `async`, because they call blocking code; FastAPI runs each call on a separate thread.
"""

from fastapi import APIRouter, Security

from search_api.courses.schemas import CourseList, CourseSummary, EmbeddingState, TriggerResponse
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
    )


@router.get(
    "/courses",
    summary="All courses",
    responses=openapi_responses(errors.DatabaseUnavailableError),
)
def list_courses(services: AppServices) -> CourseList:
    """All courses with their embedding state. A course that is `done` can be searched."""
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

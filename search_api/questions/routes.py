"""`POST /feedback`."""

from fastapi import APIRouter, Security, status

from search_api.http import errors
from search_api.http.auth import token_header
from search_api.http.dependencies import AppServices
from search_api.http.error_responses import GUARDED_RESPONSES, openapi_responses
from search_api.http.json_route import JsonRoute
from search_api.questions.schemas import FeedbackRequest, FeedbackResponse

router = APIRouter(
    tags=["search"], dependencies=[Security(token_header)], responses=GUARDED_RESPONSES, route_class=JsonRoute
)


@router.post(
    "/feedback",
    summary="Say whether an answer helped",
    status_code=status.HTTP_202_ACCEPTED,
    responses=openapi_responses(
        errors.CourseNotFoundError,
        errors.QueryLogOffError,
        *errors.BODY_ERRORS,
        errors.DatabaseUnavailableError,
        errors.OverloadedError,
    ),
)
def give_feedback(request: FeedbackRequest, services: AppServices) -> FeedbackResponse:
    """Record whether a passage, or the answer as a whole, helped whoever asked. It is not recorded who that was.

    `course-search questions` shows it to the teacher, with the questions. Needs QUERY_LOG=true.
    """
    services.questions.require_on()
    course = services.courses.published(request.course_id)
    services.questions.record_feedback(course.id, request.query, request.chunk_id, helpful=request.helpful)
    return FeedbackResponse()

"""Routes that create courses, and upload, list and delete their files."""

from fastapi import APIRouter, Request, Security, status
from fastapi.routing import APIRoute
from starlette.routing import Match
from starlette.types import Scope

from search_api.courses.schemas import CourseSummary, NewCourse
from search_api.http import errors
from search_api.http.auth import token_header
from search_api.http.body_limit import UPLOAD_PATH, is_form
from search_api.http.dependencies import AppServices, CourseId, ResourceId
from search_api.http.error_responses import GUARDED_RESPONSES, openapi_responses
from search_api.http.json_route import JsonRoute
from search_api.resources.schemas import UPLOAD_FORM, ImportRequest, Resource, ResourceList


class FormRoute(APIRoute):
    """A route for requests with a form. FastAPI would read the whole body before it calls the function of a route."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for this route, and has a form."""
        return super().matches(scope) if is_form(scope) else (Match.NONE, {})


upload_router = APIRouter(dependencies=[Security(token_header)], route_class=FormRoute)
router = APIRouter(
    tags=["files"], dependencies=[Security(token_header)], responses=GUARDED_RESPONSES, route_class=JsonRoute
)


@router.post(
    "/courses",
    summary="Create a course",
    status_code=status.HTTP_201_CREATED,
    responses=openapi_responses(
        errors.CourseExistsError,
        errors.StageOneOwnsTablesError,
        *errors.BODY_ERRORS,
        errors.DatabaseUnavailableError,
    ),
)
def create_course(request: NewCourse, services: AppServices) -> CourseSummary:
    """Create a course without content, for files that are uploaded to it."""
    return CourseSummary.of(services.resources.create_course(request.course_id), services.settings.dagster_url)


@upload_router.post(UPLOAD_PATH, include_in_schema=False, status_code=status.HTTP_202_ACCEPTED)
async def upload_resource(request: Request, services: AppServices) -> Resource:
    """Add the file of a form; `add_resource` documents it."""
    resource = await services.resources.receive(request.headers["content-type"], request.stream())
    return Resource.model_validate(resource)


@router.post(
    UPLOAD_PATH,
    summary="Add a file to a course",
    status_code=status.HTTP_202_ACCEPTED,
    openapi_extra={"requestBody": {"content": UPLOAD_FORM}},
    responses=openapi_responses(
        errors.CourseNotFoundError,
        errors.StageOneOwnsTablesError,
        *errors.BODY_ERRORS,
        errors.DatabaseUnavailableError,
        errors.UploadsUnavailableError,
    ),
)
async def add_resource(request: ImportRequest, services: AppServices) -> Resource:
    """Upload a file as a form, or name one below IMPORT_DIR in JSON.

    The pipeline turns it into chunks and embeds the course; `GET /resources/{resource_id}` shows the progress. A file
    with the name of an earlier one replaces it, and nothing is done if its content is the same.
    """
    return Resource.model_validate(await services.resources.take(request.course_id, request.path))


@router.get(
    "/courses/{course_id:path}/resources",
    summary="Files of a course",
    responses=openapi_responses(errors.CourseNotFoundError, errors.DatabaseUnavailableError),
)
def list_resources(course_id: CourseId, services: AppServices) -> ResourceList:
    """The uploaded files of a course, in the order in which they were added. Those of stage one are not listed."""
    resources = services.resources.of_course(course_id)
    return ResourceList(resources=[Resource.model_validate(resource) for resource in resources])


@router.get(
    "/resources/{resource_id:path}",
    summary="Progress of a file",
    responses=openapi_responses(errors.ResourceNotFoundError, errors.DatabaseUnavailableError),
)
def get_resource(resource_id: ResourceId, services: AppServices) -> Resource:
    """The state of one file, and the error if it failed."""
    return Resource.model_validate(services.resources.get(resource_id))


@router.delete(
    "/resources/{resource_id:path}",
    summary="Delete a file",
    responses=openapi_responses(
        errors.ResourceNotFoundError, errors.DatabaseUnavailableError, errors.UploadsUnavailableError
    ),
)
def delete_resource(resource_id: ResourceId, services: AppServices) -> Resource:
    """Delete a file and its chunks, and return its last state. A course whose last file is deleted is not searched."""
    return Resource.model_validate(services.resources.delete(resource_id))

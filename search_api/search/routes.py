"""`POST /courses/{course_id}/search`, and `POST /search` for several courses."""

from fastapi import APIRouter, Response, Security
from pydantic_core import to_json
from starlette.concurrency import run_in_threadpool

from search_api.http import errors
from search_api.http.auth import token_header
from search_api.http.dependencies import AppServices, CourseId
from search_api.http.error_responses import GUARDED_RESPONSES, openapi_responses
from search_api.http.errors import check_at_most
from search_api.http.json_route import JsonRoute
from search_api.search.fast_route import FastSearchRoute
from search_api.search.schemas import (
    CoursesSearchRequest,
    CoursesSearchResponse,
    SearchRequest,
    SearchResponse,
)

router = APIRouter(
    dependencies=[Security(token_header)],
    responses=GUARDED_RESPONSES,
    route_class=FastSearchRoute,
    generate_unique_id_function=lambda route: route.name,
)


@router.post(
    "/courses/{course_id:path}/search",
    tags=["search"],
    summary="Search a course",
    response_model=SearchResponse,
    responses=openapi_responses(
        errors.EmbeddingNotReadyError,
        errors.CourseNotFoundError,
        *errors.BODY_ERRORS,
        errors.DatabaseUnavailableError,
        errors.EmbeddingServiceUnavailableError,
        errors.OverloadedError,
        errors.VectorStoreFailedError,
    ),
)
async def search_course(course_id: CourseId, request: SearchRequest, services: AppServices) -> Response:
    """Return the chunks of the course that match the query best, best first.

    While the course is not `done`, its last published generation is searched, and the answer is `stale`.
    Only `query` is required. By default a search is hybrid: it combines vector similarity and keywords (BM25).
    A long query is searched by what fits, and `query_cut` says what was left out.
    """
    check_at_most(services.settings.search_max_top_k, request.top_k, "top_k")
    answer = services.search.search_at_once(course_id, request)
    if answer is None:
        answer = await run_in_threadpool(services.search.search, course_id, request)
    services.measures.count_answer(answer)
    # FastAPI would validate the answer, which takes longer than the search.
    return Response(to_json(answer), media_type="application/json")


several_router = APIRouter(dependencies=[Security(token_header)], responses=GUARDED_RESPONSES, route_class=JsonRoute)


@several_router.post(
    "/search",
    tags=["search"],
    summary="Search several courses",
    response_model=CoursesSearchResponse,
    responses=openapi_responses(
        *errors.BODY_ERRORS,
        errors.DatabaseUnavailableError,
        errors.EmbeddingServiceUnavailableError,
        errors.OverloadedError,
    ),
)
def search_courses(request: CoursesSearchRequest, services: AppServices) -> Response:
    """Return the chunks of several courses that match the query best, in one list.

    A course that cannot be searched does not fail the others: `courses` has the state of each. The list is ordered by
    relevance, which can be compared between courses.
    """
    check_at_most(services.settings.search_max_top_k, request.top_k, "top_k")
    answer = services.several_courses.search(request)
    services.measures.count_answer(answer)
    return Response(to_json(answer), media_type="application/json")

"""`POST /courses/{course_id}/search`."""

from fastapi import APIRouter, Response, Security

from search_api.http import errors
from search_api.http.auth import token_header
from search_api.http.dependencies import AppServices, CourseId
from search_api.http.error_responses import GUARDED_RESPONSES, openapi_responses
from search_api.http.errors import check_at_most
from search_api.search.fast_route import FastSearchRoute
from search_api.search.schemas import SearchRequest, SearchResponse

router = APIRouter(dependencies=[Security(token_header)], responses=GUARDED_RESPONSES, route_class=FastSearchRoute)


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
def search_course(course_id: CourseId, request: SearchRequest, services: AppServices) -> Response:
    """Return the chunks of the course that match the query best, best first.

    The course must be `done`, unless the app serves stale courses (SERVE_WHILE_REEMBEDDING).
    Only `query` is required. By default a search is hybrid: it combines vector similarity and keywords (BM25).
    """
    settings = services.settings
    for query in request.query:
        check_at_most(settings.search_max_query_chars, len(query), "query", "characters")
    check_at_most(settings.search_max_top_k, request.top_k, "top_k")
    answer = services.search.search(course_id, request)
    # FastAPI would validate a returned model again, which takes a third of the request's time.
    return Response(answer.model_dump_json(), media_type="application/json")

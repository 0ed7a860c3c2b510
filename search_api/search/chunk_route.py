"""`GET /courses/{course_id}/chunks/{chunk_id}`: one passage, as a search would return it, and its neighbours."""

from typing import Annotated
from urllib.parse import unquote

from fastapi import APIRouter, Path, Query, Response, Security
from fastapi.routing import APIRoute
from pydantic_core import to_json
from starlette.routing import Match
from starlette.types import Scope

from search_api.http import errors
from search_api.http.auth import token_header
from search_api.http.dependencies import AppServices, CourseId
from search_api.http.error_responses import GUARDED_RESPONSES, openapi_responses
from search_api.http.root_path import route_path
from search_api.search.schemas import MAX_CONTEXT, ChunkResponse


class ChunkRoute(APIRoute):
    """A route that knows where the course id ends, even if ids contain slashes.

    The client has to encode them (`a%2Fb`). A router sees only the decoded path, so this route looks at the path as it
    was sent. If slashes were sent as they are, the course id is the longest possible, and the other routes come first.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether the request is for this route, and its two ids."""
        match, child_scope = super().matches(scope)
        if match is Match.NONE:
            return match, child_scope
        sent = (scope.get("raw_path") or b"").decode("ascii", "replace").split("/")[-4:]
        if sent[::2] == ["courses", "chunks"] and route_path(scope) == "/" + "/".join(map(unquote, sent)):
            child_scope["path_params"] = {"course_id": unquote(sent[1]), "chunk_id": unquote(sent[3])}
        elif route_path(scope).endswith(("/embedding_status", "/resources")):
            return Match.NONE, {}
        return match, child_scope


router = APIRouter(dependencies=[Security(token_header)], responses=GUARDED_RESPONSES, route_class=ChunkRoute)


@router.get(
    "/courses/{course_id:path}/chunks/{chunk_id:path}",
    tags=["search"],
    summary="Open a passage",
    response_model=ChunkResponse,
    responses=openapi_responses(
        errors.EmbeddingNotReadyError,
        errors.CourseNotFoundError,
        errors.ChunkNotFoundError,
        errors.InvalidRequestError,
        errors.DatabaseUnavailableError,
        errors.OverloadedError,
        errors.VectorStoreFailedError,
    ),
)
def open_chunk(
    course_id: CourseId,
    chunk_id: Annotated[
        str, Path(description="`metadata.chunk_id` of a result: any text, percent-encoded.", examples=["481"])
    ],
    services: AppServices,
    context: Annotated[
        int, Query(ge=0, le=MAX_CONTEXT, description="Number of chunks before and after it, in the same section.")
    ] = 0,
) -> Response:
    """Return a chunk, and the chunks around it in reading order.

    It is taken from the generation that a search of the course would use: while the course is not `done`, from the last
    published one, and the answer is `stale`. A chunk that a newer publication has removed is not found.
    """
    answer = services.search.chunk(course_id, chunk_id, context)
    return Response(to_json(answer), media_type="application/json")

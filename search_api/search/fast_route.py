"""A search route without FastAPI's dependency injection and response validation, which take longer than a search.

FastAPI still generates the documentation from the route function. Requests that are not valid are passed to FastAPI,
so errors are the same as on other routes.
"""

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from search_api.http.caller import set_caller
from search_api.http.json_route import JsonRequest, JsonRoute
from search_api.search.schemas import SearchRequest


class FastSearchRoute(JsonRoute):
    """A route for an async function that takes a course id, a `SearchRequest` and the services."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a valid request, and pass all others to FastAPI."""
        content_types = [value for name, value in scope["headers"] if name == b"content-type"]
        if scope["method"] != "POST" or content_types != [b"application/json"]:
            await super().handle(scope, receive, send)
            return
        try:
            search = SearchRequest.model_validate(await JsonRequest.of(scope, receive).json())
        except (ValueError, RecursionError, ClientDisconnect):
            await super().handle(scope, receive, send)
            return
        set_caller(receive)
        response = await self.endpoint(scope["path_params"]["course_id"], search, scope["state"]["services"])
        await response(scope, receive, send)

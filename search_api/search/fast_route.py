"""A search route without FastAPI's dependency injection and response validation, which take longer than a search.

FastAPI still generates the documentation from the route function. Requests that are not valid are passed to FastAPI's
handler, so errors are the same as on other routes.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from search_api.http.json_route import JsonRequest, JsonRoute
from search_api.search.schemas import SearchRequest


class FastSearchRoute(JsonRoute):
    """A route for a function that takes a course id, a `SearchRequest` and the services, and returns a response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """A handler for valid requests, which passes all others to FastAPI's handler."""
        handle_by_fastapi = super().get_route_handler()

        async def handle(request: Request) -> Response:
            request = JsonRequest.of(request)
            if request.headers.get("content-type") != "application/json":
                return await handle_by_fastapi(request)
            try:
                search = SearchRequest.model_validate(await request.json())
            except (ValueError, RecursionError, ClientDisconnect):
                return await handle_by_fastapi(request)
            response: Response = await run_in_threadpool(
                self.endpoint, request.path_params["course_id"], search, request.state.services
            )
            return response

        return handle

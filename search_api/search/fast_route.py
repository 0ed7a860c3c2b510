"""A route that is answered without FastAPI's general machinery, which takes longer than a search does.

The documentation is FastAPI's, made from the same function. So is every refusal: whatever does not go through here
at once is handled as any other route.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool

from search_api.search.schemas import SearchRequest


class FastSearchRoute(APIRoute):
    """For a function of a course id, a `SearchRequest` and the services, which returns a response."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind one for requests that are as they should be."""
        handle_any = super().get_route_handler()

        async def handle(request: Request) -> Response:
            if request.headers.get("content-type") != "application/json":
                return await handle_any(request)
            try:
                search = SearchRequest.model_validate_json(await request.body())
            except ValidationError:
                return await handle_any(request)
            response: Response = await run_in_threadpool(
                self.endpoint, request.path_params["course_id"], search, request.state.services
            )
            return response

        return handle

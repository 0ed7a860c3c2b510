"""The route class of all routes with a body: a repeated key is an error, whereas Python would keep the last value."""

import json
from collections.abc import Callable, Coroutine
from typing import Any, Self

from fastapi import Request, Response
from fastapi.routing import APIRoute

from models.json_values import unique_keys


class JsonRequest(Request):
    """A request whose body may not contain a key twice in one object."""

    @classmethod
    def of(cls, request: Request) -> Self:
        """The request as a `JsonRequest`; the same object if it is one, because a body can be read only once."""
        return request if isinstance(request, cls) else cls(request.scope, request.receive)

    async def json(self) -> Any:
        """Parse the body.

        Raises:
            ValueError: The body is not JSON, or is a `DuplicateKeyError`.
            RecursionError: The body is nested too deeply.
            ClientDisconnect: The client did not send the whole body.
        """
        if not hasattr(self, "_json"):
            self._json = json.loads(await self.body(), object_pairs_hook=unique_keys)
        return self._json


class JsonRoute(APIRoute):
    """A route that parses its body with `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI, for a `JsonRequest`."""
        handle_by_fastapi = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handle_by_fastapi(JsonRequest.of(request))

        return handle

"""The route class of all routes with a body: a repeated key is an error, whereas Python would keep the last value.

Bodies are parsed and validated on the event loop, where everything else waits. Long texts take no time there, but
millions of objects and lists do, so these have a limit of their own.
"""

import json
from collections.abc import Callable, Coroutine
from typing import Any, Self

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope

from models.json_values import refuse_constant, unique_keys
from search_api.http.caller import set_caller
from search_api.http.errors import RequestTooLargeError

MAX_BRACKETS = 300_000
"""Maximum number of opening brackets of a body, also in its texts, because counting them is fast."""


class JsonRequest(Request):
    """A request whose body may not contain a key twice in one object."""

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Self:
        """The request; the same object each time that it is asked for, because a body can be read only once."""
        request: Self = scope.setdefault("json_request", cls(scope, receive))
        return request

    async def json(self) -> Any:
        """Parse the body.

        Raises:
            ValueError: The body is not JSON, or is a `DuplicateKeyError`.
            RecursionError: The body is nested too deeply.
            HTTPException: 413: the body has too many values.
            ClientDisconnect: The client did not send the whole body.
        """
        if not hasattr(self, "_json"):
            body = await self.body()
            if body.count(b"{") + body.count(b"[") > MAX_BRACKETS:
                too_many = RequestTooLargeError(f"The body has more than {MAX_BRACKETS:,} opening brackets")
                raise HTTPException(too_many.status) from too_many
            self._json = json.loads(body, object_pairs_hook=unique_keys, parse_constant=refuse_constant)
        return self._json


class JsonRoute(APIRoute):
    """A route that parses its body with `JsonRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler of FastAPI, for a `JsonRequest`."""
        handle_by_fastapi = super().get_route_handler()

        async def handle(request: Request) -> Response:
            set_caller(request.receive)
            return await handle_by_fastapi(JsonRequest.of(request.scope, request.receive))

        return handle

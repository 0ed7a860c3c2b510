"""How large a body may be: announced by its length or sent in chunks of unknown number."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_api.http.error_responses import error_response
from search_api.http.errors import RequestTooLargeError


class RequestSizeMiddleware:
    """Answers 413 to a body over the limit, before reading more of it than the limit.

    Starlette's own limit does the same, but its answer to an announced length does not have the API's error shape.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body counted, or answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _announced_length(scope) > self.max_bytes:
            await error_response(RequestTooLargeError())(scope, receive, send)
            return

        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                # FastAPI reads the body and lets no other exception through as it is.
                raise HTTPException(RequestTooLargeError.status)
            return message

        await self.app(scope, receive_counted, send)


def _announced_length(scope: Scope) -> int:
    try:
        return int(dict(scope["headers"]).get(b"content-length", b"0"))
    except ValueError:
        return 0  # the server has refused such a request already, and the body is counted anyway

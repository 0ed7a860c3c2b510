"""The limit on the size of request bodies, with a Content-Length header or in chunked encoding."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_api.http.error_responses import error_response
from search_api.http.errors import RequestTooLargeError


class RequestSizeMiddleware:
    """Answers 413 to a body over the limit, without reading more than the limit.

    Starlette's `RequestBodyLimitMiddleware` does the same, but if Content-Length exceeds the limit, its answer does not
    have the API's error shape.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count the bytes of its body, or answer 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _content_length(scope) > self.max_bytes:
            await error_response(RequestTooLargeError())(scope, receive, send)
            return

        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                # FastAPI reads the body and re-raises only an HTTPException unchanged.
                raise HTTPException(RequestTooLargeError.status)
            return message

        await self.app(scope, receive_counted, send)


def _content_length(scope: Scope) -> int:
    try:
        return int(dict(scope["headers"]).get(b"content-length", b"0"))
    except ValueError:
        return 0  # HTTP servers reject such requests; the bytes are counted in any case

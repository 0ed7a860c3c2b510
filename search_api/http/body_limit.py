"""The limit on the size of request bodies, with a Content-Length header or in chunked encoding."""

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_api.http.error_responses import error_response
from search_api.http.errors import RequestTooLargeError
from search_api.http.root_path import route_path

UPLOAD_PATH = "/resources"
FORM_BYTES = 64 * 1024
"""Room for what the form of an upload has besides the content of its file."""


class RequestSizeMiddleware:
    """Answers 413 to a body over the limit, without reading more than the limit.

    Starlette's `RequestBodyLimitMiddleware` does the same, but if Content-Length exceeds the limit, its answer does not
    have the API's error shape.

    Args:
        app: The app.
        max_bytes: The limit.
        max_upload_bytes: The limit on the file of an upload, which its route writes to the disk while it arrives.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, max_upload_bytes: int) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.max_upload_bytes = max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and count the bytes of its body, or answer 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        is_upload = is_form(scope) and route_path(scope) == UPLOAD_PATH
        max_bytes = self.max_upload_bytes + FORM_BYTES if is_upload else self.max_bytes
        if _content_length(scope) > max_bytes:
            await error_response(RequestTooLargeError())(scope, receive, send)
            return

        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > max_bytes:
                # FastAPI reads the body and re-raises only an HTTPException unchanged.
                raise HTTPException(RequestTooLargeError.status)
            return message

        await self.app(scope, receive_counted, send)


def is_form(scope: Scope) -> bool:
    """Whether the body is a form that may contain a file."""
    content_type: bytes = dict(scope["headers"]).get(b"content-type", b"")
    return content_type.lower().startswith(b"multipart/form-data")


def _content_length(scope: Scope) -> int:
    try:
        return int(dict(scope["headers"]).get(b"content-length", b"0"))
    except ValueError:
        return 0  # HTTP servers reject such requests; the bytes are counted in any case

"""Cross-origin requests: which pages of other origins may call the app from a browser (CORS_ORIGINS)."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp

from search_api.http.error_responses import error_response
from search_api.http.errors import CorsRefusedError

METHODS = ("DELETE", "GET", "HEAD", "POST")
ALLOWED_HEADERS = ("Authorization", "Content-Type", "X-Internal-Token", "X-Request-Id")
EXPOSED_HEADERS = ("Retry-After", "Server-Timing", "X-Request-Id")


class CorsMiddleware(CORSMiddleware):
    """Starlette's middleware, whose refusals have the API's error shape.

    It answers preflight requests itself, because browsers send them without the token. Credentials in the sense of
    CORS (cookies, certificates) are never allowed: the app knows none.

    Args:
        app: The app.
        origins: The allowed origins, such as `https://course.example`; `*` allows all.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        super().__init__(
            app,
            allow_origins=origins,
            allow_methods=METHODS,
            allow_headers=ALLOWED_HEADERS,
            expose_headers=EXPOSED_HEADERS,
        )

    def preflight_response(self, request_headers: Headers) -> Response:
        """The answer to a preflight request."""
        response = super().preflight_response(request_headers)
        if response.status_code < 400:
            return response
        return error_response(CorsRefusedError(), {"Vary": response.headers["vary"]})

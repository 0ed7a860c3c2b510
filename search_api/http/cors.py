"""Cross-origin requests: which pages of other origins may call the app from a browser (CORS_ORIGINS)."""

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from search_api.http.error_responses import error_response
from search_api.http.errors import CorsRefusedError

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
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


class CrossOriginMiddleware:
    """Refuses requests by which a page of another origin could change something, unless CORS_ORIGINS names the origin.

    A browser asks before it sends JSON or a header of ours to another origin, but not before it sends a form, such as
    an upload, or nothing, as to embed a course. It only keeps the answer from the page.

    Browsers say in `Sec-Fetch-Site` where a request comes from, but only to an address with HTTPS or of this machine.
    To others they send the origin, which is compared with the host. Programs send neither.

    Args:
        app: The app.
        origins: The allowed origins; `*` allows all.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self.app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "http" and scope["method"] not in SAFE_METHODS and self._is_refused(Headers(scope=scope)):
            await error_response(CorsRefusedError())(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _is_refused(self, headers: Headers) -> bool:
        origin, site = headers.get("origin", ""), headers.get("sec-fetch-site")
        if "*" in self._origins or origin.lower() in self._origins:
            return False
        if site is not None:
            return site not in ("same-origin", "none")
        if not origin or headers.get("content-type", "").startswith("application/json"):
            return False
        own = (headers.get(name, "").lower() for name in ("host", "x-forwarded-host"))
        return origin.partition("://")[2].lower() not in filter(None, own)

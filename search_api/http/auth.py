"""The internal token: one shared secret in a request header, checked before the body is read.

Paths under /v1/ also accept the token as a bearer token, because OpenAI clients send their API key that way.

The check is ASGI middleware rather than a FastAPI dependency. So it covers unknown paths too, and a caller without the
token cannot make the app read a body.
"""

import hmac

from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from search_api.http.error_responses import error_response
from search_api.http.errors import UnauthorizedError
from search_api.http.root_path import route_path

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
"""Paths that need no token: probes, and pages opened in a browser, which cannot send it. They show no course data."""
OPEN_PREFIXES = ("/docs/", "/static/")
"""Path prefixes that need no token: the files of the documentation and of the search page."""
BEARER_PREFIX = "/v1/"
"""Paths under this prefix also accept the token as a bearer token, as OpenAI clients send their API key."""

token_header = APIKeyHeader(
    name="X-Internal-Token",
    scheme_name="InternalToken",
    description="The value of INTERNAL_TOKEN; not needed if the app has none.",
    auto_error=False,
)
"""Documents the header in OpenAPI; `InternalTokenMiddleware` checks it."""
bearer_token = HTTPBearer(
    scheme_name="InternalTokenAsKey", description="The internal token as the client's API key.", auto_error=False
)
"""Documents the bearer token in OpenAPI."""


class InternalTokenMiddleware:
    """Answers 401 to requests without the token. If no token is configured, all requests pass."""

    def __init__(self, app: ASGIApp, token: SecretStr | None) -> None:
        self.app = app
        self.token = token.get_secret_value().encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if self.token is None or scope["type"] != "http" or _is_open(scope) or self._has_token(scope):
            await self.app(scope, receive, send)
        else:
            await error_response(UnauthorizedError())(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        candidates = [headers.get(b"x-internal-token", b"")]
        if route_path(scope).startswith(BEARER_PREFIX):
            scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
            candidates += [key.strip()] if scheme.lower() == b"bearer" else []
        # As bytes, because compare_digest rejects non-ASCII text.
        return self.token is not None and any(hmac.compare_digest(value, self.token) for value in candidates)


def _is_open(scope: Scope) -> bool:
    path = route_path(scope)
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)

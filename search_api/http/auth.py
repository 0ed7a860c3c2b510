"""The internal token: one shared secret in a header, checked before anything else is read.

Clients of OpenAI's API can send no header of ours: under /v1/ they may carry it as their API key, a bearer token.

This is plain ASGI rather than a dependency of the routes, so that it holds for every path, unknown ones included, and
a caller without the token cannot make the app read a body.
"""

import hmac

from fastapi.security import APIKeyHeader, HTTPBearer
from pydantic import SecretStr
from starlette.types import ASGIApp, Receive, Scope, Send

from search_api.http.error_responses import error_response
from search_api.http.errors import UnauthorizedError

OPEN_PATHS = frozenset({"/", "/healthz", "/readyz", "/docs", "/openapi.json"})
"""Probes and what a browser opens by an address send no headers of ours; they show no course's data."""
OPEN_PREFIXES = ("/docs/", "/static/")
"""The files the documentation and the search page are made of."""
BEARER_PREFIX = "/v1/"
"""Where the token may also come as OpenAI's clients send their key."""

token_header = APIKeyHeader(
    name="X-Internal-Token",
    scheme_name="InternalToken",
    description="The value of INTERNAL_TOKEN; not needed where the app runs without one.",
    auto_error=False,
)
"""Declares the header in the OpenAPI document; the check itself is `InternalTokenMiddleware`'s."""
bearer_token = HTTPBearer(
    scheme_name="InternalTokenAsKey", description="The same, as the API key of a client.", auto_error=False
)
"""Declares the other way."""


class InternalTokenMiddleware:
    """Answers 401 to whoever does not carry the token; lets everybody in when there is none."""

    def __init__(self, app: ASGIApp, token: SecretStr | None) -> None:
        self.app = app
        self.token = token.get_secret_value().encode() if token else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it."""
        if self.token is None or scope["type"] != "http" or _is_open(scope["path"]) or self._admits(scope):
            await self.app(scope, receive, send)
        else:
            await error_response(UnauthorizedError())(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        given = [headers.get(b"x-internal-token", b"")]
        if scope["path"].startswith(BEARER_PREFIX):
            scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
            given += [key.strip()] if scheme.lower() == b"bearer" else []
        # Bytes, since compare_digest refuses text that is not ASCII.
        return self.token is not None and any(hmac.compare_digest(one, self.token) for one in given)


def _is_open(path: str) -> bool:
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)

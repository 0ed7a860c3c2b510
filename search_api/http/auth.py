"""The internal token: one shared secret, checked before the body is read.

It is sent in the header `X-Internal-Token` or as a bearer token, as Prometheus and OpenAI's clients do.

The check is ASGI middleware rather than a FastAPI dependency. So it covers unknown paths too, and a caller without the
token cannot make the app read a body.
"""

import hmac
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from fastapi import Security
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

_own_header = APIKeyHeader(
    name="X-Internal-Token",
    scheme_name="InternalToken",
    description="The value of INTERNAL_TOKEN; not needed if the app has none.",
    auto_error=False,
)
_bearer = HTTPBearer(
    scheme_name="InternalTokenAsKey",
    description="The same value as a bearer token, for example as the API key of OpenAI's clients.",
    auto_error=False,
)


async def token_header(
    _header: Annotated[object, Security(_own_header)], _bearer_token: Annotated[object, Security(_bearer)]
) -> None:
    """Documents in OpenAPI that a route needs the token in one of the two headers. The middleware checks it."""


def without_token(document: Mapping[str, Any]) -> dict[str, Any]:
    """The OpenAPI document of an app without a token: no route asks for one, or answers 401."""
    paths: dict[str, Any] = {}
    for path, methods in document["paths"].items():
        operations = paths.setdefault(path, {})
        for method, operation in methods.items():
            responses = {
                status: response
                for status, response in operation["responses"].items()
                if status != str(UnauthorizedError.status)
            }
            kept = {name: value for name, value in operation.items() if name != "security"}
            operations[method] = {**kept, "responses": responses}
    components = {name: value for name, value in document["components"].items() if name != "securitySchemes"}
    return {**document, "paths": paths, "components": components}


class InternalTokenMiddleware:
    """Answers 401 to requests without a valid token.

    Args:
        app: The app.
        tokens: The tokens that are accepted. If there are none, all requests pass.
    """

    def __init__(self, app: ASGIApp, tokens: Iterable[SecretStr]) -> None:
        self.app = app
        self._tokens = [token.get_secret_value().encode() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        if not self._tokens or scope["type"] != "http" or _is_open(scope) or self._has_token(scope):
            await self.app(scope, receive, send)
        else:
            await error_response(UnauthorizedError())(scope, receive, send)

    def _has_token(self, scope: Scope) -> bool:
        headers = dict(scope["headers"])
        scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
        sent = [headers.get(b"x-internal-token", b""), key.strip() if scheme.lower() == b"bearer" else b""]
        # As bytes, because compare_digest rejects non-ASCII text.
        return any(hmac.compare_digest(value, token) for token in self._tokens for value in sent)


def _is_open(scope: Scope) -> bool:
    path = route_path(scope)
    return path in OPEN_PATHS or path.startswith(OPEN_PREFIXES)

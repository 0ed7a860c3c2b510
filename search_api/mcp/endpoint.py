"""`POST /mcp`: the tools over streamable HTTP.

The endpoint keeps no session, so any app behind a load balancer can answer any call, and it answers in JSON rather than
in an event stream, because every call ends with one answer and reports nothing before it. Therefore there is nothing to
`GET` or to `DELETE`.

A tool calls the app's own API in the same process. So a call is validated, measured and logged like every other
request. It has the place of the agent's request, which is refused in an overload before its body is read.
"""

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import httpx
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from course_search_client import AsyncCourseSearch
from search_api.app_settings import SearchSettings
from search_api.http.allowed_hosts import AllowedHosts
from search_api.http.errors import HostNotAllowedError
from search_api.http.overload import WITHIN_REQUEST
from search_api.http.request_id import NAME, request_id
from search_api.mcp.server import new_server
from telemetry.traces import trace_headers

logger = logging.getLogger(__name__)

PATH = "/mcp"
_STATE = "mcp"


class McpRoute(Route):
    """The route of the tools; `running_tools` must be in the state of the app."""

    def __init__(self, settings: SearchSettings) -> None:
        hosts = AllowedHosts(settings.mcp_allowed_hosts)
        super().__init__(PATH, _Endpoint(hosts), methods=["POST"], include_in_schema=False)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Also names the route, as FastAPI's own routes do, so that its requests are measured under its path."""
        match, found = super().matches(scope)
        return match, {**found, "route": self}


@asynccontextmanager
async def running_tools(
    app: ASGIApp, state: Mapping[str, Any], settings: SearchSettings
) -> AsyncIterator[dict[str, Any]]:
    """Run the tools while the app runs.

    Args:
        app: The app whose API the tools call.
        state: The state of the app's requests.
        settings: The settings of the app.

    Yields:
        What the route needs in the state of the app's requests.
    """

    async def call_app(scope: Scope, receive: Receive, send: Send) -> None:
        id_of_call = (NAME.lower().encode(), request_id().encode())
        trace = [(name.encode(), value.encode()) for name, value in trace_headers().items()]
        headers = [*scope["headers"], id_of_call, *trace]
        called = {**scope, "headers": headers, "state": dict(state), WITHIN_REQUEST: True}
        await app(called, _body_and_then(receive, _agent.get()), send)

    token = settings.internal_token.get_secret_value() if settings.internal_token else None
    async with httpx.AsyncClient(transport=httpx.ASGITransport(call_app)) as http:
        manager = StreamableHTTPSessionManager(
            new_server(AsyncCourseSearch("http://localhost", token, attempts=1, http=http)),
            json_response=True,
            stateless=True,
            max_request_body_size=settings.max_request_bytes,
        )
        async with manager.run():
            yield {_STATE: manager.handle_request}


_agent: ContextVar[Receive] = ContextVar("agent")
"""The channel of the request that calls a tool. After its body, it says when the agent has gone."""


def _body_and_then(receive: Receive, after: Receive) -> Receive:
    """A channel that has the body of one request, and ends as that of another."""
    is_read = False

    async def receive_from_either() -> Message:
        nonlocal is_read
        message = await (after if is_read else receive)()
        is_read = is_read or not message.get("more_body", False)
        return message

    return receive_from_either


class _Endpoint:
    """An ASGI app rather than a function, because the session manager sends the response itself."""

    def __init__(self, hosts: AllowedHosts) -> None:
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._hosts.check(Headers(scope=scope))
        except HostNotAllowedError as error:
            logger.warning("%s", error)  # clients show the status at most
            raise
        # Read here, because the session manager would log a client that does not send it all as an error of the app.
        body = await Request(scope, receive).body()

        async def receive_body() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        _agent.set(receive)
        await scope["state"][_STATE](scope, _body_and_then(receive_body, receive), send)

"""The id of a request, in its answer and in its log lines, so that one can be found by the other.

A caller may send an id of its own, so that the log lines of several programs can be found by the same id.
"""

import re
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telemetry.logs import request_id_of_context, trace_ids_of_request
from telemetry.traces import trace_ids

NAME = "X-Request-Id"
_ACCEPTED = re.compile(rb"[A-Za-z0-9._:/+=@~-]{1,128}")
"""No white space and no quotes: an id must not look like another part of a log line, or like a line of its own."""


def request_id() -> str:
    """The id of the request that is being answered; `-` if there is none."""
    return request_id_of_context.get()


class RequestIdMiddleware:
    """Gives each request its id: the one that the caller sent, or else a random one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the id to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        name = NAME.lower().encode()
        sent = [value for header, value in scope["headers"] if header == name]
        value = sent[0] if len(sent) == 1 and _ACCEPTED.fullmatch(sent[0]) else secrets.token_hex(8).encode()
        # Not reset at the end: the server logs an unexpected error of the request after that, in the same context.
        request_id_of_context.set(value.decode())
        trace_ids_of_request.set(trace_ids())

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (name, value)]
            await send(message)

        await self.app(scope, receive, send_with_id)

"""Refuses requests that would wait too long, so that those that are admitted are answered soon.

A request waits at two places that have no limit of their own: for the event loop, while it handles the requests before
it, and for a thread. Above the capacity of the machine both queues would grow for as long as the load lasts, and every
caller would get its answer after its time-out. A refused request costs a fraction of one that is answered.
"""

import asyncio
import time

import anyio.to_thread
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_api.http.error_responses import error_response
from search_api.http.errors import OverloadedError
from search_api.http.root_path import route_path

MOST_LOOP_SECONDS = 0.25
"""A request that begins so long after others of the same round of the event loop is refused: it has waited as long."""
_EXEMPT = ("/healthz", "/readyz", "/metrics", "/mcp")
"""Probes are answered under any load. What an agent asks under `/mcp` is a request of its own."""


class OverloadMiddleware:
    """Answers 503 `overloaded` above a number of requests at once, or if the event loop is late.

    Each request that is admitted finds a free thread, so the number is that of the threads. A request does not count
    while its body is on the way: callers that send slowly, or are gone without a word, take no place from the others.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._running = 0
        self._round_began = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or route_path(scope) in _EXEMPT:
            await self.app(scope, receive, send)
            return
        if self._running >= _threads() or self._seconds_in_round() > MOST_LOOP_SECONDS:
            await error_response(OverloadedError())(scope, receive, send)
            return
        is_read = False

        async def receive_body() -> Message:
            nonlocal is_read
            if is_read:  # what follows tells that the caller has gone
                return await receive()
            self._running -= 1
            try:
                message = await receive()
            finally:
                self._running += 1
            is_read = not message.get("more_body", False)
            return message

        self._running += 1
        try:
            await self.app(scope, receive_body, send)
        finally:
            self._running -= 1

    def _seconds_in_round(self) -> float:
        """Seconds since the first request of this round, in which the loop handles everything that had arrived."""
        now = time.monotonic()
        if not self._round_began:
            self._round_began = now
            asyncio.get_running_loop().call_soon(self._end_round)
        return now - self._round_began

    def _end_round(self) -> None:
        self._round_began = 0.0


def _threads() -> float:
    return anyio.to_thread.current_default_thread_limiter().total_tokens

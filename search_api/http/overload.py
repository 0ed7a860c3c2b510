"""Refuses requests that would wait too long, so that those that are admitted are answered soon.

Python runs one thread at a time. If many want to run, each waits for all the others whenever it has called the system,
and so does the event loop for each connection that it accepts. So a request waits for one of a few threads, and one
more runs for each that waits for a model or a store (`search_api.http.waits`).

The queues for these threads and for the event loop have no limit of their own. Above the capacity of the machine they
would grow for as long as the load lasts, and every caller would get its answer after its time-out. A refused request
costs a fraction of one that is answered.
"""

import asyncio
import time
from typing import NamedTuple

import anyio
import anyio.to_thread
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from search_api.http.error_responses import error_response
from search_api.http.errors import OverloadedError
from search_api.http.root_path import route_path
from search_api.http.waits import set_waits

THREADS = 8
"""Threads that compute at once: enough for those that read files or multiply matrices without Python meanwhile."""
LOOK_SECONDS = 0.02
"""How often the threads that wait are counted, and how long they must have waited: a usual read of the catalogue takes
less, and mostly computes."""
CALM_SECONDS = 0.1
"""The longest round of the event loop without a queue."""
BURST_SECONDS = 15.0
"""How long there may be a queue before that is an overload. A machine that stood still for two seconds and has a fifth
of its capacity left needs eight more to catch up, and one that was slower for some seconds as well."""


class Limits(NamedTuple):
    """What is admitted."""

    computed: int
    """Requests that compute, or wait for a thread to do so, at once."""
    loop_seconds: float
    """A request may begin so long after others of the same round of the event loop: it has waited as long."""


IN_BURST = Limits(320, 2.0)
"""What a machine answers in two or three seconds: if it stood still for as long, none of these requests is refused."""
IN_OVERLOAD = Limits(40, 0.25)
"""A long queue would only delay the answers."""
WITHIN_REQUEST = "course_search.within_request"
"""Key of the scope of a request that the app sends to itself for one that it has admitted, and whose place it uses."""
_EXEMPT = ("/healthz", "/readyz", "/metrics")
"""Probes are answered under any load."""


class OverloadMiddleware:
    """Answers 503 `overloaded` above a number of requests at once, or if the event loop is late.

    A request does not count while its body or its answer is on the way: callers that send or read slowly, or are gone
    without a word, take no place from the others.

    Args:
        app: The app.
        most_waiting: Requests that wait for a model or a store, in addition to those that compute.
    """

    def __init__(self, app: ASGIApp, most_waiting: int) -> None:
        self.app = app
        self._most_waiting = most_waiting
        self._admitted = 0
        self._running = 0
        """Of these, without those whose body or answer is on the way."""
        self._calm_at = -BURST_SECONDS
        self._waits: dict[object, float] = {}
        self._is_looking = False
        self._round_began = self._round_ended = self._last_round_seconds = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] != "http" or route_path(scope) in _EXEMPT or WITHIN_REQUEST in scope:
            await self.app(scope, receive, send)
            return
        if refusal := self._refusal(self._seconds_in_round()):
            await error_response(refusal)(scope, receive, send)
            return
        has_begun = is_read = False

        async def receive_body() -> Message:
            nonlocal has_begun, is_read
            if is_read:  # what follows tells that the caller has gone
                return await receive()
            self._running -= 1
            try:
                message = await receive()
                has_just_begun, is_read = not has_begun, not message.get("more_body", False)
                # Many may have sent their heads before. A body in several parts is an upload, whose end is not refused.
                if has_just_begun and is_read and (refusal := self._refusal()):
                    raise HTTPException(refusal.status) from refusal  # FastAPI hides any other exception
            finally:
                self._running += 1
            has_begun = True
            return message

        async def send_answer(message: Message) -> None:
            self._running -= 1
            try:
                await send(message)
            finally:
                self._running += 1

        self._admitted += 1
        self._running += 1
        try:
            set_waits(self._waits)
            self._limit_threads(anyio.to_thread.current_default_thread_limiter())
            await self.app(scope, receive_body, send_answer)
        finally:
            self._running -= 1
            self._admitted -= 1

    def _refusal(self, in_round: float = 0.0) -> OverloadedError | None:
        """Why a request is refused that has waited so many seconds for the event loop."""
        now, computing = time.monotonic(), self._running - self._waiting()
        if computing < THREADS and max(in_round, self._last_round_seconds) < CALM_SECONDS:
            self._calm_at = now
        limits = IN_BURST if now - self._calm_at < BURST_SECONDS else IN_OVERLOAD
        if computing >= limits.computed:
            return OverloadedError("Too many requests are answered at once; try again")
        if self._running >= limits.computed + self._most_waiting:
            return OverloadedError("Too many requests wait for models and stores; try again")
        if in_round > limits.loop_seconds:
            return OverloadedError("The app is behind with its requests; try again")
        return None

    def _limit_threads(self, threads: anyio.CapacityLimiter) -> None:
        """Let THREADS threads compute, now and as long as there are requests."""
        number = THREADS + self._waiting()
        if threads.total_tokens != number:
            threads.total_tokens = number
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(LOOK_SECONDS, self._look, threads)

    def _look(self, threads: anyio.CapacityLimiter) -> None:
        self._is_looking = False
        if self._admitted:
            self._limit_threads(threads)

    def _waiting(self) -> int:
        longest_ago = time.monotonic() - LOOK_SECONDS
        return sum(began < longest_ago for began in tuple(self._waits.values()))

    def _seconds_in_round(self) -> float:
        """Seconds since the first request of this round, in which the loop handles everything that had arrived."""
        now = time.monotonic()
        if not self._round_began:
            if now > self._round_ended + CALM_SECONDS:
                self._last_round_seconds = 0.0  # no request has come since
            self._round_began = now
            asyncio.get_running_loop().call_soon(self._end_round)
        return now - self._round_began

    def _end_round(self) -> None:
        self._round_ended = time.monotonic()
        self._last_round_seconds = self._round_ended - self._round_began
        self._round_began = 0.0

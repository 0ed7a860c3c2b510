"""The header `Server-Timing`: how long the phases of a request took, for callers and the tools of browsers.

    with phase("embed"):
        vector = embed(query)

An answer has the header if one of its phases was measured. A phase is also a part of the request's trace.
"""

import time
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from telemetry.traces import span

NAME = "Server-Timing"
PHASES = "course_search.phases"
"""Key of the scope of a request: the seconds of each of its phases, for the metrics."""

_seconds_by_phase: ContextVar[dict[str, float] | None] = ContextVar("seconds_by_phase", default=None)


def phase(name: str) -> AbstractContextManager[None]:
    """Measure the block as a phase of the request that is being answered; outside of a request, nothing happens.

    Blocks of the same name are added up. It costs a microsecond, on the event loop and in `run_in_threadpool`.

    Args:
        name: A token of the header: letters, digits and `-`.
    """
    return _Phase(name)


class _Phase(AbstractContextManager[None]):
    """A class, because a generator would cost several times as much."""

    __slots__ = ("_name", "_span", "_started")

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        self._span = span(self._name)
        self._span.__enter__()
        self._started = time.perf_counter()

    def __exit__(self, *error: Any) -> None:
        self._span.__exit__(*error)
        seconds = _seconds_by_phase.get()
        if seconds is not None:
            seconds[self._name] = seconds.get(self._name, 0.0) + time.perf_counter() - self._started


class ServerTimingMiddleware:
    """Adds the header. `total` is the time from the receipt of the request to the start of its answer."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and add the header to its answer."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        seconds: dict[str, float] = {}
        scope[PHASES] = seconds
        _seconds_by_phase.set(seconds)

        async def send_with_timing(message: Message) -> None:
            if seconds and message["type"] == "http.response.start":
                total = {"total": time.perf_counter() - started}
                phases = ", ".join(f"{name};dur={1000 * value:.3f}" for name, value in (seconds | total).items())
                message["headers"] = [*message.get("headers", ()), (NAME.lower().encode(), phases.encode())]
            await send(message)

        await self.app(scope, receive, send_with_timing)

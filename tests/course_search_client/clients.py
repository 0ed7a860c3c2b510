"""Both clients behind one interface, so that each test checks both."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from course_search_client import AsyncCourseSearch, CourseSearch

Handler = Callable[[httpx.Request], httpx.Response]


class Blocking:
    """An `AsyncCourseSearch` whose methods can be called without asyncio."""

    def __init__(self, client: AsyncCourseSearch, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            async def run() -> Any:
                return await method(*arguments, **options)

            return self._runner.run(run())

        return call if inspect.iscoroutinefunction(method) else method


@contextmanager
def connect(kind: str, url: str = "http://app", handler: Handler | None = None, **options: Any) -> Iterator[Any]:
    """A client of this kind, `sync` or `async`.

    Args:
        kind: Which one.
        url: The address of the app.
        handler: Answers the requests instead of a server.
        options: Other arguments of the client.
    """
    transport = httpx.MockTransport(handler) if handler else None
    if kind == "sync":
        given = httpx.Client(transport=transport) if transport else None
        with CourseSearch(url, http=given, **options) as client:
            yield client
        if given:
            given.close()
        return
    with asyncio.Runner() as runner:
        given_async = httpx.AsyncClient(transport=transport) if transport else None
        async_client = AsyncCourseSearch(url, http=given_async, **options)
        yield Blocking(async_client, runner)
        runner.run(async_client.close())
        if given_async:
            runner.run(given_async.aclose())

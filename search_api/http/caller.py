"""Notices that the client of a request has gone, while a thread waits on its behalf.

A server tells an app about this only if the app asks, in a coroutine. Nobody asks for most requests, which are answered
in a moment; a thread asks when it begins to wait.
"""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from contextvars import ContextVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive


class _Caller:
    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.loop = asyncio.get_running_loop()
        self.has_gone = False

    async def watch(self, leave: Callable[[], object]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.has_gone = True
        leave()


_caller: ContextVar[_Caller | None] = ContextVar("caller", default=None)


def set_caller(receive: Receive) -> None:
    """Declare that the current task, and threads that it starts, answer a request.

    Args:
        receive: The request's channel, from which only the body is read elsewhere.
    """
    _caller.set(_Caller(receive))


@contextmanager
def unless_caller_leaves(leave: Callable[[], object]) -> Iterator[None]:
    """Wait in the block, on a thread, for something that the caller asked for, after its body was read.

    Args:
        leave: Called on the thread of the event loop if the client closes the connection. It should cancel what the
            block waits for.

    Raises:
        ClientDisconnect: The client has closed the connection, and what the block waited for was cancelled.
    """
    caller = _caller.get()
    if caller is None:
        yield
        return
    watch = asyncio.run_coroutine_threadsafe(caller.watch(leave), caller.loop)
    try:
        yield
    except CancelledError:
        if caller.has_gone:
            raise ClientDisconnect from None
        raise
    finally:
        watch.cancel()

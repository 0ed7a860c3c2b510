"""Checks of dependencies that end in time, even if a dependency never answers."""

import asyncio
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Generic, TypeVar

CHECK_SECONDS = 0.8
"""How long a probe waits for a dependency. By default Kubernetes waits one second for a probe."""

T = TypeVar("T")


class BoundedCheck(Generic[T]):
    """A check on a thread of its own: a dependency that hangs holds up no probe, and takes no thread from requests.

    While it runs, it is not started again; so probes do not pile up.

    Args:
        check: Returns if the dependency is available, and raises an error otherwise. What it returns is passed on.
    """

    def __init__(self, check: Callable[[], T]) -> None:
        self._check = check
        self._lock = Lock()
        self._running: Future[T] | None = None

    async def run(self) -> T:
        """Wait until the check ends, and return its result.

        Raises:
            TimeoutError: It has not ended within CHECK_SECONDS.
            Exception: The error of the check.
        """
        return await asyncio.wait_for(asyncio.wrap_future(self._result()), CHECK_SECONDS)

    def _result(self) -> Future[T]:
        with self._lock:
            if self._running is None or self._running.done():
                self._running = Future()
                self._running.set_running_or_notify_cancel()  # from now on, a probe that gives up cannot cancel it
                Thread(target=self._run, args=(self._running,), name="check", daemon=True).start()
            return self._running

    def _run(self, result: Future[T]) -> None:
        try:
            answer = self._check()
        except BaseException as error:  # noqa: BLE001 - the probe raises it
            result.set_exception(error)
        else:
            result.set_result(answer)

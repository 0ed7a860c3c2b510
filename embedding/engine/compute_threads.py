"""Threads that compute on the CPU.

Of bulk work each thread computes a batch of its own, alone. One batch spread over all processors makes them wait for
each other after every step; as many batches at once, each on one processor, don't. How a batch is spread also shows in
the last bits of its vectors, and here it never is.

A search is one short batch that somebody waits for: it is spread, and always from the same thread. The helpers that
torch (OpenMP) spreads work over belong to the thread that asked for them and stay with it. When those of several
threads are more than the processors, they no longer stay awake between two steps, and a query takes twice as long.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier, Lock
from typing import Self, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that share work."""

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    @classmethod
    def alone(cls, count: int) -> Self:
        """Each of which computes on one processor.

        torch keeps a number of threads for each thread, and one more that new threads begin with. Setting the former
        sets the latter too; it is put back when all of the workers have theirs.
        """
        import torch

        before = torch.get_num_threads()
        workers = cls(count, "embedding-alone")
        everyone = Barrier(count + 1)

        def compute_alone() -> None:
            torch.get_num_threads()  # or else the thread would begin with that later, and forget this
            torch.set_num_threads(1)
            everyone.wait()

        for _ in range(count):
            workers._pool.submit(compute_alone)
        everyone.wait()
        torch.set_num_threads(before)
        return workers

    def run(self, work: Callable[[], Result]) -> Result:
        """The result of one piece of work."""
        return self._pool.submit(work).result()

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
        """Results in the order of the items; a few items ahead of them are in work, so several callers take turns."""
        ahead: deque[Future[Result]] = deque()
        try:
            for item in items:
                ahead.append(self._pool.submit(work, item))
                if len(ahead) > self.count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()


def bulk_workers(count: int | None = None) -> Workers:
    """Those of this process: as many as torch has threads, or so many."""
    import torch

    with _starting:  # while some are started, torch tells others a wrong number
        return _alone(count or torch.get_num_threads())


def spreading_worker() -> Workers:
    """The one of this process whose work is spread over all processors; that work must not ask for it again."""
    with _starting:
        return _spreading()


_starting = Lock()
_alone = cache(Workers.alone)


@cache
def _spreading() -> Workers:
    return Workers(1, "embedding-spread")

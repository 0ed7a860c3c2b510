"""Threads for bulk work on the CPU: each computes a batch of its own, alone.

One batch spread over all processors makes them wait for each other after every step; as many batches at once, each on
one processor, don't. How a batch is spread also shows in the last bits of its vectors, and here it never is. A search
is one short batch that somebody waits for: it is spread.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that share work."""

    def __init__(self, count: int) -> None:
        """Start them.

        torch keeps a number of threads for each thread, and one more that new threads begin with. Setting the former
        sets the latter too; it is put back when all of the workers have theirs.
        """
        import torch

        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix="embedding")
        everyone = Barrier(count + 1)

        def compute_alone() -> None:
            torch.get_num_threads()  # or else the thread would begin with that later, and forget this
            torch.set_num_threads(1)
            everyone.wait()

        for _ in range(count):
            self._pool.submit(compute_alone)
        everyone.wait()
        torch.set_num_threads(count)

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


@cache
def workers(count: int) -> Workers:
    """Those of this process, started at the first call."""
    return Workers(count)

"""Thread pools that compute the forward passes on the CPU.

Bulk work computes one batch per core, each on a single-threaded worker. If one batch were spread over all cores, they
would wait for each other after every operation. The number of threads also changes the last bits of a vector, so it is
always one for documents.

A query is one short batch whose latency matters, so it is computed on all cores, always by the same thread. OpenMP,
which torch uses, keeps a separate set of threads for each thread that starts parallel work. If these sets together have
more threads than there are cores, idle OpenMP threads sleep instead of spinning between two operations, and a query
takes twice as long (docs/adr/0012).
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from threading import Barrier, Lock
from typing import Self, TypeVar

from embedding.engine.cpus import available_cpus

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """A pool of `count` threads."""

    def __init__(self, count: int, name: str) -> None:
        self.count = count
        self._pool = ThreadPoolExecutor(count, thread_name_prefix=name)

    @classmethod
    def single_threaded(cls, count: int) -> Self:
        """Create workers that compute on one core each.

        torch has a thread count per thread and a default for new threads. `torch.set_num_threads` changes both, so the
        default is restored after all workers are configured.
        """
        import torch

        default = torch.get_num_threads()
        workers = cls(count, "embedding-single")
        all_ready = Barrier(count + 1)

        def use_one_core() -> None:
            torch.get_num_threads()  # initializes this thread; a later initialization would undo the next line
            torch.set_num_threads(1)
            all_ready.wait()

        for _ in range(count):
            workers._pool.submit(use_one_core)
        all_ready.wait()
        torch.set_num_threads(default)
        return workers

    def run(self, function: Callable[[], Result]) -> Result:
        """Call the function on a worker and return its result."""
        return self._pool.submit(function).result()

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Generator[Result]:
        """Yield `function(item)` for each item, in order.

        At most `count` + 1 items are submitted at a time, so concurrent callers take turns.
        """
        submitted: deque[Future[Result]] = deque()
        try:
            for item in items:
                submitted.append(self._pool.submit(function, item))
                if len(submitted) > self.count:
                    yield submitted.popleft().result()
            while submitted:
                yield submitted.popleft().result()
        finally:
            for future in submitted:
                future.cancel()


def limit_torch_threads() -> None:
    """Let torch use at most the available CPUs, on this thread and on new ones; it does not know quotas itself."""
    import torch

    torch.set_num_threads(min(torch.get_num_threads(), available_cpus()))


def bulk_workers(count: int | None = None) -> Workers:
    """Return this process's single-threaded workers: `count` of them, or as many as torch uses threads."""
    import torch

    with _lock:  # while workers are created, torch's default thread count is 1
        limit_torch_threads()
        return _single_threaded_workers(count or torch.get_num_threads())


def multithreaded_worker() -> Workers:
    """Return this process's only worker that computes on all cores.

    Code that runs on it must not call its `run` or `map`: that would deadlock.
    """
    with _lock:
        return _multithreaded_worker()


_lock = Lock()
_single_threaded_workers = cache(Workers.single_threaded)


@cache
def _multithreaded_worker() -> Workers:
    return Workers(1, "embedding-multi")

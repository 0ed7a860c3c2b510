"""The resident memory of the current process."""

from threading import Event, Thread
from typing import Self

import psutil

INTERVAL_SECONDS = 0.005


class ResidentMemory:
    """Samples the memory of a `with` block: `before` at its start, `peak` its maximum, both in bytes.

    `ru_maxrss` cannot be used instead: on Linux a process inherits it from its parent.
    """

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self.before = self.peak = self._process.memory_info().rss
        self._ended = Event()
        self._sampler = Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self.peak = max(self.peak, self._process.memory_info().rss)

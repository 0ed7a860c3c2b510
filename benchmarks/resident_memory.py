"""How much memory a process takes while it does something."""

from threading import Event, Thread
from typing import Self

import psutil

INTERVAL_SECONDS = 0.005


class ResidentMemory:
    """Bytes of this process: at the start of the block, and the most until its end, looked at all the time.

    The system's own high-water mark would not do: a process inherits that of the one that started it.
    """

    def __enter__(self) -> Self:
        self._process = psutil.Process()
        self.before = self.peak = self._process.memory_info().rss
        self._ended = Event()
        self._watch = Thread(target=self._look)
        self._watch.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(INTERVAL_SECONDS):
            self.peak = max(self.peak, self._process.memory_info().rss)

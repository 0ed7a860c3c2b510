"""Memory, threads and file handles of the product's processes over time, and whether they grow."""

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import psutil

EVERY_SECONDS = 5.0
WARM_UP_SHARE = 1 / 3
"""The first part of the samples, while caches fill, is left out of the slope."""
MEASURES = ("rss_mb", "pss_mb", "threads", "files")
MOST_GROWTH = 0.05
"""Rise over the measured time, as a share of the mean, up to which a measure counts as flat."""
LEAST_GROWTH: Mapping[str, float] = {"rss_mb": 16, "pss_mb": math.inf, "threads": 4, "files": 8}
"""The same in its unit. The share of memory (PSS) also rises when another process that has the same files in memory
ends, so it is only shown."""


@dataclass(frozen=True)
class Growth:
    """A measure of a process over the time after the warm-up."""

    first: float
    last: float
    per_hour: float
    """Slope of the fitted line."""
    rise: float
    """What the line rises over the measured time."""
    is_flat: bool


class ProcessSampler:
    """Samples processes on a thread during its `with` block.

    Args:
        processes: Finds the processes of each name; a sample adds them up.
        every_seconds: Time between two samples.
    """

    def __init__(
        self, processes: Mapping[str, Callable[[], Sequence[psutil.Process]]], every_seconds: float = EVERY_SECONDS
    ) -> None:
        self._processes = processes
        self._every_seconds = every_seconds
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.samples: dict[str, list[dict[str, float]]] = {name: [] for name in processes}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def growth(self) -> dict[str, dict[str, Growth]]:
        """By process and measure; without processes that were sampled less than four times."""
        return {
            name: {measure: _growth(samples, measure) for measure in MEASURES}
            for name, samples in self.samples.items()
            if len(samples) >= 4
        }

    def _run(self) -> None:
        while True:
            for name, find in self._processes.items():
                with suppress(psutil.Error):
                    self.samples[name].append({"at": time.monotonic(), **_measured(find())})
            if self._ended.wait(self._every_seconds):
                return


def _measured(processes: Sequence[psutil.Process]) -> dict[str, float]:
    memory = [process.memory_full_info() for process in processes]
    return {
        "rss_mb": sum(each.rss for each in memory) / 2**20,
        "pss_mb": sum(getattr(each, "pss", each.uss) for each in memory) / 2**20,
        "threads": sum(process.num_threads() for process in processes),
        "files": sum(process.num_fds() for process in processes),
    }


def _growth(samples: Sequence[Mapping[str, Any]], measure: str) -> Growth:
    kept = samples[int(len(samples) * WARM_UP_SHARE) :]
    at = np.array([sample["at"] for sample in kept])
    values = np.array([sample[measure] for sample in kept])
    slope = float(np.polyfit(at - at[0], values, 1)[0]) if len(kept) > 1 else 0.0
    rise = slope * float(at[-1] - at[0])
    most = max(MOST_GROWTH * float(values.mean()), LEAST_GROWTH[measure])
    return Growth(float(values[0]), float(values[-1]), slope * 3600, rise, rise <= most)

"""What the processes of an app measure, shown together: any of them may be asked for the metrics.

`cli.web_server` starts them with a directory in the environment, where prometheus_client keeps the counters and
histograms of each process in a file. What an app only reads when it is asked, such as the size of its caches, each
process copies there every second. Without the directory, the app is one process, and nothing here has an effect.
"""

import logging
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from search_api.operations import families

logger = logging.getLogger(__name__)

DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
COPY_SECONDS = 1.0


def are_several() -> bool:
    """Whether the app runs as several processes."""
    return bool(os.environ.get(DIRECTORY))


class AllProcesses(Collector):
    """The metrics of all processes: sums, and of processes that have ended only what they counted.

    Args:
        read: What is read when this process is asked; the other processes copy theirs.
    """

    def __init__(self, read: Sequence[Collector]) -> None:
        self._read = read
        self._directory = Path(os.environ[DIRECTORY])
        self._registry = CollectorRegistry()
        self._metrics: dict[str, Counter | Gauge] = {}
        self._counted: dict[tuple[str, ...], float] = defaultdict(float)
        self._copying = threading.Lock()

    def copy(self) -> None:
        """Copy what this process reads to its files."""
        with self._copying:
            for collector in self._read:
                for metric in collector.collect():
                    self._copy(metric)

    def collect(self) -> Iterator[Metric]:
        """Everything that the processes have measured."""
        self.copy()
        for file in self._directory.glob("gauge_live*.db"):
            if (number := re.search(r"_(\d+)\.db", file.name)) and not _is_process(int(number[1])):
                _forget(int(number[1]))
        yield from MultiProcessCollector(None).collect()  # type: ignore[no-untyped-call]

    @contextmanager
    def copied(self) -> Iterator[None]:
        """Copy every second during the block."""
        stopping = threading.Event()

        def run() -> None:
            while not stopping.wait(COPY_SECONDS):
                self._try_to_copy()

        thread = threading.Thread(target=run, name="metrics", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stopping.set()
            thread.join()
            self._try_to_copy()
            _forget(os.getpid())

    def _try_to_copy(self) -> None:
        try:
            self.copy()
        except Exception:
            logger.exception("The metrics of this process could not be copied, so they may be old")

    def _copy(self, metric: Metric) -> None:
        family = families.BY_NAME[metric.name]
        shared = self._metrics.get(metric.name)
        if shared is None:
            make = family.counter if family.kind == "counter" else family.gauge
            shared = self._metrics[metric.name] = make(self._registry)
        for sample in metric.samples:
            labels = tuple(sample.labels[name] for name in family.label_names)
            series = shared.labels(*labels) if labels else shared
            if isinstance(series, Gauge):
                series.set(sample.value)
            else:
                before, self._counted[metric.name, *labels] = self._counted[metric.name, *labels], sample.value
                series.inc(sample.value - before if sample.value >= before else sample.value)  # it may have been reset


def _is_process(number: int) -> bool:
    """Whether a process of this app has this id."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(number)
        return process.ppid() == os.getppid() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _forget(process_id: int) -> None:
    """Delete the state of a process that has ended. What it counted remains."""
    with suppress(FileNotFoundError):  # another process deletes it too
        mark_process_dead(process_id)  # type: ignore[no-untyped-call]

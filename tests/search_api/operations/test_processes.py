"""Several processes of an app copy what they measure."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from search_api.operations import processes
from search_api.operations.processes import DIRECTORY, AllProcesses
from tests.search_api.app_harness import LIMIT_SECONDS


class Failing(Collector):
    def __init__(self) -> None:
        self.asked_again = threading.Event()
        self._asked = 0

    def collect(self) -> Iterator[Metric]:
        self._asked += 1
        if self._asked > 2:
            self.asked_again.set()
        yield from self._measured()

    def _measured(self) -> list[Metric]:
        raise OSError("the disk is full")


def test_failure_neither_ends_the_copies_nor_the_app(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(DIRECTORY, str(tmp_path))
    monkeypatch.setattr(processes, "COPY_SECONDS", 0.001)
    failing = Failing()
    with AllProcesses([failing]).copied():
        assert failing.asked_again.wait(LIMIT_SECONDS)
    assert "could not be copied" in caplog.text

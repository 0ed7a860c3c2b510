"""Fixtures: a collector, and a process that exports to it."""

import os
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from telemetry import traces
from tests.search_api.app_harness import AppHarness
from tests.telemetry.collector import Collector, collecting


@pytest.fixture(autouse=True)
def _environment() -> Iterator[None]:
    """Restore the environment, to which tracing adds the variables of `.env`; and tracing is off afterwards."""
    with patch.dict(os.environ):
        yield
        traces.stop_tracing()


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    """A collector that the variables name; tracing begins when a program starts it."""
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running
        traces.stop_tracing()  # before the collector


@pytest.fixture
def harness(tmp_path: Path) -> AppHarness:
    return AppHarness(tmp_path)

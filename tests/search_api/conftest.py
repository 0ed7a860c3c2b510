"""Fixtures of the search app's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from tests.search_api.app_harness import AppHarness, wait_patiently


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_patiently(monkeypatch)


@pytest.fixture
def harness(tmp_path: Path) -> AppHarness:
    return AppHarness(tmp_path)


@pytest.fixture
def client(harness: AppHarness) -> Iterator[TestClient]:
    with harness.client() as client:
        yield client

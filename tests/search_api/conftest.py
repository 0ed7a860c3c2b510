"""Fixtures of the search app's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from search_api.search import several_courses, snapshots
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness


@pytest.fixture(autouse=True)
def _long_load_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine, building a snapshot must not exceed the limits after which it is not waited for."""
    monkeypatch.setattr(snapshots, "SHORT_PATIENCE_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(several_courses, "PATIENCE_SECONDS", LIMIT_SECONDS)


@pytest.fixture
def harness(tmp_path: Path) -> AppHarness:
    return AppHarness(tmp_path)


@pytest.fixture
def client(harness: AppHarness) -> Iterator[TestClient]:
    with harness.client() as client:
        yield client

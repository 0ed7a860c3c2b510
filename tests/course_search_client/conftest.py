"""Fixtures of the client's tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import AppHarness, wait_patiently
from tests.support.servers.asgi import serving

TOKEN = "secret"


@pytest.fixture(autouse=True)
def _no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own settings of the client do not change a test."""
    monkeypatch.delenv("COURSE_SEARCH_URL", raising=False)
    monkeypatch.delenv("COURSE_SEARCH_TOKEN", raising=False)


@pytest.fixture(params=["sync", "async"])
def kind(request: pytest.FixtureRequest) -> str:
    """Which of the two clients is tested."""
    kind: str = request.param
    return kind


@pytest.fixture
def harness(tmp_path: Path) -> AppHarness:
    return AppHarness(tmp_path)


@pytest.fixture
def url(harness: AppHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of the app, which asks for `TOKEN`."""
    wait_patiently(monkeypatch)
    with serving(create_app(SearchSettings(internal_token=TOKEN), harness.services)) as url:
        yield url

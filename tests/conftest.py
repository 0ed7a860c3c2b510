"""Fixtures for all tests."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from tests.support.chroma import chroma_server
from tests.support.settings import SETTING_NAMES

settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")


LONGEST = ("faults", "e2e", "benchmarks")
"""Folders whose tests take longest; they start first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first, and keep each file on one worker of pytest-xdist (`--dist loadgroup`).

    A marker `xdist_group` on a test takes precedence over its file.
    """

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path)))


@pytest.fixture(autouse=True)
def _isolated_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run every test in an empty directory, without settings of the product in the environment."""
    for name in SETTING_NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def chroma_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of one Chroma server for the whole session. Tests use different course ids."""
    with chroma_server(tmp_path_factory.mktemp("chroma")) as url:
        yield url


@pytest.fixture
def vector_store(chroma_url: str) -> Iterator[VectorStore]:
    store = VectorStore(VectorStoreSettings(chroma_url=chroma_url))
    yield store
    store.close()

"""Fixtures for all tests."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from xdist.scheduler import LoadFileScheduling

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from tests.support.servers.chroma import chroma_server
from tests.support.servers.postgres import remove_server
from tests.support.settings import SETTING_NAMES

if TYPE_CHECKING:
    from xdist.remote import Producer

settings.register_profile("deterministic", deadline=None, derandomize=True)
settings.load_profile("deterministic")

# A shell ignores SIGINT in a background job, and its children inherit that; some tests send it to a child.
signal.signal(signal.SIGINT, signal.default_int_handler)

LONGEST = ("faults", "e2e", "benchmarks")
"""Folders whose tests take longest; they start first."""
PRODUCTS = ("a product", "another product")
"""Scopes of the tests that start the whole product."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first."""

    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)


class FileScheduling(LoadFileScheduling):  # type: ignore[misc] # xdist has no types
    """Runs a file's tests on one worker, and those that start the whole product on two of the workers.

    More than two products at a time would be so slow that tests run into their time limits. The fault tests of one
    database share a deployment, so they share a worker. pytest-xdist 3.8 has `--dist loadgroup` for this, which has no
    effect with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        if file.startswith("tests/faults/"):
            return PRODUCTS[nodeid.endswith("[postgres]")]
        if file.startswith("tests/e2e/"):
            return PRODUCTS[1]
        return PRODUCTS[0] if file.startswith("tests/benchmarks/") else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: "Producer") -> FileScheduling:
    return FileScheduling(config, log)


def pytest_sessionfinish() -> None:
    remove_server()


@pytest.fixture(autouse=True)
def _isolated_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run every test in an empty directory, without settings of the product in the environment."""
    traced = [name for name in os.environ if name.startswith("OTEL_")]
    for name in (*SETTING_NAMES, *traced):
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

"""Fixtures for the checks: a complete installation with a tiny model and its own Chroma server."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.directory_lock import lock_directory
from embedding.vector_store.files import SERVER_LOCK
from embedding.vector_store.server import VectorStoreSettings
from tests.maintenance.checks.installation import DIMENSIONS, add_published_course
from tests.support.catalogue import Catalogue
from tests.support.servers.chroma import chroma_server
from tests.support.tiny_models import make_tiny_qwen3


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("model"), hidden_size=DIMENSIONS)


@pytest.fixture(scope="session")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A separate server, because these tests check all of its collections."""
    directory = tmp_path_factory.mktemp("doctor") / "chroma"
    directory.mkdir()
    with chroma_server(directory) as url:
        yield url, directory


@pytest.fixture
def store(
    chroma: tuple[str, Path], tiny_model: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VectorStore]:
    """A complete installation with a catalogue, an empty vector store and a model."""
    url, directory = chroma
    monkeypatch.setenv("CHROMA_URL", url)
    monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    store = VectorStore(VectorStoreSettings())
    for collection in list(store.collections()):
        store.connect().delete_collection(collection.name)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)  # Chroma does not remove the files of deleted collections
    lock = lock_directory(directory, SERVER_LOCK)
    yield store
    os.close(lock)
    store.close()


@pytest.fixture
def intact_course(catalogue: Catalogue, store: VectorStore) -> None:
    """A published course without a fault."""
    add_published_course(catalogue, store, "intact")

"""Fixtures for backup, restore, rebuild and the checks: catalogues, a stopped product, and an archive."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cli.processes import free_port
from embedding.vector_store.archive import create_archive
from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.offline import OfflineVectorStore
from tests.maintenance.restoring import CHROMA, PRESENT, SAVED
from tests.models.conftest import templates, text_catalogue  # noqa: F401 - fixtures
from tests.support.commands import catalogue, pipeline  # noqa: F401 - fixtures
from tests.support.courses import empty_catalogue
from tests.support.published import MODEL, SIGNATURE, add_courses, publish, records_of


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Chroma server answers at CHROMA_URL."""
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An empty SQLite catalogue; DATABASE_URL points to it."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/catalogue.db")
    engine = empty_catalogue(tmp_path / "catalogue.db")
    yield engine
    engine.dispose()


@pytest.fixture
def stopped_product(engine: Engine) -> Engine:
    """The catalogue of a stopped product with the courses `kept`, `changed` and `new`; the first two are published."""
    add_courses(engine, "kept", "changed", "new")
    store = OfflineVectorStore(CHROMA)
    for course_id in ("kept", "changed"):
        publish(engine, store, course_id, PRESENT)
    store.close()
    return engine


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """An older backup, from a time when there was a course `gone` and no course `new`."""
    path = tmp_path / "backup.zip"
    with create_archive(path) as archive:
        for course_id in ("kept", "changed", "gone"):
            records, vectors, fingerprint = records_of(course_id, SAVED)
            with archive.spool([(records, vectors)], lambda _: None) as spool:
                archive.add(spool, CollectionInfo(course_id, MODEL, SIGNATURE), 1, fingerprint)
    return str(path)

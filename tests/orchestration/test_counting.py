"""What the pipeline counts for the metrics of the search app."""

import sqlite3
from contextlib import suppress
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from documents.document import Block, Document, Kind, UnreadableFileError
from embedding.errors import EmbeddingServiceUnreachableError
from embedding.vector_store.errors import VectorStoreUnreachableError
from embedding.vector_store.indexing import EmptyCourseError
from models import counters, course_state
from models.database import DatabaseNotMigratedError, DatabaseUnavailableError, UnreadableDataError, transaction
from models.tables import EmbeddingStatus
from orchestration.counting import count, kind_of
from orchestration.resources import CatalogueResource
from orchestration.uploaded_files import file_run
from retrieval.snapshots.store import SnapshotError, SnapshotStoreError
from tests.orchestration.ticks import Resources, course_status_tick, materialize
from tests.orchestration.uploaded_files.uploads import read, upload
from tests.support.courses import change_course, numbered_texts, read_course, write_course


def counted(engine: Engine) -> dict[str, float]:
    """The counters that are not zero, without times and tokens."""
    with transaction(engine) as session:
        values = counters.read(session)
    return {
        "/".join(filter(None, counter)): value
        for counter, value in values.items()
        if value and counter[0] not in ("tokens", "indexing_seconds", "model_load_seconds")
    }


@pytest.mark.integration
def test_publications_failures_and_retries_are_counted(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    texts = numbered_texts(course_id)
    write_course(catalogue, course_id, texts)
    assert materialize(instance, resources, course_id).success
    expected = {"courses_published": 1, "chunks/embedded": 3}
    assert counted(catalogue) == expected
    with transaction(catalogue) as session:
        values = counters.read(session)
    assert values["tokens", ""] > 3
    assert values["indexing_seconds", ""] > 0
    assert values["model_load_seconds", ""] > 0

    def fail(*_: object, **__: object) -> bool:
        raise DatabaseUnavailableError("The database is unavailable.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course_state, "record_attempt", fail)
        assert not materialize(instance, resources, course_id).success
    expected |= {"course_failures/catalogue": 1}
    assert counted(catalogue) == expected
    assert read_course(catalogue, course_id).embedding_retry_at is not None
    deleted, *_ = texts
    write_course(catalogue, course_id, {chunk_id: text for chunk_id, text in texts.items() if chunk_id != deleted})
    assert materialize(instance, resources, course_id).success
    assert counted(catalogue) == expected | {
        "course_retries": 1,
        "courses_published": 2,
        "chunks/kept": 2,
        "chunks/deleted": 1,
    }


@pytest.mark.integration
def test_a_publication_does_not_need_the_counters(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, tmp_path: Path, course_id: str
) -> None:
    write_course(catalogue, course_id, numbered_texts(course_id))
    with sqlite3.connect(tmp_path / "catalogue.db") as connection:
        connection.execute("DROP TABLE course_search_counter")
    connection.close()
    assert materialize(instance, resources, course_id).success
    assert read_course(catalogue, course_id).embedding_status == EmbeddingStatus.DONE


@pytest.mark.integration
@pytest.mark.parametrize("cancelled", [True, False])
def test_interruptions_are_no_errors(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str, cancelled: bool
) -> None:
    write_course(catalogue, course_id, numbered_texts(course_id))

    def interrupt(*_: object) -> bool:
        [run] = instance.get_runs()
        if cancelled:
            instance.report_run_canceling(run)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(course_state, "report_progress", interrupt)
        materialize(instance, resources, course_id)
    assert counted(catalogue) == {f"course_failures/{'cancelled' if cancelled else 'interrupted'}": 1}


def test_a_dead_worker_is_counted_once(instance: dg.DagsterInstance, catalogue: Engine, course_id: str) -> None:
    write_course(catalogue, course_id, numbered_texts(course_id))
    change_course(catalogue, course_id, embedding_status=EmbeddingStatus.RUNNING, embedding_run_id="unknown")
    for _ in range(2):
        course_status_tick(instance)
    assert counted(catalogue) == {"course_failures/worker_died": 1}


@pytest.mark.usefixtures("resources")
def test_uploaded_files_are_counted_by_result(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_document(path: Path, name: str, **_: object) -> Document:
        if name == "unreadable":
            raise UnreadableFileError("It cannot be read.")
        if name == "away":
            raise OSError("The disk is away.")
        return Document("text", blocks=[Block(Kind.TEXT, "Copper is red.")])

    monkeypatch.setattr(file_run, "read_document", read_document)
    for name in ("unreadable", "away", "readable"):
        upload(catalogue, name)
    read(instance)
    expected = {"resources/failed": 1, "resources/postponed": 1, "resources/succeeded": 1, "resource_chunks": 1}
    assert counted(catalogue) == expected


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (EmptyCourseError(), "content"),
        (UnreadableDataError(), "content"),
        (DatabaseNotMigratedError(), "catalogue"),
        (VectorStoreUnreachableError(), "vector_store"),
        (EmbeddingServiceUnreachableError("away"), "embedding"),
        (SnapshotError(), "snapshot"),
        (SnapshotStoreError(), "snapshot"),
        (KeyError("unexpected"), "other"),
    ],
)
def test_failures_are_counted_by_kind(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind
    assert kind in counters.FAILURE_KINDS


def test_nothing_is_written_if_nothing_happened(catalogue: Engine, tmp_path: Path) -> None:
    """Every write makes the search apps read their courses again."""
    resource = CatalogueResource(database_url=f"sqlite:///{tmp_path / 'missing.db'}")
    count(resource, {("course_retries", ""): 0})
    assert not (tmp_path / "missing.db").exists()
    count(resource, {("course_retries", ""): 1})  # fails, and is only logged

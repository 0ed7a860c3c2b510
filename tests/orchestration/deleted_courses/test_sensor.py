"""`deleted_course_sensor` with a real catalogue, Chroma server and Dagster instance."""

from types import SimpleNamespace

import dagster as dg
import pytest
from sqlalchemy import Engine, text

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from orchestration.partitions import PARTITIONS_NAME
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore, directory_name
from tests.orchestration.ticks import deleted_course_tick
from tests.support.courses import write_course
from tests.support.servers.chroma import has_collection

pytestmark = pytest.mark.integration


def delete_row(catalogue: Engine, course_id: str) -> None:
    with catalogue.begin() as connection:
        connection.execute(text("DELETE FROM course WHERE id = :id"), {"id": course_id})


@pytest.fixture
def kept_course_id(catalogue: Engine, course_id: str, other_course_id: str) -> str:
    """Two embedded courses, of which the row of `course_id` is deleted; returns the id of the other course."""
    delete_row(catalogue, course_id)
    return other_course_id


def test_a_deleted_course_loses_collection_snapshot_and_partition_in_the_second_tick(
    instance: dg.DagsterInstance, vector_store: VectorStore, course_id: str, kept_course_id: str
) -> None:
    first = deleted_course_tick(instance)
    assert first.skip_message == "1 partitions have no course"
    assert has_collection(vector_store, course_id)
    second = deleted_course_tick(instance, first.cursor)
    assert instance.get_dynamic_partitions(PARTITIONS_NAME) == [kept_course_id]
    assert not has_collection(vector_store, course_id)
    assert has_collection(vector_store, kept_course_id)
    assert SnapshotStore(SnapshotSettings()).directories() == [directory_name(kept_course_id)]
    assert deleted_course_tick(instance, second.cursor).skip_message == "Every partition has a course"


@pytest.mark.usefixtures("kept_course_id")
def test_a_deleted_course_is_removed_after_the_vector_store_is_reachable_again(
    instance: dg.DagsterInstance,
    vector_store: VectorStore,
    course_id: str,
    chroma_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cursor = deleted_course_tick(instance).cursor
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    skipped = deleted_course_tick(instance, cursor)
    assert "cannot be reached" in skipped.skip_message
    assert course_id in instance.get_dynamic_partitions(PARTITIONS_NAME)
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    deleted_course_tick(instance, skipped.cursor)
    assert course_id not in instance.get_dynamic_partitions(PARTITIONS_NAME)
    assert not has_collection(vector_store, course_id)


def test_nothing_is_removed_if_no_remaining_course_has_a_collection(
    instance: dg.DagsterInstance, catalogue: Engine, vector_store: VectorStore, course_id: str, kept_course_id: str
) -> None:
    delete_row(catalogue, kept_course_id)
    write_course(catalogue, "of another catalogue", {"a": "Copper"})
    cursor = deleted_course_tick(instance).cursor
    assert "nothing is removed" in deleted_course_tick(instance, cursor).skip_message
    assert len(instance.get_dynamic_partitions(PARTITIONS_NAME)) == 2
    assert has_collection(vector_store, course_id)


@pytest.mark.usefixtures("kept_course_id")
def test_nothing_is_removed_while_a_backfill_is_in_progress(
    instance: dg.DagsterInstance, course_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A backfill whose partition disappears fails as a whole, and Dagster cancels the runs of its other courses."""
    cursor = deleted_course_tick(instance).cursor
    with monkeypatch.context() as patch:  # Dagster has no public function that creates a backfill
        backfill = SimpleNamespace(status=SimpleNamespace(name="REQUESTED"))
        patch.setattr(dg.DagsterInstance, "get_backfills", lambda *_, **__: [backfill])
        waiting = deleted_course_tick(instance, cursor)
    assert waiting.skip_message == "1 partitions have no course; they are removed when no backfill is in progress"
    deleted_course_tick(instance, waiting.cursor)
    assert course_id not in instance.get_dynamic_partitions(PARTITIONS_NAME)

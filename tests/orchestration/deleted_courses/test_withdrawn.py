"""`withdrawn_course_sensor` with a real catalogue, Chroma server and Dagster instance."""

from datetime import UTC, datetime

import dagster as dg
import pytest
from sqlalchemy import Engine, text

from embedding.vector_store.collections import VectorStore
from models import resources
from models.course_state import request_embedding, reset_all
from models.database import transaction
from models.resources import NewChunk
from orchestration.deleted_courses.withdrawn import withdrawn_course_sensor
from orchestration.partitions import PARTITION_TAG, PARTITIONS_NAME
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore, directory_name
from tests.orchestration.ticks import (
    Resources,
    Tick,
    course_status_tick,
    create_run,
    fail_unfinished_runs,
    materialize,
    stage_one_tick,
    tick,
)
from tests.support.courses import change_course, read_course
from tests.support.servers.chroma import has_collection

pytestmark = pytest.mark.integration
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def withdrawn_tick(instance: dg.DagsterInstance, cursor: str | None = None) -> Tick:
    return tick(withdrawn_course_sensor, instance, cursor)


def add_file(catalogue: Engine, course_id: str, name: str = "a.pdf") -> str:
    """Upload a file and read it; returns its id."""
    with transaction(catalogue) as session:
        resources.create_course(session, course_id)
        resource = resources.put_resource(session, course_id, name, size=1, sha256="1", now=NOW)
        claimed = resources.claim(session, resource.resource_id, "run", NOW)
        assert claimed is not None
        passages = [NewChunk(f"Copper of {name}", 1, 1, "en", {})]
        assert resources.succeed(session, claimed, passages, source_type="pdf", now=NOW)
    return resource.resource_id


def delete_file(catalogue: Engine, resource_id: str) -> None:
    with transaction(catalogue) as session:
        assert resources.delete_resource(session, resource_id)


@pytest.fixture
def resource_id(catalogue: Engine, instance: dg.DagsterInstance, resources: Resources, course_id: str) -> str:
    """A file of the published course."""
    resource_id = add_file(catalogue, course_id)
    assert materialize(instance, resources, course_id).success
    return resource_id


def is_stored(vector_store: VectorStore, course_id: str) -> bool:
    has_snapshot = directory_name(course_id) in SnapshotStore(SnapshotSettings()).directories()
    assert has_collection(vector_store, course_id) == has_snapshot
    return has_snapshot


def test_texts_of_a_course_without_files_are_removed_at_once(
    catalogue: Engine, instance: dg.DagsterInstance, vector_store: VectorStore, course_id: str, resource_id: str
) -> None:
    assert withdrawn_tick(instance).skip_message == "No course is withdrawn"
    assert is_stored(vector_store, course_id)
    delete_file(catalogue, resource_id)
    first = withdrawn_tick(instance)
    assert first.skip_message == "Removed the texts of 1 courses"
    assert not is_stored(vector_store, course_id)
    assert withdrawn_tick(instance, first.cursor).skip_message == "No course is withdrawn", "it is done once"
    assert instance.get_dynamic_partitions(PARTITIONS_NAME) == [course_id]


def test_the_course_can_be_filled_and_embedded_again(
    catalogue: Engine,
    instance: dg.DagsterInstance,
    resources: Resources,
    vector_store: VectorStore,
    course_id: str,
    resource_id: str,
) -> None:
    delete_file(catalogue, resource_id)
    cursor = withdrawn_tick(instance).cursor
    second = add_file(catalogue, course_id)
    assert stage_one_tick(instance).launched == [[course_id]]
    fail_unfinished_runs(instance)
    assert materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_generation) == ("done", 3)
    withdrawn_tick(instance, cursor)
    assert is_stored(vector_store, course_id)
    delete_file(catalogue, second)
    withdrawn_tick(instance, cursor)
    assert not is_stored(vector_store, course_id)


@pytest.mark.parametrize("reason", ["another file", "a request", "an unfinished run", "another catalogue"])
def test_texts_are_kept(
    catalogue: Engine,
    instance: dg.DagsterInstance,
    vector_store: VectorStore,
    course_id: str,
    resource_id: str,
    reason: str,
) -> None:
    """While something may need them, or if the vector store contradicts the catalogue."""
    delete_file(catalogue, resource_id)
    if reason == "another file":
        add_file(catalogue, course_id, "b.pdf")
    elif reason == "a request":
        with transaction(catalogue) as session:
            assert request_embedding(session, course_id, NOW)
    elif reason == "an unfinished run":
        create_run(instance, {PARTITION_TAG: course_id}, dg.DagsterRunStatus.STARTED)
    else:
        add_file(catalogue, "published elsewhere")
        change_course(
            catalogue,
            "published elsewhere",
            embedding_status="done",
            embedding_fingerprint=f"v1:1:1:{'0' * 64}:model",
        )
    withdrawn_tick(instance)
    assert is_stored(vector_store, course_id)


def test_a_run_that_was_launched_before_has_nothing_to_do(
    catalogue: Engine, instance: dg.DagsterInstance, resources: Resources, course_id: str
) -> None:
    """It does not mark the empty course as failed."""
    resource_id = add_file(catalogue, course_id)
    [request] = stage_one_tick(instance).requests
    course_status_tick(instance)
    delete_file(catalogue, resource_id)
    result = materialize(instance, resources, course_id, run_config=request.run_config)
    assert result.success
    assert read_course(catalogue, course_id).embedding_status == "not_started"


def test_a_restore_in_progress_removes_nothing(
    catalogue: Engine, instance: dg.DagsterInstance, vector_store: VectorStore, course_id: str, resource_id: str
) -> None:
    """Its courses look withdrawn, but they have chunks."""
    with transaction(catalogue) as session:
        reset_all(session)
        assert session.scalar(text("SELECT count(*) FROM chunk")) == 1
    withdrawn_tick(instance)
    assert is_stored(vector_store, course_id)

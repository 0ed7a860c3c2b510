"""A text is embedded once: what runs of copied courses do, with a real Chroma server and a tiny model."""

import logging
from collections.abc import Mapping
from functools import partial

import dagster as dg
import pytest
from sqlalchemy import Engine

from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from models.counters import read
from models.database import DatabaseUnavailableError, transaction
from models.embedded_texts import count_texts, delete_texts
from orchestration.course_run import published_texts
from orchestration.course_run.published_texts import record_published_texts
from orchestration.partitions import COLLECTION, PARTITIONS_NAME, RANGE_END_TAG, RANGE_START_TAG, SNAPSHOT
from orchestration.resources import CatalogueResource
from tests.orchestration.ticks import Resources, deleted_course_tick, materialize, metadata_of, run_config
from tests.support.courses import numbered_texts, read_course, write_course

pytestmark = pytest.mark.integration


@pytest.fixture
def copy_id(instance: dg.DagsterInstance, course_id: str) -> str:
    """The id of another course with a partition."""
    copy_id = f"copy-of-{course_id}"
    instance.add_dynamic_partitions(PARTITIONS_NAME, [copy_id])
    return copy_id


def entries(engine: Engine, course_id: str) -> int:
    with transaction(engine) as session:
        return count_texts(session, course_id)


def forget(engine: Engine, course_id: str) -> None:
    with transaction(engine) as session:
        delete_texts(session, course_id)


def figures(metadata: Mapping[str, object]) -> tuple[object, ...]:
    return tuple(metadata[name] for name in ("embedded", "reused", "reused_from_other_courses", "kept", "tokens"))


def test_a_run_of_two_copies_embeds_one_and_both_are_searchable(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    course_id: str,
    copy_id: str,
) -> None:
    for course in (course_id, copy_id):
        write_course(catalogue, course, numbered_texts(course))
    result = materialize(instance, resources, tags={RANGE_START_TAG: course_id, RANGE_END_TAG: copy_id})
    assert result.success
    shown = {
        event.partition: {name: value.value for name, value in event.materialization.metadata.items()}
        for event in result.get_asset_materialization_events()
        if event.asset_key == COLLECTION
    }
    assert figures(shown[course_id])[:4] == (3, 0, 0, 0)
    assert figures(shown[copy_id]) == (0, 3, 3, 0, 0)
    assert "tokens_per_second" not in shown[copy_id]
    for course in (course_id, copy_id):
        row = read_course(catalogue, course)
        assert (row.embedding_status, row.embedding_progress, entries(catalogue, course)) == ("done", 1.0, 3)
        assert vector_store.open(course).count() == 3
    assert all(check.passed for check in result.get_asset_check_evaluations())
    with transaction(catalogue) as session:
        assert {kind: value for (name, kind), value in read(session).items() if name == "chunks" and value} == {
            "embedded": 3,
            "reused": 3,
        }


def test_vectors_from_elsewhere_replace_the_snapshot(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    course_id: str,
    copy_id: str,
) -> None:
    """A collection that was lost is made of the copy's vectors, which need not be those in the snapshot."""
    for course in (course_id, copy_id):
        write_course(catalogue, course, numbered_texts(course))
        materialize(instance, resources, course)
    vector_store.delete(course_id)
    result = materialize(instance, resources, course_id)
    assert figures(metadata_of(result)) == (0, 3, 3, 0, 0)
    assert metadata_of(result, SNAPSHOT)["kept"] is False
    vector_store.delete(course_id)
    rebuilt = metadata_of(materialize(instance, resources, course_id, run_config=run_config(rebuild=True)))
    assert figures(rebuilt)[:3] == (3, 0, 0), "a rebuild trusts no copy"


def test_courses_of_an_earlier_version_are_recorded_by_the_next_run(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str, copy_id: str
) -> None:
    write_course(catalogue, course_id, numbered_texts(course_id))
    materialize(instance, resources, course_id)
    forget(catalogue, course_id)
    write_course(catalogue, copy_id, numbered_texts(copy_id))
    assert figures(metadata_of(materialize(instance, resources, copy_id))) == (0, 3, 3, 0, 0)
    assert entries(catalogue, course_id) == 3


def test_texts_that_the_collection_does_not_have_yet_are_not_recorded(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    """The course was changed after its publication."""
    write_course(catalogue, course_id, numbered_texts(course_id))
    materialize(instance, resources, course_id)
    forget(catalogue, course_id)
    write_course(catalogue, course_id, {**numbered_texts(course_id), "new": "A new text."})
    record_published_texts(CatalogueResource(), EmbeddingSettings().context, lambda: None)
    assert entries(catalogue, course_id) == 0


def test_recording_stops_at_its_limit_and_no_error_stops_a_run(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    write_course(catalogue, course_id, numbered_texts(course_id))
    materialize(instance, resources, course_id)
    forget(catalogue, course_id)
    record = partial(record_published_texts, CatalogueResource(), EmbeddingSettings().context, lambda: None)
    with monkeypatch.context() as patch:
        patch.setattr(published_texts, "RECORDING_SECONDS", -1.0)
        record()
    assert entries(catalogue, course_id) == 0

    def fail(*_: object) -> object:
        raise DatabaseUnavailableError("The database is away.")

    for name in ("record_texts", "published_without_texts"):
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING, published_texts.__name__):
            patch.setattr(published_texts, name, fail)
            record()
    assert [message.split(":")[0] for message in caplog.messages] == [
        f"The texts of course {course_id} may be embedded again for other courses",
        "Texts of published courses may be embedded again for other courses",
    ]
    record()
    assert entries(catalogue, course_id) == 3


def test_the_entries_go_with_the_course(
    instance: dg.DagsterInstance, catalogue: Engine, other_course_id: str, course_id: str
) -> None:
    assert (entries(catalogue, course_id), entries(catalogue, other_course_id)) == (1, 1)
    with catalogue.begin() as connection:
        connection.exec_driver_sql("DELETE FROM course WHERE id = ?", (course_id,))
    deleted_course_tick(instance, deleted_course_tick(instance).cursor)
    assert (entries(catalogue, course_id), entries(catalogue, other_course_id)) == (0, 1)

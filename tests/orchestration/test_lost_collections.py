"""`lost_collection_sensor` with a real catalogue, Chroma server and Dagster instance."""

import dagster as dg
import pytest
from sqlalchemy import Engine

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from orchestration.lost_collections import lost_collection_sensor
from tests.orchestration.ticks import stage_one_tick, tick
from tests.support.courses import read_course

pytestmark = pytest.mark.integration


def test_a_course_whose_collection_is_gone_is_requested_in_the_second_tick(
    instance: dg.DagsterInstance, catalogue: Engine, vector_store: VectorStore, course_id: str, other_course_id: str
) -> None:
    """One look could fall between the publication of a course and the listing of the collections."""
    assert tick(lost_collection_sensor, instance).skip_message == "Every done course has a collection"
    vector_store.create_copy(course_id, vector_store.open(course_id).info)
    vector_store.call(lambda: vector_store.connect().delete_collection(vector_store.open(course_id).name))
    first = tick(lost_collection_sensor, instance)
    assert "the next tick looks again" in first.skip_message
    assert read_course(catalogue, course_id).embedding_status == "done"
    second = tick(lost_collection_sensor, instance, first.cursor)
    assert course_id in second.skip_message
    assert read_course(catalogue, course_id).embedding_status == "pending"
    assert read_course(catalogue, other_course_id).embedding_status == "done"
    assert stage_one_tick(instance).launched == [[course_id]]
    assert tick(lost_collection_sensor, instance, second.cursor).skip_message == "Every done course has a collection"


def test_nothing_is_requested_while_the_vector_store_is_unreachable(
    instance: dg.DagsterInstance,
    catalogue: Engine,
    course_id: str,
    other_course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    cursor = f'["{course_id}", "{other_course_id}"]'
    assert "cannot be reached" in tick(lost_collection_sensor, instance, cursor).skip_message
    assert read_course(catalogue, course_id).embedding_status == "done"

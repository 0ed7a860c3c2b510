"""Runs of several courses, and runs of one of the two assets."""

from uuid import uuid4

import dagster as dg
import pytest
from sqlalchemy import Engine

from embedding.loader import load_embedding_model
from embedding.model_settings import EmbeddingSettings
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from orchestration.partitions import COLLECTION, KEYWORD_INDEX, PARTITIONS_NAME, RANGE_END_TAG, RANGE_START_TAG
from retrieval.keywords.store import KeywordSettings, KeywordStore
from tests.orchestration.ticks import Resources, materialize
from tests.support.courses import read_course, write_course

pytestmark = pytest.mark.integration


@pytest.fixture
def course_ids(instance: dg.DagsterInstance) -> list[str]:
    """The ids of four courses with consecutive partitions."""
    unique_ids = [f"course-{uuid4()}" for _ in range(4)]
    instance.add_dynamic_partitions(PARTITIONS_NAME, unique_ids)
    return unique_ids


def texts(course_id: str, count: int = 2) -> dict[str, str]:
    return {f"{course_id}/{number}": f"Copper of board number {number}" for number in range(count)}


def materialize_range(
    instance: dg.DagsterInstance, resources: Resources, course_ids: list[str]
) -> dg.ExecuteInProcessResult:
    return materialize(instance, resources, tags={RANGE_START_TAG: course_ids[0], RANGE_END_TAG: course_ids[-1]})


def test_a_failed_course_does_not_fail_the_other_courses_of_its_run(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_ids: list[str]
) -> None:
    for course_id in course_ids[:3]:
        write_course(catalogue, course_id, texts(course_id, 0 if course_id == course_ids[1] else 2))
    result = materialize_range(instance, resources, course_ids)
    assert not result.success
    statuses = [read_course(catalogue, course_id).embedding_status for course_id in course_ids[:3]]
    assert statuses == ["done", "failed", "done"]
    [failure] = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    assert "2 of 4 courses failed" in error.message
    assert course_ids[1] in error.message
    assert f"There is no course {course_ids[3]}" in error.message
    assert instance.get_materialized_partitions(COLLECTION) == {course_ids[0], course_ids[2]}


def test_a_run_loads_the_model_once(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_ids: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loads: list[EmbeddingSettings] = []

    def load(settings: EmbeddingSettings) -> object:
        loads.append(settings)
        return load_embedding_model(settings)

    monkeypatch.setattr("embedding.embedder.load_embedding_model", load)
    for course_id in course_ids:
        write_course(catalogue, course_id, texts(course_id))
    assert materialize_range(instance, resources, course_ids).success
    assert len(loads) == 1


@pytest.mark.parametrize("selected", [COLLECTION, KEYWORD_INDEX], ids=lambda key: key.to_user_string())
def test_a_run_of_one_asset_publishes_both(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str, selected: dg.AssetKey
) -> None:
    write_course(catalogue, course_id, texts(course_id))
    assert materialize(instance, resources, course_id, selection=[selected]).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.DONE
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    assert published is not None
    assert len(KeywordStore(KeywordSettings()).load(course_id, published.content).chunk_ids) == 2
    for asset in (COLLECTION, KEYWORD_INDEX):
        assert instance.get_materialized_partitions(asset) == {course_id}

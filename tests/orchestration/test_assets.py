"""Runs of several courses, and runs of one of the two assets."""

from collections.abc import Iterator
from uuid import uuid4

import dagster as dg
import pytest
from sqlalchemy import Engine

from embedding.loader import load_embedding_model
from embedding.model_settings import EmbeddingSettings
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from orchestration.course_run.run import CourseRun
from orchestration.partitions import COLLECTION, PARTITIONS_NAME, RANGE_END_TAG, RANGE_START_TAG, SNAPSHOT
from orchestration.workers import Worker, register_worker
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from tests.orchestration.ticks import Resources, fail_unfinished_runs, materialize, stage_one_tick
from tests.support.courses import read_course, write_course
from tests.support.published import ANY_GENERATION

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


def test_a_run_of_the_sensor_embeds_the_courses_of_its_configuration(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_ids: list[str]
) -> None:
    """The range has one course more: a partition was added again at another place while the run waited."""
    for course_id in course_ids[:2]:
        write_course(catalogue, course_id, texts(course_id))
    [request] = stage_one_tick(instance).requests
    fail_unfinished_runs(instance)
    tags = {RANGE_START_TAG: course_ids[0], RANGE_END_TAG: course_ids[2]}
    assert materialize(instance, resources, tags=tags, run_config=request.run_config).success
    assert instance.get_materialized_partitions(COLLECTION) == set(course_ids[:2])


@pytest.mark.parametrize("launched_by_sensor", [True, False])
def test_a_partition_at_the_end_of_the_range_is_deleted_while_the_run_starts(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_ids: list[str],
    monkeypatch: pytest.MonkeyPatch,
    launched_by_sensor: bool,
) -> None:
    for course_id in course_ids:
        write_course(catalogue, course_id, texts(course_id))
    [request] = stage_one_tick(instance).requests
    fail_unfinished_runs(instance)

    def delete_partition(instance: dg.DagsterInstance, run_id: str) -> Worker:
        instance.delete_dynamic_partition(PARTITIONS_NAME, course_ids[-1])
        return register_worker(instance, run_id)

    monkeypatch.setattr("orchestration.assets.register_worker", delete_partition)
    config = request.run_config if launched_by_sensor else None
    result = materialize(instance, resources, tags=request.tags, run_config=config)
    statuses = [read_course(catalogue, course_id).embedding_status for course_id in course_ids]
    if launched_by_sensor:
        assert (result.success, statuses) == (True, ["done"] * 4), "its configuration names the courses"
    else:
        assert (result.success, statuses) == (False, ["not_started"] * 4), "Dagster cannot tell which courses it has"


@pytest.mark.parametrize("selected", [COLLECTION, SNAPSHOT], ids=lambda key: key.to_user_string())
def test_a_run_of_one_asset_publishes_both(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str, selected: dg.AssetKey
) -> None:
    write_course(catalogue, course_id, texts(course_id))
    assert materialize(instance, resources, course_id, selection=[selected]).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.DONE
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    assert published is not None
    assert len(SnapshotStore(SnapshotSettings()).open(course_id, published, ANY_GENERATION)) == 2
    for asset in (COLLECTION, SNAPSHOT):
        assert instance.get_materialized_partitions(asset) == {course_id}


def test_the_worker_of_a_run_that_was_ended_in_dagster_begins_with_no_other_course(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_ids: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The pool counts only unfinished runs, so another run may use the device already."""
    for course_id in course_ids:
        write_course(catalogue, course_id, texts(course_id))
    embed = CourseRun.embed_and_publish

    def embed_and_end(run: CourseRun) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        yield from embed(run)
        [unfinished] = instance.get_runs()
        instance.report_run_canceled(unfinished)

    monkeypatch.setattr(CourseRun, "embed_and_publish", embed_and_end)
    assert not materialize_range(instance, resources, course_ids).success
    statuses = [read_course(catalogue, course_id).embedding_status for course_id in course_ids]
    assert statuses == ["done", "not_started", "not_started", "not_started"]

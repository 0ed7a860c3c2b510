"""Course ids that have a meaning in Dagster's range syntax, in tags, in file names or in URLs, through all sensors."""

import dagster as dg
import pytest
from sqlalchemy import Engine

from embedding.vector_store.collections import VectorStore
from models.fingerprint import CourseFingerprint
from orchestration.partitions import PARTITIONS_NAME, RANGE_END_TAG, RANGE_START_TAG
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from tests.orchestration.ticks import (
    Resources,
    course_status_tick,
    deleted_course_tick,
    materialize,
    stage_one_tick,
)
from tests.support.courses import read_course, write_course
from tests.support.published import ANY_GENERATION

pytestmark = pytest.mark.integration

UNUSUAL = [
    "a,b",
    "'a'",
    '"a"',
    "[a]",
    "[a...b]",
    "a...b",
    "...",
    "a\nb",
    "a\tb",
    "*",
    "a|b",
    '{"a": 1}',
    "%41",
    "../a",
    "A",
    "a",
    " a",
    "a ",
    " a ",
    "a\u200b",
    "课程",
    "\U0001f600" * 80,
]


def assert_published(catalogue: Engine, vector_store: VectorStore, course_id: str) -> None:
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_error) == ("done", None)
    [(records, _)] = vector_store.open(course_id).contents()
    assert [record.text for record in records] == [f"Text of {course_id!r}"]
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    assert published is not None
    assert list(SnapshotStore(SnapshotSettings()).open(course_id, published, ANY_GENERATION).chunk_ids) == [
        f"{course_id}/1"
    ]


def write_courses(catalogue: Engine) -> None:
    for course_id in UNUSUAL:
        write_course(catalogue, course_id, {f"{course_id}/1": f"Text of {course_id!r}"})


def test_courses_are_launched_embedded_and_recorded_separately(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, vector_store: VectorStore
) -> None:
    write_courses(catalogue)
    cursor = course_status_tick(instance)
    tick = stage_one_tick(instance)
    assert sorted(course_id for run in tick.launched for course_id in run) == sorted(UNUSUAL)
    assert sorted(instance.get_dynamic_partitions(PARTITIONS_NAME)) == sorted(UNUSUAL)
    course_status_tick(instance, cursor)
    assert {read_course(catalogue, course_id).embedding_status for course_id in UNUSUAL} == {"pending"}
    for request in tick.requests:
        assert materialize(instance, resources, request.partition_key, tags=request.tags).success
    for course_id in UNUSUAL:
        assert_published(catalogue, vector_store, course_id)
    for run in instance.get_runs():
        if not run.is_finished:
            instance.report_run_failed(run)
    course_status_tick(instance, cursor)
    assert {read_course(catalogue, course_id).embedding_status for course_id in UNUSUAL} == {"done"}
    assert stage_one_tick(instance).launched == []
    assert deleted_course_tick(instance).skip_message == "Every partition has a course"


def test_partition_that_an_operator_materializes_embeds_only_its_course(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, vector_store: VectorStore
) -> None:
    instance.add_dynamic_partitions(PARTITIONS_NAME, UNUSUAL)
    write_courses(catalogue)
    for course_id in ("[a...b]", " a "):
        assert materialize(instance, resources, course_id).success
        assert_published(catalogue, vector_store, course_id)
    others = set(UNUSUAL) - {"[a...b]", " a "}
    assert {read_course(catalogue, course_id).embedding_status for course_id in others} == {"not_started"}


def test_range_of_partitions_embeds_its_courses(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, vector_store: VectorStore
) -> None:
    """A backfill describes a run of several partitions by the first and the last one."""
    instance.add_dynamic_partitions(PARTITIONS_NAME, UNUSUAL)
    write_courses(catalogue)
    first, last = 1, 8
    tags = {RANGE_START_TAG: UNUSUAL[first], RANGE_END_TAG: UNUSUAL[last]}
    assert materialize(instance, resources, tags=tags).success
    embedded = UNUSUAL[first : last + 1]
    for course_id in embedded:
        assert_published(catalogue, vector_store, course_id)
    others = set(UNUSUAL) - set(embedded)
    assert {read_course(catalogue, course_id).embedding_status for course_id in others} == {"not_started"}


def test_partitions_without_a_course_fail_with_the_reason_and_stop_no_sensor(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine
) -> None:
    """An operator can add any partition in the Dagster UI."""
    write_course(catalogue, "other", {"1": "Copper"})
    instance.add_dynamic_partitions(PARTITIONS_NAME, [*UNUSUAL, ""])
    result = materialize(instance, resources, tags={RANGE_START_TAG: UNUSUAL[0], RANGE_END_TAG: UNUSUAL[-1]})
    [failure] = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    for key in UNUSUAL:
        assert f"There is no course {key} in the catalogue" in error.message
    cursor = course_status_tick(instance)
    assert stage_one_tick(instance).launched == [["other"]]
    course_status_tick(instance, cursor)
    assert deleted_course_tick(instance).skip_message == f"{len(UNUSUAL) + 1} partitions have no course"

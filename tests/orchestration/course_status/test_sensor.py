"""Ticks of `course_status_sensor`: the cursor, repetitions, and a catalogue that is unavailable."""

import json
from contextlib import suppress

import dagster as dg
import pytest
from sqlalchemy import Engine

from models import course_state
from models.database import DatabaseUnavailableError
from models.tables import EmbeddingStatus
from orchestration.partitions import PARTITION_TAG
from tests.orchestration.ticks import (
    Resources,
    course_status_tick,
    create_run,
    materialize,
    request_embedding,
    row,
    stage_one_tick,
)
from tests.support.courses import read_course, write_course


@pytest.fixture
def _one_course(catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"})


@pytest.mark.usefixtures("_one_course")
@pytest.mark.parametrize("end", ["failed", "cancelled"])
@pytest.mark.parametrize("requested", [True, False])
def test_a_second_tick_changes_nothing(
    instance: dg.DagsterInstance, catalogue: Engine, end: str, requested: bool
) -> None:
    """Neither with the new cursor, nor with the old one: a killed daemon does not store the new one."""
    if requested:
        request_embedding(catalogue, "1")
    cursor = course_status_tick(instance)
    stage_one_tick(instance)
    for _ in range(2):
        course_status_tick(instance, cursor)
    [run] = instance.get_runs()
    instance.report_run_failed(run) if end == "failed" else instance.report_run_canceled(run)
    next_cursor = course_status_tick(instance, cursor)
    after = row(catalogue, "1")
    assert (after["embedding_attempts"], after["embedding_attempted"] is None) == (
        (1, True) if end == "failed" else (0, False)
    )
    for repeated in (next_cursor, cursor):
        course_status_tick(instance, repeated)
        assert row(catalogue, "1") == after


@pytest.mark.usefixtures("_one_course")
@pytest.mark.parametrize(
    "cursor",
    [
        pytest.param(None, id="none"),
        pytest.param("not JSON", id="text"),
        pytest.param('["2026-01-01T00:00:00+00:00", [], {}]', id="earlier version"),
        pytest.param('{"newest": null, "handled": []}', id="object"),
        pytest.param("3", id="number"),
    ],
)
def test_any_cursor_is_accepted(instance: dg.DagsterInstance, catalogue: Engine, cursor: str | None) -> None:
    before = row(catalogue, "1")
    instance.report_run_failed(create_run(instance, {PARTITION_TAG: "1"}))
    next_cursor = course_status_tick(instance, cursor)
    assert row(catalogue, "1") == before
    newest, handled = json.loads(next_cursor or "")
    assert (newest is not None, len(handled)) == (True, 1)


@pytest.mark.usefixtures("_one_course")
def test_many_runs_that_end_between_two_ticks_are_each_handled_once(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    cursor = course_status_tick(instance)
    for _ in range(2):
        for _ in range(60):
            instance.report_run_canceled(create_run(instance, {PARTITION_TAG: "another"}))
        cursor = course_status_tick(instance, cursor)
    stage_one_tick(instance)
    [run] = [run for run in instance.get_runs() if not run.is_finished]
    instance.report_run_failed(run)
    cursor = course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_attempts == 1
    course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_attempts == 1


@pytest.mark.integration
def test_a_run_that_was_cancelled_while_it_embedded_is_not_repeated(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})

    def cancel(*_: object) -> bool:
        [run] = instance.get_runs()
        instance.report_run_canceling(run)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(course_state, "report_progress", cancel)
        materialize(instance, resources, course_id)
    course_status_tick(instance)
    assert "The run was cancelled" in (read_course(catalogue, course_id).embedding_error or "")
    assert stage_one_tick(instance).launched == []
    write_course(catalogue, course_id, {"a": "Copper is old."})
    assert stage_one_tick(instance).launched == [[course_id]]


@pytest.mark.integration
def test_a_run_that_could_not_record_its_failure_is_tried_again_later(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})

    def fail(*_: object, **__: object) -> bool:
        raise DatabaseUnavailableError("The database is unavailable.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course_state, "report_progress", fail)
        patch.setattr(course_state, "fail_course", fail)
        materialize(instance, resources, course_id)
    assert read_course(catalogue, course_id).embedding_status == EmbeddingStatus.RUNNING
    course_status_tick(instance)
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "The database is unavailable." in (course.embedding_error or "")
    assert course.embedding_attempts == 1
    assert course.embedding_retry_at is not None

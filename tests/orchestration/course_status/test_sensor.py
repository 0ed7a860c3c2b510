"""`course_status_sensor` with a real catalogue and Dagster instance."""

from contextlib import suppress
from datetime import timedelta

import dagster as dg
import pytest
from sqlalchemy import Engine, text

from models import course_state
from models.course_state import REBUILD_OWNER_PREFIX
from models.database import DatabaseUnavailableError
from models.tables import EmbeddingStatus
from orchestration.launching.launch_reasons import reasons_of
from orchestration.partitions import JOB, PARTITION_TAG, PARTITIONS_NAME, RANGE_END_TAG, RANGE_START_TAG
from tests.orchestration.ticks import (
    Resources,
    course_status_tick,
    create_run,
    materialize,
    request_embedding,
    stage_one_tick,
)
from tests.support.courses import change_course, read_course, write_course


@pytest.fixture
def _one_course(catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"})


@pytest.fixture
def _two_courses(catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Copper"})


def states(catalogue: Engine, *course_ids: str) -> list[str]:
    return [str(read_course(catalogue, course_id).embedding_status) for course_id in course_ids]


def state_and_error(catalogue: Engine, course_id: str) -> tuple[str, str | None]:
    course = read_course(catalogue, course_id)
    return course.embedding_status, course.embedding_error


def state_and_owner(catalogue: Engine, course_id: str) -> tuple[str, str | None]:
    course = read_course(catalogue, course_id)
    return course.embedding_status, course.embedding_run_id


@pytest.mark.usefixtures("_two_courses")
def test_a_queued_run_makes_its_courses_pending(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    instance.add_dynamic_partitions(PARTITIONS_NAME, ["1", "2"])
    run = create_run(instance, {RANGE_START_TAG: "1", RANGE_END_TAG: "2"})
    course_status_tick(instance)
    for course_id in ("1", "2"):
        assert state_and_owner(catalogue, course_id) == ("pending", run.run_id)


@pytest.mark.usefixtures("_one_course")
def test_the_first_of_two_queued_runs_stays_the_owner(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    run_ids = {create_run(instance, {PARTITION_TAG: "1"}).run_id for _ in range(2)}
    course_status_tick(instance)
    owner = read_course(catalogue, "1").embedding_run_id
    assert owner in run_ids
    course_status_tick(instance)
    assert read_course(catalogue, "1").embedding_run_id == owner


@pytest.mark.usefixtures("_one_course")
@pytest.mark.parametrize("state", ["running", "pending"])
def test_a_dead_run_fails_its_course(instance: dg.DagsterInstance, catalogue: Engine, state: str) -> None:
    run = create_run(instance, {PARTITION_TAG: "1"}, dg.DagsterRunStatus.STARTED)
    change_course(catalogue, "1", embedding_status=state, embedding_run_id=run.run_id)
    course_status_tick(instance)
    assert states(catalogue, "1") == [state]
    instance.report_run_failed(run, "The worker was killed.")
    course_status_tick(instance)
    assert state_and_error(catalogue, "1") == ("failed", "The worker was killed.")


@pytest.mark.usefixtures("_one_course")
def test_a_run_that_died_in_the_queue_fails_its_requested_course(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    request_embedding(catalogue, "1")
    stage_one_tick(instance)
    course_status_tick(instance)
    [run] = instance.get_runs()
    assert read_course(catalogue, "1").embedding_run_id == run.run_id
    instance.report_run_failed(run, "The code location is broken.")
    course_status_tick(instance)
    assert state_and_error(catalogue, "1") == ("failed", "The code location is broken.")


@pytest.mark.usefixtures("_one_course")
def test_a_run_that_died_between_two_ticks_fails_its_course(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    cursor = course_status_tick(instance)
    run = create_run(instance, {PARTITION_TAG: "1"})
    instance.report_run_failed(run, "The code location is broken.")
    course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_error == "The code location is broken."


@pytest.mark.usefixtures("_two_courses")
def test_cancelled_and_deleted_runs_fail_their_courses(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    runs = {}
    for course_id in ("1", "2"):
        runs[course_id] = create_run(instance, {PARTITION_TAG: course_id}, dg.DagsterRunStatus.STARTED)
        change_course(catalogue, course_id, embedding_status="running", embedding_run_id=runs[course_id].run_id)
    instance.report_run_canceled(runs["1"])
    instance.delete_run(runs["2"].run_id)
    course_status_tick(instance)
    assert state_and_error(catalogue, "1") == ("failed", "cancelled")
    assert state_and_error(catalogue, "2") == ("failed", "the run was deleted")


@pytest.mark.usefixtures("_two_courses")
def test_a_failed_run_does_not_change_courses_with_a_later_state(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    runs = [create_run(instance, {PARTITION_TAG: course_id}) for course_id in ("1", "2")]
    change_course(catalogue, "1", embedding_status="done", embedding_run_id="newer run")
    for run in runs:
        instance.report_run_failed(run)
    request_embedding(catalogue, "2")
    course_status_tick(instance)
    assert states(catalogue, "1", "2") == ["done", "pending"]


@pytest.mark.usefixtures("_one_course")
def test_many_runs_that_end_between_two_ticks_are_each_handled_once(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    cursor = course_status_tick(instance)
    for _ in range(2):
        for _ in range(120):
            instance.report_run_canceled(create_run(instance, {PARTITION_TAG: "another"}))
        cursor = course_status_tick(instance, cursor)
    instance.report_run_failed(create_run(instance, {PARTITION_TAG: "1"}), "The code location is broken.")
    cursor = course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_error == "The code location is broken."
    change_course(catalogue, "1", embedding_status="not_started", embedding_error=None, embedding_run_id=None)
    course_status_tick(instance, cursor)
    assert states(catalogue, "1") == ["not_started"]


@pytest.mark.usefixtures("_one_course")
@pytest.mark.parametrize("seen_in_queue", [True, False])
def test_content_of_a_run_that_was_cancelled_in_the_queue_is_not_launched(
    instance: dg.DagsterInstance, catalogue: Engine, seen_in_queue: bool
) -> None:
    """An operator launched the run, so it has no launch reasons."""
    instance.add_dynamic_partitions(PARTITIONS_NAME, ["1"])
    cursor = course_status_tick(instance)
    run = create_run(instance, {PARTITION_TAG: "1"})
    if seen_in_queue:
        course_status_tick(instance)
    instance.report_run_canceled(run)
    assert stage_one_tick(instance).launched == [], "the row does not show the cancellation yet"
    course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_error == "cancelled"
    assert stage_one_tick(instance).launched == []
    write_course(catalogue, "1", {"a": "copper"})
    assert stage_one_tick(instance).launched == [["1"]]


@pytest.mark.usefixtures("_two_courses")
def test_an_unreadable_course_of_a_cancelled_run_is_failed_like_the_others(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    """The attempted content of a run without launch reasons is read from the catalogue."""
    cursor = course_status_tick(instance)
    with catalogue.begin() as connection:
        connection.execute(text("UPDATE chunk SET text = x'ff00ff' WHERE id = 'a'"))
    for course_id in ("1", "2"):
        instance.report_run_canceled(create_run(instance, {PARTITION_TAG: course_id}))
    course_status_tick(instance, cursor)
    for course_id in ("1", "2"):
        assert state_and_error(catalogue, course_id) == ("failed", "cancelled")
    assert read_course(catalogue, "1").embedding_attempted is None
    assert read_course(catalogue, "2").embedding_attempted is not None


@pytest.mark.integration
def test_content_of_a_run_that_was_cancelled_while_running_is_not_launched(
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
    assert read_course(catalogue, course_id).embedding_error == "cancelled"
    assert stage_one_tick(instance).launched == []
    write_course(catalogue, course_id, {"a": "Copper is old."})
    assert stage_one_tick(instance).launched == [[course_id]]


@pytest.mark.integration
def test_a_failed_request_is_not_launched_again(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})
    request_embedding(catalogue, course_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedding.vector_store.collections.CourseCollection.count", lambda _: 0)
        assert not materialize(instance, resources, course_id).success
    course_status_tick(instance)
    assert stage_one_tick(instance).launched == []
    assert states(catalogue, course_id) == ["failed"]


@pytest.mark.integration
def test_a_run_that_could_not_record_its_failure_is_followed_by_another(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})

    def fail(*_: object, **__: object) -> bool:
        raise DatabaseUnavailableError("The database is unavailable.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course_state, "report_progress", fail)
        patch.setattr(course_state, "fail_course", fail)
        materialize(instance, resources, course_id)
    assert states(catalogue, course_id) == ["running"]
    course_status_tick(instance)
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "The database is unavailable." in (course.embedding_error or "")
    assert stage_one_tick(instance).launched == [[course_id]]


@pytest.mark.usefixtures("_one_course")
def test_an_interrupted_rebuild_is_failed_and_launched(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_course(catalogue, "1", embedding_status="running", embedding_run_id=f"{REBUILD_OWNER_PREFIX}1")
    cursor = course_status_tick(instance)
    assert states(catalogue, "1") == ["running"], "the rebuild may still be running"
    monkeypatch.setattr("orchestration.course_status.observe.REBUILD_GRACE", timedelta(0))
    course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_error == "the rebuild was interrupted"
    assert stage_one_tick(instance).launched == [["1"]]


def test_only_the_running_course_of_a_dead_run_is_recorded_as_attempted(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.launching.sensor.RECENT", timedelta(0))
    for course_id in ("1", "2", "3"):
        write_course(catalogue, course_id, {f"{course_id}/a": "Copper"})
    cursor = course_status_tick(instance)
    stage_one_tick(instance)
    cursor = course_status_tick(instance, cursor)
    [run] = instance.get_runs()
    content = reasons_of(run.tags)["1"].content
    change_course(catalogue, "1", embedding_status="done", embedding_fingerprint=content, embedding_generation=1)
    change_course(catalogue, "2", embedding_status="running", embedding_run_id=run.run_id)
    instance.report_run_failed(run, "The worker was killed.")
    course_status_tick(instance, cursor)
    assert states(catalogue, "1", "2", "3") == ["done", "failed", "failed"]
    assert stage_one_tick(instance).launched == [["3"]], "course 2 may have caused the failure; course 3 did not"


@pytest.mark.usefixtures("_two_courses")
def test_the_retry_of_a_dead_run_does_not_change_published_courses(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    stage_one_tick(instance)
    [run] = instance.get_runs()
    change_course(catalogue, "1", embedding_status="done", embedding_generation=1, embedding_run_id=run.run_id)
    instance.report_run_failed(run, "The worker was killed.")
    course_status_tick(instance)
    create_run(instance, run.tags)
    course_status_tick(instance)
    assert states(catalogue, "1", "2") == ["done", "pending"]


@pytest.mark.usefixtures("_two_courses")
def test_the_courses_of_an_executing_retry_are_pending(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """The first run died before it started on course 2, and no tick found the retry in the queue."""
    cursor = course_status_tick(instance)
    stage_one_tick(instance)
    [run] = instance.get_runs()
    change_course(catalogue, "1", embedding_status="running", embedding_run_id=run.run_id)
    instance.report_run_failed(run, "The worker was killed.")
    retry = create_run(instance, run.tags, dg.DagsterRunStatus.STARTED)
    cursor = course_status_tick(instance, cursor)
    course_status_tick(instance, cursor)
    for course_id in ("1", "2"):
        assert state_and_owner(catalogue, course_id) == ("pending", retry.run_id)


@pytest.mark.usefixtures("_two_courses")
@pytest.mark.parametrize("run_succeeds", [True, False])
@pytest.mark.parametrize("launched_by_sensor", [True, False])
def test_a_request_for_a_published_course_of_an_unfinished_run_is_launched_afterwards(
    instance: dg.DagsterInstance, catalogue: Engine, launched_by_sensor: bool, run_succeeds: bool
) -> None:
    [request] = stage_one_tick(instance).requests
    [queued_run] = instance.get_runs()
    instance.delete_run(queued_run.run_id)
    tags = request.tags if launched_by_sensor else {RANGE_START_TAG: "1", RANGE_END_TAG: "2"}
    run = create_run(instance, tags, dg.DagsterRunStatus.STARTED)
    change_course(catalogue, "1", embedding_status="done", embedding_run_id=run.run_id, embedding_generation=1)
    change_course(catalogue, "2", embedding_status="running", embedding_run_id=run.run_id)
    request_embedding(catalogue, "1")
    course_status_tick(instance)
    assert stage_one_tick(instance).launched == [], "the run is not finished"
    if run_succeeds:
        change_course(catalogue, "2", embedding_status="done", embedding_generation=1)
        instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, JOB), run.run_id)
    else:
        instance.report_run_failed(run)
    course_status_tick(instance)
    assert state_and_owner(catalogue, "1") == ("pending", None)
    assert "1" in stage_one_tick(instance).launched[0]

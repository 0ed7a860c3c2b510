"""What `course_status_sensor` records on the rows, with a real catalogue and Dagster instance."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine, text

from models import course_state
from models.course_state import FORGETTING
from models.tables import EmbeddingStatus
from orchestration.course_status.endings import CANCELLED, WITHOUT_RUN
from orchestration.partitions import JOB, PARTITION_TAG, PARTITIONS_NAME, RANGE_END_TAG, RANGE_START_TAG, SNAPSHOT
from orchestration.run_config import reasons_of
from tests.orchestration.ticks import (
    course_status_tick,
    create_asset_run,
    create_run,
    request_embedding,
    row,
    stage_one_tick,
)
from tests.support.courses import change_course, read_course, write_course

Status = dg.DagsterRunStatus
ALL = {RANGE_START_TAG: "1", RANGE_END_TAG: "3"}
"""The tags of a run over the partitions of the three courses."""


@pytest.fixture
def _courses(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """Three courses with partitions: not started, failed with a retry, done."""
    for course_id in ("1", "2", "3"):
        write_course(catalogue, course_id, {f"{course_id}/a": "Copper"})
    instance.add_dynamic_partitions(PARTITIONS_NAME, ["1", "2", "3"])
    change_course(
        catalogue,
        "2",
        embedding_status="failed",
        embedding_error="Chroma did not answer.",
        embedding_progress=0.25,
        embedding_attempts=2,
        embedding_retry_at=datetime.now(UTC) + timedelta(minutes=5),
    )
    change_course(
        catalogue, "3", embedding_status="done", embedding_progress=1.0, embedding_generation=1, embedding_run_id="old"
    )


pytestmark = pytest.mark.usefixtures("_courses")


def rows(catalogue: Engine) -> list[dict[str, Any]]:
    return [row(catalogue, course_id) for course_id in ("1", "2", "3")]


def states(catalogue: Engine) -> list[str]:
    return [str(course["embedding_status"]) for course in rows(catalogue)]


def own_course(catalogue: Engine, course_id: str, run: dg.DagsterRun, status: str = "running") -> None:
    """Make the run the owner, and record its content, as a claim does."""
    attempted = contents(run).get(course_id)
    change_course(
        catalogue, course_id, embedding_status=status, embedding_run_id=run.run_id, embedding_attempted=attempted
    )


def launch(instance: dg.DagsterInstance, catalogue: Engine) -> dg.DagsterRun:
    """Let `stage_one_sensor` launch one run for the three courses, whose contents are new."""
    change_course(catalogue, "2", embedding_retry_at=None, embedding_attempts=0)
    stage_one_tick(instance)
    [run] = [run for run in instance.get_runs() if not run.is_finished]
    return run


def contents(run: dg.DagsterRun) -> dict[str, str]:
    """Course id → fingerprint that the run is going to publish."""
    return {course_id: reason.content for course_id, reason in reasons_of(run).items()}


def run_of(instance: dg.DagsterInstance, course_id: str) -> dg.DagsterRun:
    """The unfinished run of the course."""
    [run] = [run for run in instance.get_runs() if not run.is_finished and course_id in contents(run)]
    return run


def launched_courses(instance: dg.DagsterInstance) -> list[str]:
    return [course_id for run in stage_one_tick(instance).launched for course_id in run]


class TestWaitingRun:
    """A run that waits changes as little as possible, and its end undoes that."""

    def test_a_waiting_run_makes_courses_pending_that_have_nothing_published(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        before = rows(catalogue)
        run = create_run(instance, ALL)
        course_status_tick(instance)
        waiting = {"embedding_status": "pending", "embedding_run_id": run.run_id}
        assert rows(catalogue) == [before[0] | waiting, before[1] | waiting, before[2]]

    def test_the_first_of_two_waiting_runs_stays_the_owner(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        run_ids = {create_run(instance, {PARTITION_TAG: "1"}).run_id for _ in range(2)}
        course_status_tick(instance)
        owner = read_course(catalogue, "1").embedding_run_id
        assert owner in run_ids
        course_status_tick(instance)
        assert read_course(catalogue, "1").embedding_run_id == owner

    @pytest.mark.parametrize(
        "end",
        [
            pytest.param(dg.DagsterInstance.report_run_canceled, id="cancelled"),
            pytest.param(dg.DagsterInstance.report_run_failed, id="failed"),
            pytest.param(lambda instance, run: instance.delete_run(run.run_id), id="deleted"),
        ],
    )
    @pytest.mark.parametrize("seen_in_queue", [True, False])
    def test_a_run_of_an_operator_that_ends_in_the_queue_leaves_every_course_as_it_was(
        self,
        instance: dg.DagsterInstance,
        catalogue: Engine,
        end: Callable[[dg.DagsterInstance, dg.DagsterRun], None],
        seen_in_queue: bool,
    ) -> None:
        """Materialize all, queued and then cancelled. Nothing is read: reading thousands of courses takes minutes."""
        before = rows(catalogue)
        with catalogue.begin() as connection:
            connection.execute(text("DROP TABLE chunk"))
        cursor = course_status_tick(instance)
        run = create_run(instance, ALL)
        if seen_in_queue:
            cursor = course_status_tick(instance, cursor)
            assert states(catalogue) == ["pending", "pending", "done"]
        end(instance, run)
        course_status_tick(instance, cursor)
        assert rows(catalogue) == before

    @pytest.mark.parametrize("seen_in_queue", [True, False])
    def test_a_run_of_the_sensor_that_is_cancelled_in_the_queue_is_not_launched_again(
        self, instance: dg.DagsterInstance, catalogue: Engine, seen_in_queue: bool
    ) -> None:
        cursor = course_status_tick(instance)
        run = launch(instance, catalogue)
        before = rows(catalogue)
        if seen_in_queue:
            cursor = course_status_tick(instance, cursor)
        instance.report_run_canceled(run)
        course_status_tick(instance, cursor)
        after = rows(catalogue)
        assert all(course.pop("embedding_attempted") for course in after)
        due = [course.pop("embedding_due_since") is not None for course in after]
        assert due == [course["embedding_status"] == "failed" for course in before], "nothing newer was published"
        recorded = ("embedding_attempted", "embedding_due_since")
        assert after == [{name: course[name] for name in course if name not in recorded} for course in before]
        assert stage_one_tick(instance).launched == []
        write_course(catalogue, "3", {"3/a": "copper"})
        assert stage_one_tick(instance).launched == [["3"]], "its content has changed"

    def test_a_request_that_is_cancelled_in_the_queue_is_failed_and_says_what_to_do(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        change_course(catalogue, "1", embedding_attempted="content that failed")
        change_course(catalogue, "3", embedding_fingerprint="published")
        request_embedding(catalogue, "3", rebuild=True)
        cursor = course_status_tick(instance)
        stage_one_tick(instance)
        for run in instance.get_runs():
            instance.report_run_canceled(run)
        course_status_tick(instance, cursor)
        course = read_course(catalogue, "3")
        assert (course.embedding_status, course.embedding_error) == ("failed", CANCELLED)
        assert "Request an embedding to try again" in CANCELLED
        assert (course.embedding_requested_at, course.embedding_rebuild) == (None, False)
        assert stage_one_tick(instance).launched == []

    def test_a_later_request_is_not_cancelled(self, instance: dg.DagsterInstance, catalogue: Engine) -> None:
        request_embedding(catalogue, "3")
        cursor = course_status_tick(instance)
        stage_one_tick(instance)
        request_embedding(catalogue, "3")
        requested = row(catalogue, "3")
        for run in instance.get_runs():
            instance.report_run_canceled(run)
        course_status_tick(instance, cursor)
        assert row(catalogue, "3") == requested
        assert ["3"] in stage_one_tick(instance).launched

    def test_a_partition_at_the_end_of_the_range_is_deleted_while_the_run_waits(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        before = rows(catalogue)
        cursor = course_status_tick(instance)
        run = create_run(instance, ALL)
        cursor = course_status_tick(instance, cursor)
        instance.delete_dynamic_partition(PARTITIONS_NAME, "3")
        cursor = course_status_tick(instance, cursor)
        assert states(catalogue) == ["pending", "pending", "done"], "the run still waits"
        instance.report_run_failed(run)
        course_status_tick(instance, cursor)
        assert rows(catalogue) == before

    def test_a_run_of_the_snapshot_alone_counts(self, instance: dg.DagsterInstance, catalogue: Engine) -> None:
        run = create_asset_run(instance, {PARTITION_TAG: "1"}, assets=[SNAPSHOT])
        course_status_tick(instance)
        assert read_course(catalogue, "1").embedding_run_id == run.run_id


class TestOtherRuns:
    """Runs of other jobs in the same instance, although they are tagged with our partition keys."""

    @staticmethod
    def run_of_another_job(instance: dg.DagsterInstance, tags: Mapping[str, str]) -> dg.DagsterRun:
        @dg.job
        def another_job() -> None: ...

        return instance.create_run_for_job(another_job, tags=tags, status=Status.STARTED)

    @staticmethod
    def run_of_another_asset(instance: dg.DagsterInstance, tags: Mapping[str, str]) -> dg.DagsterRun:
        return create_asset_run(instance, tags, Status.STARTED, assets=[dg.AssetKey("another_asset")])

    @pytest.mark.parametrize("create", [run_of_another_job, run_of_another_asset], ids=["job", "asset"])
    @pytest.mark.parametrize(
        "status", [Status.STARTED, Status.CANCELING, Status.FAILURE, Status.CANCELED, Status.SUCCESS]
    )
    def test_they_change_no_row_and_block_no_launch(
        self,
        instance: dg.DagsterInstance,
        catalogue: Engine,
        monkeypatch: pytest.MonkeyPatch,
        create: Callable[[dg.DagsterInstance, Mapping[str, str]], dg.DagsterRun],
        status: dg.DagsterRunStatus,
    ) -> None:
        monkeypatch.setattr("orchestration.runs.SETTLING", timedelta(days=1))
        cursor = course_status_tick(instance)
        before = rows(catalogue)
        for tags in (ALL, {PARTITION_TAG: "1"}, {PARTITION_TAG: "3"}):
            run = create(instance, tags)
            if status is Status.CANCELING:
                instance.report_run_canceling(run)
            elif status is Status.FAILURE:
                instance.report_run_failed(run)
            elif status is Status.CANCELED:
                instance.report_run_canceled(run)
            elif status is Status.SUCCESS:
                event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, run.job_name)
                instance.report_dagster_event(event, run.run_id)
        course_status_tick(instance, cursor)
        assert rows(catalogue) == before
        assert launched_courses(instance) == ["1", "3"]


class TestDeadRun:
    """A run that ended without success after it had claimed a course."""

    def test_the_course_it_was_embedding_is_failed_and_tried_again(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        run = create_run(instance, {PARTITION_TAG: "1"}, Status.STARTED)
        own_course(catalogue, "1", run)
        course_status_tick(instance)
        assert states(catalogue)[0] == "running"
        instance.report_run_failed(run, "The worker was killed.")
        course_status_tick(instance)
        course = read_course(catalogue, "1")
        assert (course.embedding_status, course.embedding_error) == ("failed", "The worker was killed.")
        assert course.embedding_attempts == 1
        assert course.embedding_retry_at is not None

    def test_a_cancelled_run_fails_its_course_for_good_and_a_deleted_one_is_replaced(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        runs = {course_id: create_run(instance, {PARTITION_TAG: course_id}, Status.STARTED) for course_id in "13"}
        for course_id, run in runs.items():
            own_course(catalogue, course_id, run)
        instance.report_run_canceled(runs["1"])
        instance.delete_run(runs["3"].run_id)
        course_status_tick(instance)
        for course_id, reason in (("1", CANCELLED), ("3", "The run was deleted from Dagster before it had finished")):
            course = read_course(catalogue, course_id)
            assert course.embedding_status == EmbeddingStatus.FAILED
            assert (course.embedding_error or "").startswith(reason)
            assert (course.embedding_retry_at is None) == (course_id == "1")

    @pytest.mark.parametrize("was_embedding", [True, False])
    def test_the_courses_it_had_not_begun_are_as_before_and_launched_at_once(
        self, instance: dg.DagsterInstance, catalogue: Engine, was_embedding: bool
    ) -> None:
        """It may have died because of the course that it was embedding, but not because of the others."""
        cursor = course_status_tick(instance)
        run = launch(instance, catalogue)
        before = rows(catalogue)
        cursor = course_status_tick(instance, cursor)
        assert states(catalogue) == ["pending", "pending", "done"]
        own_course(catalogue, "1", run, "running" if was_embedding else "done")
        if not was_embedding:
            change_course(catalogue, "1", embedding_generation=1, embedding_fingerprint=contents(run)["1"])
        instance.report_run_failed(run, "The worker was killed.")
        course_status_tick(instance, cursor)
        assert rows(catalogue)[1:] == before[1:]
        assert states(catalogue)[0] == ("failed" if was_embedding else "done")
        assert stage_one_tick(instance).launched == [["2", "3"]]

    def test_the_courses_that_a_terminated_run_had_not_begun_are_as_before(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        """An operator terminated it, so they are not launched again with the same content."""
        cursor = course_status_tick(instance)
        run = launch(instance, catalogue)
        before = rows(catalogue)
        cursor = course_status_tick(instance, cursor)
        own_course(catalogue, "1", run)
        instance.report_run_canceled(run)
        course_status_tick(instance, cursor)
        recorded = {"embedding_attempted": None, "embedding_due_since": None}
        assert [course | recorded for course in rows(catalogue)[1:]] == [course | recorded for course in before[1:]]
        assert stage_one_tick(instance).launched == []

    def test_a_run_that_is_being_terminated_makes_no_course_pending(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        before = rows(catalogue)
        create_run(instance, ALL, Status.CANCELING)
        course_status_tick(instance)
        assert rows(catalogue) == before

    def test_a_crash_before_the_content_was_recorded_is_not_repeated_forever(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        """For example, the machine has too little memory for the model. The claim has recorded the content."""
        cursor = course_status_tick(instance)
        for _ in range(len(course_state.RETRY_SECONDS) + 1):
            stage_one_tick(instance)
            run = run_of(instance, "1")
            own_course(catalogue, "1", run)
            change_course(catalogue, "1", embedding_retry_at=None, embedding_attempted=contents(run)["1"])
            instance.report_run_failed(run, "The worker was killed.")
            cursor = course_status_tick(instance, cursor)
            if read_course(catalogue, "1").embedding_retry_at:
                change_course(catalogue, "1", embedding_retry_at=datetime.now(UTC) - timedelta(seconds=1))
        assert run.tags["dagster/priority"] == "-1"
        course = read_course(catalogue, "1")
        assert (course.embedding_status, course.embedding_retry_at) == ("failed", None)
        assert "1" not in launched_courses(instance)

    def test_a_later_state_of_its_courses_is_kept(self, instance: dg.DagsterInstance, catalogue: Engine) -> None:
        runs = [create_run(instance, {PARTITION_TAG: course_id}) for course_id in ("1", "3")]
        change_course(catalogue, "1", embedding_status="done", embedding_run_id="newer run")
        request_embedding(catalogue, "3")
        before = rows(catalogue)
        for run in runs:
            instance.report_run_failed(run)
        course_status_tick(instance)
        assert rows(catalogue) == before

    @pytest.mark.parametrize("succeeds", [True, False])
    def test_a_request_for_a_course_that_the_run_has_published_is_launched_afterwards(
        self, instance: dg.DagsterInstance, catalogue: Engine, succeeds: bool
    ) -> None:
        run = launch(instance, catalogue)
        own_course(catalogue, "1", run, "done")
        change_course(catalogue, "1", embedding_generation=1)
        own_course(catalogue, "3", run)
        request_embedding(catalogue, "1")
        course_status_tick(instance)
        assert stage_one_tick(instance).launched == [], "the run is not finished"
        if succeeds:
            change_course(catalogue, "3", embedding_status="done", embedding_generation=2)
            instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, JOB), run.run_id)
        else:
            instance.report_run_failed(run)
        course_status_tick(instance)
        assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.PENDING
        assert ["1"] in stage_one_tick(instance).launched


class TestRunThatDiesBeforeItBegins:
    """Runs that die before they claim a course, for example because the code location is broken."""

    @pytest.mark.parametrize("requested", [True, False])
    def test_it_is_counted_and_tried_again_with_growing_pauses_and_failed_at_last(
        self, instance: dg.DagsterInstance, catalogue: Engine, requested: bool
    ) -> None:
        if requested:
            request_embedding(catalogue, "1")
        status = read_course(catalogue, "1").embedding_status
        cursor = course_status_tick(instance)
        priorities = []
        for number, pause in enumerate((*course_state.RETRY_SECONDS, None), start=1):
            stage_one_tick(instance)
            run = run_of(instance, "1")
            priorities.append(run.tags["dagster/priority"])
            instance.report_run_failed(run, "The code location is broken.")
            cursor = course_status_tick(instance, cursor)
            course = read_course(catalogue, "1")
            if pause is not None:
                record = instance.get_run_record_by_id(run.run_id)
                assert record is not None
                assert record.end_time is not None
                ended_at = datetime.fromtimestamp(record.end_time, UTC)
                assert (course.embedding_status, course.embedding_attempts) == (status, number)
                assert course.embedding_retry_at == ended_at + timedelta(seconds=pause)
                assert "1" not in launched_courses(instance), "the pause is not over"
                change_course(catalogue, "1", embedding_retry_at=ended_at - timedelta(days=1))
        assert priorities == (["1"] * 6 if requested else ["0"] + ["-1"] * 5)
        assert course.embedding_status == EmbeddingStatus.FAILED
        assert course.embedding_error == ("Its runs ended before they began with it. The code location is broken.")
        assert (course.embedding_retry_at, course.embedding_requested_at) == (None, None)
        assert "1" not in launched_courses(instance)

    def test_a_published_course_stays_searchable_meanwhile(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        cursor = course_status_tick(instance)
        run = launch(instance, catalogue)
        before = row(catalogue, "3")
        instance.report_run_failed(run, "The code location is broken.")
        course_status_tick(instance, cursor)
        after = row(catalogue, "3")
        assert after.pop("embedding_retry_at") is not None
        assert after == {name: before[name] for name in after} | {"embedding_attempts": 1}


def test_a_course_that_is_running_without_an_owner_is_repaired(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """Another program has written the status."""
    change_course(catalogue, "1", embedding_status="running")
    course_status_tick(instance)
    course = read_course(catalogue, "1")
    assert (course.embedding_status, course.embedding_error, course.embedding_attempts) == ("failed", WITHOUT_RUN, 0)
    assert "1" in launched_courses(instance)


def test_a_course_of_a_killed_forget_says_what_to_do(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """Its owner is no run, so it was not deleted from Dagster."""
    change_course(catalogue, "1", embedding_status="running", embedding_run_id=f"{FORGETTING}1")
    course_status_tick(instance)
    course = read_course(catalogue, "1")
    assert (course.embedding_status, course.embedding_attempts) == ("failed", 1)
    assert "`course-search forget` has not finished" in (course.embedding_error or "")
    assert course.embedding_retry_at is not None


class TestReason:
    """The reason that a dead run leaves on its course is one that people can act on."""

    @staticmethod
    def reason_of(instance: dg.DagsterInstance, catalogue: Engine, run: dg.DagsterRun) -> str:
        own_course(catalogue, "1", run)
        course_status_tick(instance)
        reason = read_course(catalogue, "1").embedding_error or ""
        assert "outside the execution context" not in reason
        return reason

    def test_of_a_crash_is_what_the_code_server_noticed(self, instance: dg.DagsterInstance, catalogue: Engine) -> None:
        run = create_run(instance, {PARTITION_TAG: "1"}, Status.STARTED)
        crash = "[DagsterApiServer] Run execution process was terminated by signal 9 (SIGKILL)."
        instance.report_engine_event("Starting the run.", run)
        instance.report_engine_event(crash, run)
        instance.report_run_failed(run)
        assert self.reason_of(instance, catalogue, run) == crash

    def test_of_a_run_that_someone_marked_as_failed_says_so(
        self, instance: dg.DagsterInstance, catalogue: Engine
    ) -> None:
        run = create_run(instance, {PARTITION_TAG: "1"}, Status.STARTED)
        instance.report_run_failed(run)
        assert "was marked as failed in the Dagster UI" in self.reason_of(instance, catalogue, run)

"""Random sequences of calls by several runs: the table in `models.course_state` is true of every state.

Each rule makes one call, computes from the row before it whether the call may change the row and to what, and compares.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from unittest.mock import patch

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import StaticPool, create_engine, insert, update
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from models import course_state, courses
from models.course_state import RETRY_SECONDS, Retry
from models.database import transaction
from models.tables import Course, EmbeddingStatus

NOT_STARTED, PENDING, RUNNING, DONE, FAILED = EmbeddingStatus
START = datetime(2026, 1, 1, tzinfo=UTC)
RUNS = st.sampled_from(["run-a", "run-b", "run-c"])
CONTENTS = st.sampled_from(["content-a", "content-b"])
AGES = st.sampled_from([-60, 0, 60, 600]).map(lambda seconds: timedelta(seconds=seconds))
AS_BEFORE = (
    "embedding_status",
    "embedding_error",
    "embedding_progress",
    "embedding_attempted",
    "embedding_requested_at",
    "embedding_rebuild",
    "embedding_generation",
    "embedding_fingerprint",
)
"""What a run that never came to a course leaves as it was."""


class CourseStates(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        SQLModel.metadata.create_all(self.engine)
        with transaction(self.engine) as session:
            session.execute(insert(Course), [{"id": "1"}])
        self.now = START
        self.before = self.after = self.before_queue = self.read()
        self.ends_rebuild = False

    def teardown(self) -> None:
        self.engine.dispose()

    def read(self) -> Course:
        with transaction(self.engine) as session:
            return self.row(session)

    def row(self, session: Session) -> Course:
        course = courses.get_course(session, "1")
        assert course is not None
        return course

    def call(self, write: Callable[[Session], bool], *, ends_rebuild: bool = False) -> bool:
        """Make one call, and check that a rejected call changes nothing."""
        self.now += timedelta(seconds=1)
        self.before = self.after
        self.ends_rebuild = ends_rebuild
        with (
            transaction(self.engine) as session,
            patch.object(course_state, "datetime", SimpleNamespace(now=lambda _: self.now)),
        ):
            written = write(session)
            self.after = self.row(session)
        if not written:
            assert self.after.model_dump() == self.before.model_dump()
        return written

    def was_owned_by(self, run: str | None) -> bool:
        return (self.before.embedding_status, self.before.embedding_run_id) == (RUNNING, run)

    def was_running(self) -> bool:
        return self.before.embedding_status == RUNNING

    def assert_changed_only(self, *columns: str, **values: object) -> None:
        """The named columns may have changed, those with a value have it, and all others are as before."""
        after, before = self.after.model_dump(), self.before.model_dump()
        assert {name: after[name] for name in values} == values
        changed = {name for name in after if after[name] != before[name]}
        assert changed <= {*columns, *values}

    def mark_as_running(self) -> None:
        with transaction(self.engine) as session:
            session.execute(update(Course).values(embedding_status=RUNNING, embedding_run_id=None))
        self.before = self.after = self.read()

    @rule(rebuild=st.booleans())
    def request(self, rebuild: bool) -> None:
        now = self.now + timedelta(seconds=1)
        written = self.call(lambda session: course_state.request_embedding(session, "1", now, rebuild=rebuild))
        assert written == (not self.was_running())
        if written:
            self.assert_changed_only(
                embedding_status=PENDING,
                embedding_progress=0.0,
                embedding_error=None,
                embedding_requested_at=now,
                embedding_run_id=None,
                embedding_rebuild=rebuild or self.before.embedding_rebuild,
                embedding_attempts=0,
                embedding_retry_at=None,
                embedding_due_since=self.before.embedding_due_since or now,
            )

    @rule(run=RUNS)
    def queue(self, run: str) -> None:
        written = self.call(lambda session: course_state.mark_queued(session, "1", run))
        waits = self.before.embedding_status in (NOT_STARTED, FAILED)
        assert written == (waits and self.before.embedding_run_id != run)
        if written:
            self.before_queue = self.before
            self.assert_changed_only(embedding_status=PENDING, embedding_run_id=run)

    @rule(run=RUNS)
    def release(self, run: str) -> None:
        written = self.call(lambda session: course_state.release_queued(session, "1", run))
        assert written == ((self.before.embedding_status, self.before.embedding_run_id) == (PENDING, run))
        if written:
            self.assert_changed_only("embedding_status", embedding_run_id=None)
            for name in AS_BEFORE:
                assert getattr(self.after, name) == getattr(self.before_queue, name), name

    @rule(run=RUNS, dead=st.none() | RUNS, rebuild=st.booleans(), content=st.none() | CONTENTS)
    def claim(self, run: str, dead: str | None, rebuild: bool, content: str | None) -> None:
        written = self.call(
            lambda session: course_state.claim_course(session, "1", run, dead, rebuild=rebuild, content=content)
        )
        assert written == (not self.was_running() or self.before.embedding_run_id in (None, run, dead))
        if written:
            self.assert_changed_only(
                embedding_status=RUNNING,
                embedding_progress=0.0,
                embedding_error=None,
                embedding_requested_at=None,
                embedding_run_id=run,
                embedding_retry_at=None,
                embedding_rebuild=rebuild or self.before.embedding_rebuild,
                embedding_due_since=self.before.embedding_due_since or self.now,
                **self.attempt_of(content or self.before.embedding_attempted),
            )

    def attempt_of(self, content: str | None) -> dict[str, object]:
        """Retries are counted per content."""
        is_same = content == self.before.embedding_attempted
        return {
            "embedding_attempted": content,
            "embedding_attempts": self.before.embedding_attempts if is_same else 0,
        }

    @rule(run=RUNS, progress=st.floats(-1, 2))
    def report(self, run: str, progress: float) -> None:
        written = self.call(lambda session: course_state.report_progress(session, "1", run, progress))
        assert written == self.was_owned_by(run)
        self.assert_changed_only("embedding_progress")

    @rule(run=RUNS)
    def publish(self, run: str) -> None:
        fingerprint = f"published at {self.now}"
        written = self.call(lambda session: course_state.publish(session, "1", run, fingerprint), ends_rebuild=True)
        assert written == self.was_owned_by(run)
        if written:
            self.assert_changed_only(
                embedding_status=DONE,
                embedding_progress=1.0,
                embedding_error=None,
                embedding_generation=self.before.embedding_generation + 1,
                embedding_fingerprint=fingerprint,
                embedding_attempted=None,
                embedding_rebuild=False,
                embedding_attempts=0,
                embedding_due_since=None,
            )

    @rule(run=RUNS, content=CONTENTS)
    def attempt(self, run: str, content: str) -> None:
        written = self.call(lambda session: course_state.record_attempt(session, "1", run, content))
        assert written == self.was_owned_by(run)
        if written:
            self.assert_changed_only(**self.attempt_of(content))

    @rule(run=st.none() | RUNS, retry=st.sampled_from(Retry))
    def fail(self, run: str | None, retry: Retry) -> None:
        written = self.call(lambda session: course_state.fail_course(session, "1", run, "failed", retry=retry))
        assert written == self.was_owned_by(run)
        if not written:
            return
        attempts, attempted = self.before.embedding_attempts, self.before.embedding_attempted
        retry_at = self.now if retry is Retry.NOW else None
        if retry is Retry.LATER and attempts < len(RETRY_SECONDS):
            retry_at = self.now + timedelta(seconds=RETRY_SECONDS[attempts])
        self.assert_changed_only(
            embedding_status=FAILED,
            embedding_due_since=self.before.embedding_due_since or self.now,
            embedding_error="failed",
            embedding_attempts=attempts + (retry is Retry.LATER),
            embedding_attempted=None if retry is Retry.WHEN_INGESTED else attempted,
            embedding_retry_at=retry_at,
        )

    @rule(is_of_this_request=st.booleans(), content=CONTENTS)
    def cancel_request(self, is_of_this_request: bool, content: str) -> None:
        requested_at = self.after.embedding_requested_at if is_of_this_request else None
        cancelled = requested_at or self.now - timedelta(microseconds=1)
        written = self.call(
            lambda session: course_state.cancel_request(session, "1", cancelled, "cancelled", content),
            ends_rebuild=True,
        )
        assert written == (requested_at is not None and self.before.embedding_status == PENDING)
        if written:
            self.assert_changed_only(
                embedding_status=FAILED,
                embedding_due_since=self.before.embedding_due_since or self.now,
                embedding_error="cancelled",
                embedding_rebuild=False,
                embedding_requested_at=None,
                embedding_attempted=content,
                embedding_retry_at=None,
            )

    @rule(run=RUNS, content=CONTENTS, age=st.sampled_from([0, 1]))
    def skip_content(self, run: str, content: str, age: int) -> None:
        generation = self.after.embedding_generation - age
        written = self.call(lambda session: course_state.skip_content(session, "1", run, content, generation))
        waits = self.before.embedding_status in (NOT_STARTED, DONE, FAILED) and self.before.embedding_run_id != run
        assert written == (waits and self.before.embedding_requested_at is None and age == 0)
        if written:
            was_failed = self.before.embedding_status == FAILED
            self.assert_changed_only(
                embedding_attempted=content,
                embedding_retry_at=None,
                embedding_due_since=self.before.embedding_due_since if was_failed else None,
            )

    @rule(content=CONTENTS, age=st.sampled_from([0, 1]), ended=AGES)
    def postpone(self, content: str, age: int, ended: timedelta) -> None:
        generation, ended_at = self.after.embedding_generation - age, self.now + ended
        written = self.call(
            lambda session: course_state.postpone(
                session, "1", "died", content=content, generation=generation, ended_at=ended_at
            )
        )
        before = self.before
        times = [before.embedding_retry_at, before.embedding_requested_at]
        is_older = any(time is not None and time > ended_at for time in times)
        assert written == (not self.was_running() and age == 0 and not is_older)
        if not written:
            return
        is_new_series = before.embedding_status == FAILED and before.embedding_retry_at is None
        attempts = 0 if is_new_series else before.embedding_attempts
        if attempts < len(RETRY_SECONDS):
            self.assert_changed_only(
                embedding_attempts=attempts + 1,
                embedding_retry_at=ended_at + timedelta(seconds=RETRY_SECONDS[attempts]),
            )
        else:
            self.assert_changed_only(
                embedding_status=FAILED,
                embedding_due_since=self.before.embedding_due_since or self.now,
                embedding_error="died",
                embedding_requested_at=None,
                embedding_attempted=content,
                embedding_retry_at=None,
                embedding_run_id=None,
            )

    @rule(reason=st.sampled_from(["unreadable", "also unreadable"]))
    def fail_unreadable(self, reason: str) -> None:
        written = self.call(lambda session: course_state.fail_unreadable(session, "1", reason))
        is_recorded = (self.before.embedding_status, self.before.embedding_error) == (FAILED, reason)
        assert written == (not self.was_running() and not is_recorded)
        if written:
            self.assert_changed_only(
                embedding_status=FAILED,
                embedding_due_since=self.before.embedding_due_since or self.now,
                embedding_error=reason,
                embedding_requested_at=None,
                embedding_attempted=None,
                embedding_retry_at=None,
                embedding_run_id=None,
            )

    @rule(is_due=st.booleans())
    def due(self, is_due: bool) -> None:
        def write(session: Session) -> bool:
            if is_due:
                course_state.mark_due(session, ["1"], self.now)
            else:
                course_state.clear_due(session, ["1"])
            return True

        self.call(write)
        since = self.before.embedding_due_since
        if is_due:
            since = since or self.now
        elif self.before.embedding_status == DONE:
            since = None
        self.assert_changed_only(embedding_due_since=since)

    @rule()
    def other_program_marks_as_running(self) -> None:
        """No run is `running` without an owner, but the column is public."""
        if self.after.embedding_status != RUNNING:
            self.mark_as_running()

    @rule()
    def reset(self) -> None:
        def write(session: Session) -> bool:
            course_state.reset_all(session)
            return True

        self.call(write)
        assert (self.after.embedding_status, self.after.embedding_fingerprint) == (NOT_STARTED, None)
        self.check_restored()

    @rule()
    def delete_last_passage(self) -> None:
        assert self.call(lambda session: course_state.withdraw_deleted(session, "1"), ends_rebuild=True)
        assert (self.after.embedding_status, self.after.embedding_fingerprint) == (NOT_STARTED, None)
        self.check_restored()

    @rule()
    def restore(self) -> None:
        fingerprint = f"saved at {self.now}"
        assert self.call(lambda session: course_state.mark_restored(session, "1", fingerprint))
        assert (self.after.embedding_status, self.after.embedding_fingerprint) == (DONE, fingerprint)
        self.check_restored()

    def check_restored(self) -> None:
        assert self.after.embedding_generation == self.before.embedding_generation + 1
        assert self.after.embedding_run_id is None  # an earlier run must not write again
        self.before = self.after  # the invariants apply to the changes of runs

    @invariant()
    def rebuild_ends_only_with_its_publication_or_its_cancellation(self) -> None:
        assert self.after.embedding_rebuild or not self.before.embedding_rebuild or self.ends_rebuild

    @invariant()
    def only_publication_changes_generation_and_fingerprint(self) -> None:
        same = self.after.embedding_generation == self.before.embedding_generation
        assert same == (self.after.embedding_fingerprint == self.before.embedding_fingerprint)
        assert same or (self.before.embedding_status, self.after.embedding_status) == (RUNNING, DONE)

    @invariant()
    def row_is_consistent(self) -> None:
        course = self.after
        assert 0 <= course.embedding_progress <= 1
        is_owned = course.embedding_run_id is not None
        if course.embedding_status == FAILED:
            assert course.embedding_error is not None
        elif course.embedding_status in (NOT_STARTED, DONE) or (is_owned and course.embedding_status == RUNNING):
            assert course.embedding_error is None
            assert course.embedding_requested_at is None  # no run would be launched for it
        if course.embedding_status == DONE:
            assert course.embedding_progress == 1
        elif course.embedding_fingerprint is not None and (is_owned or course.embedding_status != RUNNING):
            assert course.embedding_due_since is not None, "its last generation would be searched without a limit"
        if course.embedding_status == PENDING:
            assert is_owned or course.embedding_requested_at is not None, "it would be pending forever"
        if course.embedding_status == RUNNING and is_owned:
            assert course.embedding_retry_at is None


TestCourseStates = CourseStates.TestCase
TestCourseStates.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

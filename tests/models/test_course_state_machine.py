"""Random sequences of calls by several runs: transitions are legal, and only the owner of a course writes."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from sqlalchemy import StaticPool, create_engine, insert
from sqlalchemy.orm import Session
from sqlmodel import SQLModel

from models import course_state, courses
from models.database import transaction
from models.tables import Course, EmbeddingStatus

NOT_STARTED, PENDING, RUNNING, DONE, FAILED = EmbeddingStatus
START = datetime(2026, 1, 1, tzinfo=UTC)
RUNS = st.sampled_from(["run-a", "run-b", "run-c"])


class CourseStates(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.engine = create_engine("sqlite://", poolclass=StaticPool)
        SQLModel.metadata.create_all(self.engine)
        with transaction(self.engine) as session:
            session.execute(insert(Course), [{"id": "1"}])
        self.now = START
        self.before = self.after = self.read()

    def teardown(self) -> None:
        self.engine.dispose()

    def read(self) -> Course:
        with transaction(self.engine) as session:
            course = courses.get_course(session, "1")
        assert course is not None
        return course

    def call(self, write: Callable[[Session], bool]) -> bool:
        """Make one call, and check that a rejected call changes nothing."""
        self.now += timedelta(seconds=1)
        self.before = self.after
        with transaction(self.engine) as session:
            written = write(session)
        self.after = self.read()
        if not written:
            assert self.after.model_dump() == self.before.model_dump()
        return written

    def was_owned_by(self, run: str) -> bool:
        return (self.before.embedding_status, self.before.embedding_run_id) == (RUNNING, run)

    def assert_unchanged(self, *columns: str) -> None:
        for column in columns:
            assert getattr(self.after, column) == getattr(self.before, column)

    @rule()
    def request(self) -> None:
        now = self.now + timedelta(seconds=1)
        written = self.call(lambda session: course_state.request_embedding(session, "1", now))
        assert written == (self.before.embedding_status != RUNNING)
        if written:
            assert (self.after.embedding_status, self.after.embedding_requested_at) == (PENDING, now)

    @rule(run=RUNS)
    def queue(self, run: str) -> None:
        if self.call(lambda session: course_state.mark_queued(session, "1", run)):
            assert self.before.embedding_status != RUNNING
            assert (self.after.embedding_status, self.after.embedding_run_id) == (PENDING, run)
            self.assert_unchanged("embedding_requested_at")

    @rule(run=RUNS, dead=st.none() | RUNS)
    def claim(self, run: str, dead: str | None) -> None:
        written = self.call(lambda session: course_state.claim_course(session, "1", run, dead))
        is_claimed = self.before.embedding_status == RUNNING and self.before.embedding_run_id not in (run, dead)
        assert written == (not is_claimed)
        if written:
            assert (self.after.embedding_status, self.after.embedding_run_id) == (RUNNING, run)

    @rule(run=RUNS, progress=st.floats(-1, 2))
    def report(self, run: str, progress: float) -> None:
        assert self.call(
            lambda session: course_state.report_progress(session, "1", run, progress)
        ) == self.was_owned_by(run)
        self.assert_unchanged("embedding_status", "embedding_run_id")

    @rule(run=RUNS)
    def publish(self, run: str) -> None:
        written = self.call(lambda session: course_state.publish(session, "1", run, f"published at {self.now}"))
        assert written == self.was_owned_by(run)
        if written:
            assert self.after.embedding_status == DONE
            assert self.after.embedding_generation == self.before.embedding_generation + 1

    @rule(run=RUNS)
    def attempt(self, run: str) -> None:
        written = self.call(lambda session: course_state.record_attempt(session, "1", run, f"attempted at {self.now}"))
        assert written == self.was_owned_by(run)
        self.assert_unchanged("embedding_status", "embedding_run_id", "embedding_fingerprint")

    @rule(run=RUNS, retry=st.booleans())
    def fail(self, run: str, retry: bool) -> None:
        retry_at = self.now if retry else None
        written = self.call(lambda session: course_state.fail_course(session, "1", run, "failed", retry_at=retry_at))
        assert written == self.was_owned_by(run)
        if written:
            assert self.after.embedding_status == FAILED
            assert (self.after.embedding_requested_at is not None) == retry

    @rule(run=RUNS)
    def request_after_rebuild(self, run: str) -> None:
        now = self.now + timedelta(seconds=1)
        written = self.call(lambda session: course_state.request_after_rebuild(session, "1", run, now))
        assert written == self.was_owned_by(run)
        if written:
            assert (self.after.embedding_status, self.after.embedding_run_id) == (PENDING, None)
            assert (self.after.embedding_fingerprint, self.after.embedding_requested_at) == (None, now)
            self.assert_unchanged("embedding_generation")
            self.before = self.after  # the invariants do not apply: the fingerprint was removed without a publication

    @rule(run=RUNS, for_the_request=st.booleans(), retry=st.booleans())
    def die(self, run: str, for_the_request: bool, retry: bool) -> None:
        requested_at = self.after.embedding_requested_at if for_the_request else None
        retry_at = self.now if retry else None
        if self.call(
            lambda session: course_state.fail_unfinished(
                session, "1", run, "died", requested_at=requested_at, retry_at=retry_at
            )
        ):
            assert self.after.embedding_status == FAILED
            was_waiting = self.before.embedding_status in (NOT_STARTED, PENDING)
            assert self.was_owned_by(run) or (was_waiting and self.before.embedding_run_id in (None, run))
            assert self.was_owned_by(run) or self.before.embedding_requested_at in (None, requested_at)
            assert self.after.embedding_requested_at == retry_at

    @rule()
    def reset(self) -> None:
        def write(session: Session) -> bool:
            course_state.reset_all(session)
            return True

        self.call(write)
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
    def only_publication_changes_generation_and_fingerprint(self) -> None:
        same = self.after.embedding_generation == self.before.embedding_generation
        assert same == (self.after.embedding_fingerprint == self.before.embedding_fingerprint)
        assert same or (self.before.embedding_status, self.after.embedding_status) == (RUNNING, DONE)

    @invariant()
    def row_is_consistent(self) -> None:
        course = self.after
        assert 0 <= course.embedding_progress <= 1
        assert (course.embedding_error is not None) == (course.embedding_status == FAILED)
        if course.embedding_status == DONE:
            assert course.embedding_progress == 1
        if course.embedding_status == RUNNING:
            assert course.embedding_run_id is not None
        if course.embedding_status not in (PENDING, FAILED):
            assert course.embedding_requested_at is None  # no run would be launched for it


TestCourseStates = CourseStates.TestCase
TestCourseStates.settings = settings(
    max_examples=100, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

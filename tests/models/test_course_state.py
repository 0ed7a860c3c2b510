from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from models import course_state, courses
from models.course_state import RETRY_SECONDS, Retry
from models.tables import Course
from tests.support.catalogue import Catalogue

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def state(catalogue: Catalogue, course_id: str = "1") -> tuple[str, float, str | None, str | None]:
    with catalogue.session() as session:
        course = courses.get_course(session, course_id)
    assert course is not None
    return course.embedding_status, course.embedding_progress, course.embedding_error, course.embedding_run_id


def row(session: Session) -> Course:
    course = courses.get_course(session, "1")
    assert course is not None
    return course


class TestRequest:
    @pytest.mark.parametrize("status", ["not_started", "pending", "done", "failed"])
    def test_request_is_accepted_unless_running(self, text_catalogue: Catalogue, status: str) -> None:
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            session.execute(
                text(
                    "UPDATE course SET embedding_status = :status, embedding_progress = 1, embedding_error = 'old',"
                    " embedding_run_id = 'old'"
                ),
                {"status": status},
            )
            assert course_state.request_embedding(session, "1", NOON)
            assert row(session).embedding_requested_at == NOON
        assert state(text_catalogue) == ("pending", 0.0, None, None)

    def test_request_is_rejected_while_running(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "run")
            course_state.report_progress(session, "1", "run", 0.5)
            assert not course_state.request_embedding(session, "1", NOON)
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("running", 0.5, None, "run")

    def test_request_resets_the_retries_and_keeps_a_rebuild(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            assert course_state.request_embedding(session, "1", NOON, rebuild=True)
            course_state.claim_course(session, "1", "a")
            course_state.fail_course(session, "1", "a", "no", retry=Retry.LATER)
            assert row(session).embedding_attempts == 1
            assert course_state.request_embedding(session, "1", NOON + timedelta(hours=1))
            course = row(session)
        assert (course.embedding_attempts, course.embedding_retry_at) == (0, None)
        assert course.embedding_rebuild is True
        assert course.embedding_due_since == NOON, "nothing was published since the first request"

    def test_request_time_is_stored_in_utc_and_needs_a_time_zone(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON.astimezone(timezone(timedelta(hours=8))))
            requested = row(session).embedding_requested_at
        assert requested == NOON
        assert requested.tzinfo is UTC
        with text_catalogue.session() as session, pytest.raises(Exception, match="has no time zone"):
            course_state.request_embedding(session, "1", NOON.replace(tzinfo=None))


class TestOwnership:
    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_claim_removes_the_request(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert course_state.claim_course(session, "1", "a")
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("running", 0.0, None, "a")

    def test_running_course_is_claimed_only_by_its_owner_or_from_a_dead_owner(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            assert course_state.claim_course(session, "1", "a")
            assert not course_state.claim_course(session, "1", "b")
            assert not course_state.claim_course(session, "1", "b", dead_owner="c")
            assert course_state.claim_course(session, "1", "a")
            assert course_state.claim_course(session, "1", "b", dead_owner="a")
            assert not course_state.claim_course(session, "1", "a")
        assert state(text_catalogue)[3] == "b"

    def test_running_course_without_owner_can_be_claimed(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            session.execute(text("UPDATE course SET embedding_status = 'running'"))
            assert course_state.claim_course(session, "1", "a")

    def test_only_the_owner_writes_and_only_while_running(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            assert not course_state.report_progress(session, "1", "a", 0.5)
            course_state.claim_course(session, "1", "a")
            assert not course_state.report_progress(session, "1", "b", 0.5)
            assert not course_state.publish(session, "1", "b", "f")
            assert not course_state.fail_course(session, "1", "b", "no")
            assert course_state.report_progress(session, "1", "a", 0.5)
            assert course_state.publish(session, "1", "a", "f")
            assert not course_state.report_progress(session, "1", "a", 0.5)
            assert not course_state.publish(session, "1", "a", "f")
            assert not course_state.fail_course(session, "1", "a", "no")
        assert state(text_catalogue) == ("done", 1.0, None, "a")

    def test_rebuild_keeps_the_publication_and_stays_until_the_next_one(self, text_catalogue: Catalogue) -> None:
        """What was published is searched meanwhile. A run that is killed leaves the rebuild to the next one."""
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            course_state.publish(session, "1", "a", "f1")
            course_state.claim_course(session, "1", "b", rebuild=True)
            assert (row(session).embedding_fingerprint, row(session).embedding_generation) == ("f1", 1)
            course_state.fail_course(session, "1", "b", "killed", retry=Retry.NOW)
            course_state.claim_course(session, "1", "c")
            assert row(session).embedding_rebuild is True
            course_state.publish(session, "1", "c", "f1")
            assert (row(session).embedding_rebuild, row(session).embedding_generation) == (False, 2)

    def test_each_publication_increments_the_generation(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            for generation in (1, 2):
                course_state.claim_course(session, "1", "a")
                course_state.publish(session, "1", "a", f"f{generation}")
                assert (row(session).embedding_generation, row(session).embedding_fingerprint) == (
                    generation,
                    f"f{generation}",
                )
            course_state.claim_course(session, "1", "b")
            course_state.fail_course(session, "1", "b", "no")
            assert (row(session).embedding_generation, row(session).embedding_fingerprint) == (2, "f2")

    @pytest.mark.parametrize(("progress", "expected"), [(-1.0, 0.0), (0.25, 0.25), (2.0, 1.0), (float("nan"), 0.0)])
    def test_progress_is_clamped_to_0_and_1(self, text_catalogue: Catalogue, progress: float, expected: float) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            course_state.report_progress(session, "1", "a", progress)
        assert state(text_catalogue)[1] == expected

    def test_reason_is_truncated_and_stripped_of_invalid_characters(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            course_state.fail_course(session, "1", "a", "NUL \0 surrogate \ud800 电 " + "x" * 10_000)
        error = state(text_catalogue)[2]
        assert error is not None
        assert error.startswith("NUL  surrogate ? 电 xxx")
        assert len(error) == 2000

    def test_only_one_of_concurrent_claims_succeeds(self, text_catalogue: Catalogue) -> None:
        def claim(run_id: str) -> bool:
            with text_catalogue.session() as session:
                return course_state.claim_course(session, "1", run_id)

        with ThreadPoolExecutor(8) as pool:
            succeeded = list(pool.map(claim, [f"run-{number}" for number in range(8)]))
        assert succeeded.count(True) == 1
        assert state(text_catalogue)[3] == f"run-{succeeded.index(True)}"


WAITING_COLUMNS = (
    "embedding_status, embedding_progress, embedding_error, embedding_attempted, embedding_requested_at,"
    " embedding_retry_at, embedding_attempts, embedding_generation, embedding_fingerprint"
)


class TestQueued:
    """A run that waits changes as little as possible."""

    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_run_that_ends_in_the_queue_leaves_a_new_course_as_it_was(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            assert course_state.mark_queued(session, "1", "a")
            assert not course_state.mark_queued(session, "1", "a")
            assert row(session).embedding_status == "pending"
            assert not course_state.release_queued(session, "1", "b")
            assert course_state.release_queued(session, "1", "a")
        assert state(text_catalogue) == ("not_started", 0.0, None, None)

    def test_run_that_ends_in_the_queue_leaves_a_failed_course_as_it_was(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a", content="f1")
            course_state.report_progress(session, "1", "a", 0.5)
            course_state.fail_course(session, "1", "a", "no luck", retry=Retry.LATER)
            before = session.execute(text(f"SELECT {WAITING_COLUMNS} FROM course")).one()
            assert not course_state.mark_queued(session, "1", "a"), "the run is past this course"
            assert course_state.mark_queued(session, "1", "b")
            assert state_of(row(session)) == ("pending", 0.5, "no luck", "b")
            assert course_state.release_queued(session, "1", "b")
            assert session.execute(text(f"SELECT {WAITING_COLUMNS} FROM course")).one() == before

    def test_published_and_requested_and_running_courses_are_not_marked(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert not course_state.mark_queued(session, "1", "a")
            course_state.claim_course(session, "1", "a")
            assert not course_state.mark_queued(session, "1", "b")
            course_state.publish(session, "1", "a", "f")
            assert not course_state.mark_queued(session, "1", "b")
        assert state(text_catalogue) == ("done", 1.0, None, "a")

    def test_release_after_a_request_changes_nothing(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.mark_queued(session, "1", "a")
            course_state.request_embedding(session, "1", NOON)
            assert not course_state.release_queued(session, "1", "a")
            assert row(session).embedding_requested_at == NOON
        assert state(text_catalogue) == ("pending", 0.0, None, None)

    def test_release_after_another_run_claimed_the_course_changes_nothing(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.mark_queued(session, "1", "a")
            course_state.claim_course(session, "1", "b")
            assert not course_state.release_queued(session, "1", "a")
        assert state(text_catalogue) == ("running", 0.0, None, "b")


def state_of(course: Course) -> tuple[str, float, str | None, str | None]:
    return course.embedding_status, course.embedding_progress, course.embedding_error, course.embedding_run_id


class TestRetries:
    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def fail(self, session: Session, content: str, retry: Retry) -> Course:
        assert course_state.claim_course(session, "1", "a", content=content)
        assert course_state.fail_course(session, "1", "a", "no", retry=retry)
        return row(session)

    def test_pauses_grow_and_the_course_stays_failed_after_the_last_one(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            for number, pause in enumerate(RETRY_SECONDS, start=1):
                earliest = datetime.now(UTC) + timedelta(seconds=pause)
                course = self.fail(session, "f", Retry.LATER)
                assert course.embedding_retry_at is not None
                assert earliest <= course.embedding_retry_at <= datetime.now(UTC) + timedelta(seconds=pause)
                assert course.embedding_attempts == number
            for _ in range(2):
                course = self.fail(session, "f", Retry.LATER)
                assert (course.embedding_status, course.embedding_retry_at) == ("failed", None)
                assert course.embedding_attempted == "f", "this content is not launched again"

    def test_other_content_is_counted_anew(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            for _ in range(3):
                self.fail(session, "f1", Retry.LATER)
            assert self.fail(session, "f2", Retry.LATER).embedding_attempts == 1
            course_state.claim_course(session, "1", "a", content="f2")
            course_state.record_attempt(session, "1", "a", "f2")
            assert row(session).embedding_attempts == 1
            course_state.record_attempt(session, "1", "a", "f3")
            assert row(session).embedding_attempts == 0

    def test_publication_ends_the_retries(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            self.fail(session, "f", Retry.LATER)
            course_state.claim_course(session, "1", "a")
            course_state.publish(session, "1", "a", "f")
            course = row(session)
        assert (course.embedding_attempts, course.embedding_retry_at, course.embedding_due_since) == (0, None, None)

    def test_interruption_is_retried_at_once_and_not_counted(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            for _ in range(len(RETRY_SECONDS) + 1):
                course = self.fail(session, "f", Retry.NOW)
                assert course.embedding_retry_at is not None
                assert course.embedding_retry_at <= datetime.now(UTC)
                assert course.embedding_attempts == 0

    def test_permanent_failure_is_not_retried(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course = self.fail(session, "f", Retry.NEVER)
        assert (course.embedding_retry_at, course.embedding_attempted) == (None, "f")

    def test_course_that_is_not_ingested_is_embedded_whatever_its_content_then_is(
        self, text_catalogue: Catalogue
    ) -> None:
        """Otherwise a course whose last run had failed with the same content would stay failed."""
        with text_catalogue.session() as session:
            self.fail(session, "f", Retry.NEVER)
            course_state.request_embedding(session, "1", NOON)
            course = self.fail(session, "f", Retry.WHEN_INGESTED)
        assert (course.embedding_retry_at, course.embedding_attempted) == (None, None)

    def test_running_course_without_owner_is_failed_and_retried(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            session.execute(text("UPDATE course SET embedding_status = 'running'"))
            assert not course_state.fail_course(session, "1", "a", "no")
            assert course_state.fail_course(session, "1", None, "no owner", retry=Retry.NOW)
            assert not course_state.fail_course(session, "1", None, "no owner", retry=Retry.NOW)
            assert row(session).embedding_retry_at is not None
        assert state(text_catalogue) == ("failed", 0.0, "no owner", None)


class TestCancelled:
    """An operator cancelled a run before it claimed the course."""

    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_request_fails_and_is_not_retried(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON, rebuild=True)
            ended_at = NOON + timedelta(seconds=1)
            course_state.postpone(session, "1", "died", content="f", generation=0, ended_at=ended_at)
            assert row(session).embedding_retry_at is not None
            assert course_state.cancel_request(session, "1", NOON, "cancelled", "f")
            course = row(session)
        assert state_of(course) == ("failed", 0.0, "cancelled", None)
        assert (course.embedding_attempted, course.embedding_requested_at) == ("f", None)
        assert course.embedding_retry_at is None, "the sensor would launch what the operator has cancelled"

    def test_later_request_is_kept(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            earlier = NOON - timedelta(microseconds=1)
            assert not course_state.cancel_request(session, "1", earlier, "cancelled", "f")
            assert row(session).embedding_requested_at == NOON

    def test_rebuild_is_cancelled_even_if_it_has_begun(self, text_catalogue: Catalogue) -> None:
        """A run that was killed may have deleted the collection. The snapshot is searched without it."""
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            course_state.publish(session, "1", "a", "f")
            course_state.claim_course(session, "1", "b", rebuild=True)
            course_state.fail_course(session, "1", "b", "killed")
            course_state.request_embedding(session, "1", NOON)
            assert course_state.cancel_request(session, "1", NOON, "cancelled", "f")
            assert (row(session).embedding_rebuild, row(session).embedding_fingerprint) == (False, "f")

    def test_content_is_skipped_without_a_change_of_the_state(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            course_state.publish(session, "1", "a", "f1")
            course_state.mark_due(session, ["1"], NOON)
            assert not course_state.skip_content(session, "1", "b", "f2", generation=0), "published meanwhile"
            assert not course_state.skip_content(session, "1", "a", "f2", generation=1), "the run came to the course"
            assert course_state.skip_content(session, "1", "b", "f2", generation=1)
            course = row(session)
        assert state_of(course) == ("done", 1.0, None, "a")
        assert (course.embedding_attempted, course.embedding_due_since) == ("f2", None)

    def test_content_is_not_skipped_after_a_request(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert not course_state.skip_content(session, "1", "a", "f", generation=0)
            assert row(session).embedding_attempted is None


class TestPostponed:
    """Runs that died before they claimed any course."""

    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def postpone(self, session: Session, ended_at: datetime, generation: int = 0) -> bool:
        return course_state.postpone(session, "1", "died", content="f", generation=generation, ended_at=ended_at)

    def test_course_keeps_its_state_until_the_last_retry(self, text_catalogue: Catalogue) -> None:
        ended_at = NOON
        with text_catalogue.session() as session:
            for number, pause in enumerate(RETRY_SECONDS, start=1):
                assert self.postpone(session, ended_at)
                course = row(session)
                assert (course.embedding_status, course.embedding_attempts) == ("not_started", number)
                assert course.embedding_retry_at == ended_at + timedelta(seconds=pause)
                assert not self.postpone(session, ended_at), "this death is counted already"
                ended_at = course.embedding_retry_at
            assert self.postpone(session, ended_at)
            course = row(session)
        assert state_of(course) == ("failed", 0.0, "died", None)
        assert (course.embedding_attempted, course.embedding_retry_at) == ("f", None)

    def test_content_after_the_last_retry_is_counted_anew(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            ended_at = NOON
            while row(session).embedding_status != "failed":
                assert self.postpone(session, ended_at)
                ended_at += timedelta(hours=1)
            assert self.postpone(session, ended_at)
            course = row(session)
        assert course.embedding_attempts == 1
        assert course.embedding_retry_at == ended_at + timedelta(seconds=RETRY_SECONDS[0])

    def test_later_request_publication_and_run_are_not_affected(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert not self.postpone(session, NOON - timedelta(seconds=1))
            course_state.claim_course(session, "1", "b")
            assert not self.postpone(session, NOON)
            course_state.publish(session, "1", "b", "f")
            assert not self.postpone(session, NOON)
            course = row(session)
        assert (course.embedding_status, course.embedding_attempts, course.embedding_retry_at) == ("done", 0, None)


class TestDue:
    def test_claimed_course_is_due_until_its_publication(self, text_catalogue: Catalogue) -> None:
        """Also if an operator launched the run. It bounds how long the last generation is searched."""
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            since = row(session).embedding_due_since
            assert since is not None
            course_state.fail_course(session, "1", "a", "no", retry=Retry.NOW)
            course_state.claim_course(session, "1", "b")
            assert row(session).embedding_due_since == since
            course_state.publish(session, "1", "b", "f")
            assert row(session).embedding_due_since is None

    def test_first_time_is_kept_until_the_published_content_is_the_current_one(self, text_catalogue: Catalogue) -> None:
        for course_id in ("1", "2"):
            text_catalogue.add_course(course_id)
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            course_state.publish(session, "1", "a", "f")
            course_state.mark_due(session, ["1", "2"], NOON)
            course_state.mark_due(session, ["1", "2"], NOON + timedelta(hours=1))
            since = {course.id: course.embedding_due_since for course in courses.list_courses(session)}
            assert since == {"1": NOON, "2": NOON}
            course_state.clear_due(session, ["1", "2"])
            since = {course.id: course.embedding_due_since for course in courses.list_courses(session)}
            assert since == {"1": None, "2": NOON}, "the second course was never published"


def test_unreadable_course_is_failed_once_and_keeps_its_rebuild(text_catalogue: Catalogue) -> None:
    text_catalogue.add_course("1")
    with text_catalogue.session() as session:
        course_state.request_embedding(session, "1", NOON, rebuild=True)
        assert course_state.fail_unreadable(session, "1", "unreadable")
        assert not course_state.fail_unreadable(session, "1", "unreadable")
        course = row(session)
        assert course.embedding_rebuild is True
        assert (course.embedding_attempted, course.embedding_requested_at) == (None, None), "launched once readable"
        course_state.claim_course(session, "1", "a")
        assert not course_state.fail_unreadable(session, "1", "unreadable")

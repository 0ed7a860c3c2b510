from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from models import course_state, courses
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

    def test_request_after_rebuild_removes_fingerprint_and_keeps_generation(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "run")
            course_state.publish(session, "1", "run", "f1")
            assert not course_state.request_after_rebuild(session, "1", "run", NOON)  # not running
            course_state.claim_course(session, "1", "rebuild-1")
            course_state.record_attempt(session, "1", "rebuild-1", "f2")
            assert not course_state.request_after_rebuild(session, "1", "run", NOON)
            assert course_state.request_after_rebuild(session, "1", "rebuild-1", NOON)
            assert not course_state.request_after_rebuild(session, "1", "rebuild-1", NOON)
            course = row(session)
        assert state(text_catalogue) == ("pending", 0.0, None, None)
        assert (course.embedding_fingerprint, course.embedding_attempted) == (None, None)
        assert (course.embedding_generation, course.embedding_requested_at) == (1, NOON)

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


class TestQueued:
    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_mark_queued_records_a_run_once(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert course_state.mark_queued(session, "1", "a")
            assert not course_state.mark_queued(session, "1", "a")
            assert row(session).embedding_requested_at == NOON
        assert state(text_catalogue) == ("pending", 0.0, None, "a")

    def test_mark_queued_ignores_a_finished_run_and_a_running_course(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            assert not course_state.mark_queued(session, "1", "b")
            course_state.publish(session, "1", "a", "f")
            assert not course_state.mark_queued(session, "1", "a")
            assert course_state.mark_queued(session, "1", "b")
        assert state(text_catalogue) == ("pending", 0.0, None, "b")


class TestUnfinished:
    """Runs that died or were cancelled without updating the row."""

    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_owner_that_died_while_running_fails_the_course(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            assert not course_state.fail_unfinished(session, "1", "b", "died")
            assert course_state.fail_unfinished(session, "1", "a", "died")
            assert not course_state.fail_unfinished(session, "1", "a", "died again")
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_run_that_died_in_the_queue_fails_the_course(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.mark_queued(session, "1", "a")
            assert course_state.fail_unfinished(session, "1", "a", "cancelled")
        assert state(text_catalogue) == ("failed", 0.0, "cancelled", "a")

    def test_run_that_died_before_it_was_recorded_fails_the_course(self, text_catalogue: Catalogue) -> None:
        """The run was launched for the request, and died before the sensor recorded it."""
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert course_state.fail_unfinished(session, "1", "a", "died", requested_at=NOON)
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_run_without_request_that_died_before_it_was_recorded_fails_the_course(
        self, text_catalogue: Catalogue
    ) -> None:
        """The run was launched because the ingestion had finished."""
        with text_catalogue.session() as session:
            assert course_state.fail_unfinished(session, "1", "a", "died")
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_retry_at_requests_another_run(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            assert course_state.fail_unfinished(session, "1", "a", "died", retry_at=NOON)
            assert row(session).embedding_requested_at == NOON

    def test_later_request_is_kept(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.mark_queued(session, "1", "a")
            course_state.request_embedding(session, "1", NOON)
            course_state.mark_queued(session, "1", "a")
            assert not course_state.fail_unfinished(
                session, "1", "a", "cancelled", requested_at=NOON - timedelta(microseconds=1)
            )
            assert not course_state.fail_unfinished(session, "1", "a", "cancelled")
            assert row(session).embedding_requested_at == NOON

    def test_newer_run_is_not_affected(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.mark_queued(session, "1", "a")
            course_state.mark_queued(session, "1", "b")
            assert not course_state.fail_unfinished(session, "1", "a", "died")
            course_state.claim_course(session, "1", "b")
            assert not course_state.fail_unfinished(session, "1", "a", "died")
            course_state.publish(session, "1", "b", "f")
            assert not course_state.fail_unfinished(session, "1", "a", "died")
            assert not course_state.fail_unfinished(session, "1", "b", "died")
        assert state(text_catalogue) == ("done", 1.0, None, "b")

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
    def test_from_any_state_but_running(self, text_catalogue: Catalogue, status: str) -> None:
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

    def test_refused_while_running(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "run")
            course_state.report_progress(session, "1", "run", 0.5)
            assert not course_state.request_embedding(session, "1", NOON)
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("running", 0.5, None, "run")

    def test_the_time_is_kept_in_utc_and_needs_a_zone(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON.astimezone(timezone(timedelta(hours=8))))
            requested = row(session).embedding_requested_at
        assert requested == NOON
        assert requested.tzinfo is UTC
        with text_catalogue.session() as session, pytest.raises(Exception, match="needs its zone"):
            course_state.request_embedding(session, "1", NOON.replace(tzinfo=None))


class TestOwnership:
    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_claim_takes_a_request_up(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert course_state.claim_course(session, "1", "a")
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("running", 0.0, None, "a")

    def test_a_running_course_is_claimed_by_its_owner_or_from_a_dead_one_only(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            assert course_state.claim_course(session, "1", "a")
            assert not course_state.claim_course(session, "1", "b")
            assert not course_state.claim_course(session, "1", "b", dead_owner="c")
            assert course_state.claim_course(session, "1", "a")
            assert course_state.claim_course(session, "1", "b", dead_owner="a")
            assert not course_state.claim_course(session, "1", "a")
        assert state(text_catalogue)[3] == "b"

    def test_a_running_course_without_owner_is_free(self, text_catalogue: Catalogue) -> None:
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

    def test_a_restarted_course_is_asked_for_as_if_it_had_never_been_published(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "run")
            course_state.publish(session, "1", "run", "f1")
            assert not course_state.request_after_rebuild(session, "1", "run", NOON), "nobody owns it"
            course_state.claim_course(session, "1", "rebuild-1")
            course_state.record_attempt(session, "1", "rebuild-1", "f2")
            assert not course_state.request_after_rebuild(session, "1", "run", NOON)
            assert course_state.request_after_rebuild(session, "1", "rebuild-1", NOON)
            assert not course_state.request_after_rebuild(session, "1", "rebuild-1", NOON)
            course = row(session)
        assert state(text_catalogue) == ("pending", 0.0, None, None)
        assert (course.embedding_fingerprint, course.embedding_attempted) == (None, None)
        assert (course.embedding_generation, course.embedding_requested_at) == (1, NOON)

    def test_each_publication_is_a_new_generation(self, text_catalogue: Catalogue) -> None:
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

    @pytest.mark.parametrize(("given", "kept"), [(-1.0, 0.0), (0.25, 0.25), (2.0, 1.0), (float("nan"), 0.0)])
    def test_progress_stays_between_0_and_1(self, text_catalogue: Catalogue, given: float, kept: float) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            course_state.report_progress(session, "1", "a", given)
        assert state(text_catalogue)[1] == kept

    def test_a_reason_is_made_storable(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            course_state.fail_course(session, "1", "a", "NUL \0 surrogate \ud800 电 " + "x" * 10_000)
        error = state(text_catalogue)[2]
        assert error is not None
        assert error.startswith("NUL  surrogate ? 电 xxx")
        assert len(error) == 2000

    def test_eight_runs_at_once_and_one_owner(self, text_catalogue: Catalogue) -> None:
        def claim(run_id: str) -> bool:
            with text_catalogue.session() as session:
                return course_state.claim_course(session, "1", run_id)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(claim, [f"run-{number}" for number in range(8)]))
        assert won.count(True) == 1
        assert state(text_catalogue)[3] == f"run-{won.index(True)}"


class TestQueued:
    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_shows_the_waiting_run_once(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert course_state.mark_queued(session, "1", "a")
            assert not course_state.mark_queued(session, "1", "a")
            assert row(session).embedding_requested_at == NOON
        assert state(text_catalogue) == ("pending", 0.0, None, "a")

    def test_a_run_that_is_over_or_running_is_not_queued_again(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            assert not course_state.mark_queued(session, "1", "b")
            course_state.publish(session, "1", "a", "f")
            assert not course_state.mark_queued(session, "1", "a")
            assert course_state.mark_queued(session, "1", "b")
        assert state(text_catalogue) == ("pending", 0.0, None, "b")


class TestUnfinished:
    """Runs that died or were cancelled without a word of their own."""

    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_while_running(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            assert not course_state.fail_unfinished(session, "1", "b", "died")
            assert course_state.fail_unfinished(session, "1", "a", "died")
            assert not course_state.fail_unfinished(session, "1", "a", "died again")
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_while_queued(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.mark_queued(session, "1", "a")
            assert course_state.fail_unfinished(session, "1", "a", "cancelled")
        assert state(text_catalogue) == ("failed", 0.0, "cancelled", "a")

    def test_before_anybody_saw_it(self, text_catalogue: Catalogue) -> None:
        """Requested, launched, dead before the next look: the request was this run's."""
        with text_catalogue.session() as session:
            course_state.request_embedding(session, "1", NOON)
            assert course_state.fail_unfinished(session, "1", "a", "died", requested_at=NOON)
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_before_anybody_saw_it_without_a_request(self, text_catalogue: Catalogue) -> None:
        """Launched because stage one had finished."""
        with text_catalogue.session() as session:
            assert course_state.fail_unfinished(session, "1", "a", "died")
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_another_run_is_asked_for(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.claim_course(session, "1", "a")
            assert course_state.fail_unfinished(session, "1", "a", "died", retry_at=NOON)
            assert row(session).embedding_requested_at == NOON

    def test_a_later_request_outlives_the_run(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            course_state.mark_queued(session, "1", "a")
            course_state.request_embedding(session, "1", NOON)
            course_state.mark_queued(session, "1", "a")
            assert not course_state.fail_unfinished(
                session, "1", "a", "cancelled", requested_at=NOON - timedelta(microseconds=1)
            )
            assert not course_state.fail_unfinished(session, "1", "a", "cancelled")
            assert row(session).embedding_requested_at == NOON

    def test_a_newer_run_is_left_alone(self, text_catalogue: Catalogue) -> None:
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

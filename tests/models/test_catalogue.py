import unicodedata
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest
from sqlalchemy import event, text
from sqlalchemy.orm import Session

from models import catalogue as rows
from models.catalogue import Ingestion
from models.tables import Chunk, Course
from tests.support.catalogue import Catalogue

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NEVER_AN_ID = [
    "",
    " ",
    "\0",
    "1\0",
    "\ud800",
    "1\ud800",
    "x" * 10_000,
    "1; DROP TABLE course",
    "½",
    "💡",
    "9" * 30,
    "-1",
]
OTHER_SPELLINGS_OF_1 = ["01", "+1", " 1", "1 ", "1.0", "1e0", "0x1", "１", "१", "1_", "'1'"]


def state(catalogue: Catalogue, course_id: str = "1") -> tuple[str, float, str | None, str | None]:
    with catalogue.session() as session:
        course = rows.get_course(session, course_id)
    assert course is not None
    return course.embedding_status, course.embedding_progress, course.embedding_error, course.embedding_run_id


def row(session: Session) -> Course:
    course = rows.get_course(session, "1")
    assert course is not None
    return course


class TestIds:
    """Ids are text, compared letter for letter, whatever the columns hold."""

    def test_an_id_is_found_and_read_as_text(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["succeeded"], chunks=["text"])
        with catalogue.session() as session:
            assert row(session).id == "1"
            assert rows.ingestion_of(session, "1") == Ingestion(1, 1, 1)
            [[chunk]] = rows.chunk_pages(session, "1")
        assert (chunk.course_id, chunk.lecture_id, chunk.section_id) == ("1", "3", "4")

    def test_anything_else_is_not_found_and_does_not_spoil_the_transaction(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["succeeded"], chunks=["text"])
        with catalogue.session() as session:
            for other in (*OTHER_SPELLINGS_OF_1, *NEVER_AN_ID):
                assert rows.get_course(session, other) is None, other
                assert rows.request_embedding(session, other, NOON) is False, other
                assert rows.claim_course(session, other, "run") is False, other
                assert rows.ingestion_of(session, other) == Ingestion(), other
                assert list(rows.chunk_pages(session, other)) == [], other
            assert rows.claim_course(session, "1", "run")
        assert state(catalogue) == ("running", 0.0, None, "run")

    def test_text_ids_are_told_apart_letter_for_letter(self, text_catalogue: Catalogue) -> None:
        ids = ["a", "A", "01", "1", "a ", "é", unicodedata.normalize("NFD", "é"), "电路", "x/y", "%", "_"]
        for course_id in ids:
            text_catalogue.add_course(course_id)
        with text_catalogue.session() as session:
            for course_id in ids:
                course = rows.get_course(session, course_id)
                assert course is not None
                assert course.id == course_id
            assert {course.id for course in rows.list_courses(session)} == set(ids)

    def test_courses_are_listed_by_id(self, catalogue: Catalogue) -> None:
        for course_id in ("10", "9", "1"):
            catalogue.add_course(course_id)
        with catalogue.session() as session:
            ids = [course.id for course in rows.list_courses(session)]
        assert ids == (["1", "10", "9"] if catalogue.ids == "text" else ["1", "9", "10"])


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
            assert rows.request_embedding(session, "1", NOON)
            assert row(session).embedding_requested_at == NOON
        assert state(text_catalogue) == ("pending", 0.0, None, None)

    def test_refused_while_running(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            rows.claim_course(session, "1", "run")
            rows.report_progress(session, "1", "run", 0.5)
            assert not rows.request_embedding(session, "1", NOON)
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("running", 0.5, None, "run")

    def test_the_time_is_kept_in_utc_and_needs_a_zone(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")
        with text_catalogue.session() as session:
            rows.request_embedding(session, "1", NOON.astimezone(timezone(timedelta(hours=8))))
            requested = row(session).embedding_requested_at
        assert requested == NOON
        assert requested.tzinfo is UTC
        with text_catalogue.session() as session, pytest.raises(Exception, match="needs its zone"):
            rows.request_embedding(session, "1", NOON.replace(tzinfo=None))


class TestOwnership:
    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_claim_takes_a_request_up(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.request_embedding(session, "1", NOON)
            assert rows.claim_course(session, "1", "a")
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("running", 0.0, None, "a")

    def test_a_running_course_is_claimed_by_its_owner_or_from_a_dead_one_only(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            assert rows.claim_course(session, "1", "a")
            assert not rows.claim_course(session, "1", "b")
            assert not rows.claim_course(session, "1", "b", dead_owner="c")
            assert rows.claim_course(session, "1", "a")
            assert rows.claim_course(session, "1", "b", dead_owner="a")
            assert not rows.claim_course(session, "1", "a")
        assert state(text_catalogue)[3] == "b"

    def test_a_running_course_without_owner_is_free(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            session.execute(text("UPDATE course SET embedding_status = 'running'"))
            assert rows.claim_course(session, "1", "a")

    def test_only_the_owner_writes_and_only_while_running(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            assert not rows.report_progress(session, "1", "a", 0.5)
            rows.claim_course(session, "1", "a")
            assert not rows.report_progress(session, "1", "b", 0.5)
            assert not rows.publish(session, "1", "b", "f")
            assert not rows.fail_course(session, "1", "b", "no")
            assert rows.report_progress(session, "1", "a", 0.5)
            assert rows.publish(session, "1", "a", "f")
            assert not rows.report_progress(session, "1", "a", 0.5)
            assert not rows.publish(session, "1", "a", "f")
            assert not rows.fail_course(session, "1", "a", "no")
        assert state(text_catalogue) == ("done", 1.0, None, "a")

    def test_a_restarted_course_is_asked_for_as_if_it_had_never_been_published(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.claim_course(session, "1", "run")
            rows.publish(session, "1", "run", "f1")
            assert not rows.restart_course(session, "1", "run", NOON), "nobody owns it"
            rows.claim_course(session, "1", "rebuild-1")
            rows.note_attempt(session, "1", "rebuild-1", "f2")
            assert not rows.restart_course(session, "1", "run", NOON)
            assert rows.restart_course(session, "1", "rebuild-1", NOON)
            assert not rows.restart_course(session, "1", "rebuild-1", NOON)
            course = row(session)
        assert state(text_catalogue) == ("pending", 0.0, None, None)
        assert (course.embedding_fingerprint, course.embedding_attempted) == (None, None)
        assert (course.embedding_generation, course.embedding_requested_at) == (1, NOON)

    def test_each_publication_is_a_new_generation(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            for generation in (1, 2):
                rows.claim_course(session, "1", "a")
                rows.publish(session, "1", "a", f"f{generation}")
                assert (row(session).embedding_generation, row(session).embedding_fingerprint) == (
                    generation,
                    f"f{generation}",
                )
            rows.claim_course(session, "1", "b")
            rows.fail_course(session, "1", "b", "no")
            assert (row(session).embedding_generation, row(session).embedding_fingerprint) == (2, "f2")

    @pytest.mark.parametrize(("given", "kept"), [(-1.0, 0.0), (0.25, 0.25), (2.0, 1.0), (float("nan"), 0.0)])
    def test_progress_stays_between_0_and_1(self, text_catalogue: Catalogue, given: float, kept: float) -> None:
        with text_catalogue.session() as session:
            rows.claim_course(session, "1", "a")
            rows.report_progress(session, "1", "a", given)
        assert state(text_catalogue)[1] == kept

    def test_a_reason_is_made_storable(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.claim_course(session, "1", "a")
            rows.fail_course(session, "1", "a", "NUL \0 surrogate \ud800 电 " + "x" * 10_000)
        error = state(text_catalogue)[2]
        assert error is not None
        assert error.startswith("NUL  surrogate ? 电 xxx")
        assert len(error) == 2000

    def test_eight_runs_at_once_and_one_owner(self, text_catalogue: Catalogue) -> None:
        def claim(run_id: str) -> bool:
            with text_catalogue.session() as session:
                return rows.claim_course(session, "1", run_id)

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
            rows.request_embedding(session, "1", NOON)
            assert rows.mark_queued(session, "1", "a")
            assert not rows.mark_queued(session, "1", "a")
            assert row(session).embedding_requested_at == NOON
        assert state(text_catalogue) == ("pending", 0.0, None, "a")

    def test_a_run_that_is_over_or_running_is_not_queued_again(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.claim_course(session, "1", "a")
            assert not rows.mark_queued(session, "1", "b")
            rows.publish(session, "1", "a", "f")
            assert not rows.mark_queued(session, "1", "a")
            assert rows.mark_queued(session, "1", "b")
        assert state(text_catalogue) == ("pending", 0.0, None, "b")


class TestUnfinished:
    """Runs that died or were cancelled without a word of their own."""

    @pytest.fixture(autouse=True)
    def _course(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1")

    def test_while_running(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.claim_course(session, "1", "a")
            assert not rows.fail_unfinished(session, "1", "b", "died")
            assert rows.fail_unfinished(session, "1", "a", "died")
            assert not rows.fail_unfinished(session, "1", "a", "died again")
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_while_queued(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.mark_queued(session, "1", "a")
            assert rows.fail_unfinished(session, "1", "a", "cancelled")
        assert state(text_catalogue) == ("failed", 0.0, "cancelled", "a")

    def test_before_anybody_saw_it(self, text_catalogue: Catalogue) -> None:
        """Requested, launched, dead before the next look: the request was this run's."""
        with text_catalogue.session() as session:
            rows.request_embedding(session, "1", NOON)
            assert rows.fail_unfinished(session, "1", "a", "died", requested_at=NOON)
            assert row(session).embedding_requested_at is None
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_before_anybody_saw_it_without_a_request(self, text_catalogue: Catalogue) -> None:
        """Launched because stage one had finished."""
        with text_catalogue.session() as session:
            assert rows.fail_unfinished(session, "1", "a", "died")
        assert state(text_catalogue) == ("failed", 0.0, "died", "a")

    def test_another_run_is_asked_for(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.claim_course(session, "1", "a")
            assert rows.fail_unfinished(session, "1", "a", "died", retry_at=NOON)
            assert row(session).embedding_requested_at == NOON

    def test_a_later_request_outlives_the_run(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.mark_queued(session, "1", "a")
            rows.request_embedding(session, "1", NOON)
            rows.mark_queued(session, "1", "a")
            assert not rows.fail_unfinished(
                session, "1", "a", "cancelled", requested_at=NOON - timedelta(microseconds=1)
            )
            assert not rows.fail_unfinished(session, "1", "a", "cancelled")
            assert row(session).embedding_requested_at == NOON

    def test_a_newer_run_is_left_alone(self, text_catalogue: Catalogue) -> None:
        with text_catalogue.session() as session:
            rows.mark_queued(session, "1", "a")
            rows.mark_queued(session, "1", "b")
            assert not rows.fail_unfinished(session, "1", "a", "died")
            rows.claim_course(session, "1", "b")
            assert not rows.fail_unfinished(session, "1", "a", "died")
            rows.publish(session, "1", "b", "f")
            assert not rows.fail_unfinished(session, "1", "a", "died")
            assert not rows.fail_unfinished(session, "1", "b", "died")
        assert state(text_catalogue) == ("done", 1.0, None, "b")


class TestIngestion:
    def test_totals_of_every_course(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["succeeded", "succeeded"], chunks=["ab", "电路板"])
        catalogue.add_course("2", resources=["succeeded", "processing"], chunks=["abc"])
        catalogue.add_course("3", resources=["succeeded"])
        catalogue.add_course("4", chunks=["x"])
        catalogue.add_course("5")
        with catalogue.session() as session:
            found = rows.ingestion(session)
            assert found == {
                "1": Ingestion(2, 2, 2),
                "2": Ingestion(2, 1, 1),
                "3": Ingestion(1, 1, 0),
                "4": Ingestion(0, 0, 1),
                "5": Ingestion(),
            }
            assert {course_id for course_id, totals in found.items() if totals.finished} == {"1", "3"}
            assert {course_id: rows.ingestion_of(session, course_id) for course_id in found} == found
            assert rows.ingestion(session, ["2", "5"]) == {"2": found["2"], "5": found["5"]}

    def test_three_queries_whatever_the_number_of_courses(self, text_catalogue: Catalogue) -> None:
        for number in range(20):
            text_catalogue.add_course(f"c{number}", resources=["succeeded"], chunks=["x"])
        statements: list[str] = []
        event.listen(text_catalogue.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        with text_catalogue.session() as session:
            assert len(rows.ingestion(session)) == 20
        assert len(statements) == 3


class TestChunkPages:
    def test_in_the_order_of_ids_whole_and_once(self, catalogue: Catalogue) -> None:
        catalogue.add_course("2", chunks=["not mine"])
        catalogue.add_course("1", chunks=[str(number) for number in range(25)])
        with catalogue.session() as session:
            pages = list(rows.chunk_pages(session, "1", page_size=10))
            assert list(session.identity_map.values()) == []
        assert [len(page) for page in pages] == [10, 10, 5]
        ids = [chunk.id for page in pages for chunk in page]
        assert ids == sorted(ids, key=int if catalogue.ids == "integer" else str)
        assert sorted(int(chunk.text) for page in pages for chunk in page) == list(range(25))

    def test_a_last_page_that_is_full(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1", chunks=["x"] * 20)
        with text_catalogue.session() as session:
            assert [len(page) for page in rows.chunk_pages(session, "1", page_size=10)] == [10, 10]

    def test_under_a_collation_of_its_own(self, text_catalogue: Catalogue) -> None:
        """Pages go on where the last one ended in the *column's* order, which may ignore case."""
        ids = ["b", "A", "c", "D", "a-1", "a1", "é", "_", "10", "9", "电", "路"]
        with text_catalogue.session() as session:
            if text_catalogue.is_postgres:
                linguistic = "SELECT collname FROM pg_collation WHERE collname LIKE 'en%' AND collencoding IN (-1, 6)"
                collation = session.scalar(text(linguistic)) or "C"
                session.execute(text(f'ALTER TABLE chunk ALTER id TYPE VARCHAR COLLATE "{collation}"'))
            else:
                session.execute(text("DROP TABLE chunk"))
                session.execute(
                    text(
                        "CREATE TABLE chunk (id TEXT COLLATE NOCASE PRIMARY KEY, course_id TEXT, lecture_id TEXT,"
                        " section_id TEXT, text TEXT, language TEXT, source_type TEXT, metadata TEXT)"
                    )
                )
            session.add_all(Chunk(id=chunk_id, course_id="1", text="x") for chunk_id in ids)
        with text_catalogue.session() as session:
            found = [chunk.id for page in rows.chunk_pages(session, "1", page_size=2) for chunk in page]
        assert len(found) == len(ids)
        assert set(found) == set(ids)

    def test_chunks_that_come_and_go_meanwhile_shift_no_other(self, text_catalogue: Catalogue) -> None:
        text_catalogue.add_course("1", chunks=["x"] * 9)
        seen: list[str] = []
        for after in (None, "3", "6"):
            with text_catalogue.session() as session:
                seen += [chunk.id for chunk in rows.chunk_page(session, "1", after=after, limit=3)]
            with text_catalogue.session() as session:
                session.execute(text("DELETE FROM chunk WHERE id = '1'"))
        assert seen == list("123456789")

    def test_a_chunk_that_says_little(self, integer_catalogue: Catalogue) -> None:
        integer_catalogue.add_course("1")
        with integer_catalogue.session() as session:
            session.execute(text("INSERT INTO chunk (id, course_id, text) VALUES (5, 1, 'x')"))
            [[chunk]] = rows.chunk_pages(session, "1")
        assert chunk.model_dump() == {
            "id": "5",
            "course_id": "1",
            "lecture_id": None,
            "section_id": None,
            "text": "x",
            "language": None,
            "source_type": None,
            "extra": None,
        }

import unicodedata
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from sqlalchemy import text
from sqlalchemy.orm import Session

from models import chunks, course_state, courses, ingestion
from models.ingestion import Ingestion
from models.tables import Course
from tests.support.catalogue import Catalogue, migrate

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

INVALID_IDS = [
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
        course = courses.get_course(session, course_id)
    assert course is not None
    return course.embedding_status, course.embedding_progress, course.embedding_error, course.embedding_run_id


def row(session: Session) -> Course:
    course = courses.get_course(session, "1")
    assert course is not None
    return course


class TestIds:
    """Ids are text and compared exactly, for any type of the id columns."""

    def test_id_is_found_and_read_as_text(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["succeeded"], chunks=["text"])
        with catalogue.session() as session:
            assert row(session).id == "1"
            assert ingestion.ingestion_of_course(session, "1") == Ingestion(1, 1, 1)
            [[chunk]] = chunks.chunk_pages(session, "1")
        assert (chunk.course_id, chunk.lecture_id, chunk.section_id) == ("1", "3", "4")

    def test_other_ids_are_not_found_and_do_not_abort_the_transaction(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["succeeded"], chunks=["text"])
        with catalogue.session() as session:
            for other in (*OTHER_SPELLINGS_OF_1, *INVALID_IDS):
                assert courses.get_course(session, other) is None, other
                assert course_state.request_embedding(session, other, NOON) is False, other
                assert course_state.claim_course(session, other, "run") is False, other
                assert ingestion.ingestion_of_course(session, other) == Ingestion(), other
                assert list(chunks.chunk_pages(session, other)) == [], other
            assert course_state.claim_course(session, "1", "run")
        assert state(catalogue) == ("running", 0.0, None, "run")

    def test_text_ids_are_compared_exactly(self, text_catalogue: Catalogue) -> None:
        ids = ["a", "A", "01", "1", "a ", "é", unicodedata.normalize("NFD", "é"), "电路", "x/y", "%", "_"]
        for course_id in ids:
            text_catalogue.add_course(course_id)
        with text_catalogue.session() as session:
            for course_id in ids:
                course = courses.get_course(session, course_id)
                assert course is not None
                assert course.id == course_id
            assert {course.id for course in courses.list_courses(session)} == set(ids)

    def test_list_courses_orders_by_id(self, catalogue: Catalogue) -> None:
        for course_id in ("10", "9", "1"):
            catalogue.add_course(course_id)
        with catalogue.session() as session:
            ids = [course.id for course in courses.list_courses(session)]
        assert ids == (["1", "10", "9"] if catalogue.ids == "text" else ["1", "9", "10"])


COURSE_UUID = "0f8fad5b-d9cb-469f-a165-70867728950e"
OTHER_UUID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
UUID_TABLES = (
    "CREATE TABLE course (id UUID PRIMARY KEY)",
    "CREATE TABLE resource (id UUID PRIMARY KEY, course_id UUID NOT NULL, status VARCHAR NOT NULL)",
    """CREATE TABLE chunk (id UUID PRIMARY KEY, course_id UUID NOT NULL, lecture_id UUID, section_id UUID,
       text TEXT NOT NULL, language VARCHAR, source_type VARCHAR, metadata JSONB)""",
)


@pytest.mark.postgres
class TestUuidColumns:
    """Stage one's tables with UUID columns on PostgreSQL."""

    @pytest.fixture
    def uuid_catalogue(self, postgres_url: str) -> Iterator[Catalogue]:
        """A catalogue with one course, which has one succeeded resource and one chunk."""
        catalogue = Catalogue(postgres_url, "uuid")
        with catalogue.session() as session:
            for statement in UUID_TABLES:
                session.execute(text(statement))
        migrate(postgres_url)
        with catalogue.session() as session:
            for statement in (
                "INSERT INTO course (id) VALUES (:course)",
                "INSERT INTO resource (id, course_id, status) VALUES (gen_random_uuid(), :course, 'succeeded')",
                "INSERT INTO chunk (id, course_id, text) VALUES (:chunk, :course, 'text')",
            ):
                session.execute(text(statement), {"course": COURSE_UUID, "chunk": OTHER_UUID})
        yield catalogue
        catalogue.engine.dispose()

    def test_uuid_is_found_and_read_as_text(self, uuid_catalogue: Catalogue) -> None:
        with uuid_catalogue.session() as session:
            course = courses.get_course(session, COURSE_UUID)
            assert course is not None
            assert course.id == COURSE_UUID
            assert courses.published_course(session, COURSE_UUID) is not None
            assert courses.list_course_ids(session) == [COURSE_UUID]
            assert ingestion.ingestion_of_course(session, COURSE_UUID) == Ingestion(1, 1, 1)
            assert ingestion.ingestion_by_course(session) == {COURSE_UUID: Ingestion(1, 1, 1)}
            [[chunk]] = chunks.chunk_pages(session, COURSE_UUID)
            assert (chunk.id, chunk.course_id) == (OTHER_UUID, COURSE_UUID)
            assert course_state.claim_course(session, COURSE_UUID, "run")
            assert course_state.owns_course(session, COURSE_UUID, "run")

    def test_other_ids_are_not_found_and_do_not_abort_the_transaction(self, uuid_catalogue: Catalogue) -> None:
        other_spellings = (COURSE_UUID.upper(), f"{{{COURSE_UUID}}}", COURSE_UUID.replace("-", ""), f" {COURSE_UUID}")
        with uuid_catalogue.session() as session:
            for course_id in ("1", "abc", COURSE_UUID[:-1], OTHER_UUID, *other_spellings, *INVALID_IDS):
                assert courses.get_course(session, course_id) is None, course_id
                assert courses.published_course(session, course_id) is None, course_id
                assert courses.courses_by_id(session, [course_id]) == {course_id: None}
                assert course_state.request_embedding(session, course_id, NOON) is False, course_id
                assert course_state.claim_course(session, course_id, "run") is False, course_id
                assert not course_state.owns_course(session, course_id, "run"), course_id
                assert ingestion.ingestion_of_course(session, course_id) == Ingestion(), course_id
                assert list(chunks.chunk_pages(session, course_id)) == [], course_id
            assert course_state.claim_course(session, COURSE_UUID, "run")

import unicodedata
from datetime import UTC, datetime

from sqlalchemy.orm import Session

from models import chunks, course_state, courses, ingestion
from models.ingestion import Ingestion
from models.tables import Course
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
        course = courses.get_course(session, course_id)
    assert course is not None
    return course.embedding_status, course.embedding_progress, course.embedding_error, course.embedding_run_id


def row(session: Session) -> Course:
    course = courses.get_course(session, "1")
    assert course is not None
    return course


class TestIds:
    """Ids are text, compared letter for letter, whatever the columns hold."""

    def test_an_id_is_found_and_read_as_text(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["succeeded"], chunks=["text"])
        with catalogue.session() as session:
            assert row(session).id == "1"
            assert ingestion.ingestion_of_course(session, "1") == Ingestion(1, 1, 1)
            [[chunk]] = chunks.chunk_pages(session, "1")
        assert (chunk.course_id, chunk.lecture_id, chunk.section_id) == ("1", "3", "4")

    def test_anything_else_is_not_found_and_does_not_spoil_the_transaction(self, catalogue: Catalogue) -> None:
        catalogue.add_course("1", resources=["succeeded"], chunks=["text"])
        with catalogue.session() as session:
            for other in (*OTHER_SPELLINGS_OF_1, *NEVER_AN_ID):
                assert courses.get_course(session, other) is None, other
                assert course_state.request_embedding(session, other, NOON) is False, other
                assert course_state.claim_course(session, other, "run") is False, other
                assert ingestion.ingestion_of_course(session, other) == Ingestion(), other
                assert list(chunks.chunk_pages(session, other)) == [], other
            assert course_state.claim_course(session, "1", "run")
        assert state(catalogue) == ("running", 0.0, None, "run")

    def test_text_ids_are_told_apart_letter_for_letter(self, text_catalogue: Catalogue) -> None:
        ids = ["a", "A", "01", "1", "a ", "é", unicodedata.normalize("NFD", "é"), "电路", "x/y", "%", "_"]
        for course_id in ids:
            text_catalogue.add_course(course_id)
        with text_catalogue.session() as session:
            for course_id in ids:
                course = courses.get_course(session, course_id)
                assert course is not None
                assert course.id == course_id
            assert {course.id for course in courses.list_courses(session)} == set(ids)

    def test_courses_are_listed_by_id(self, catalogue: Catalogue) -> None:
        for course_id in ("10", "9", "1"):
            catalogue.add_course(course_id)
        with catalogue.session() as session:
            ids = [course.id for course in courses.list_courses(session)]
        assert ids == (["1", "10", "9"] if catalogue.ids == "text" else ["1", "9", "10"])

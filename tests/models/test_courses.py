"""Pages of the list of courses."""

import pytest

from models.courses import course_page, list_courses
from tests.support.catalogue import Catalogue


def test_pages_have_the_order_of_the_list(catalogue: Catalogue) -> None:
    """With integer ids, 9 comes before 10; a database orders text by its collation."""
    for number in (2, 10, 9, 1, 20, 100):
        catalogue.add_course(str(number))
    with catalogue.session() as session:
        expected = [course.id for course in list_courses(session)]
        found: list[str] = []
        after: str | None = None
        while True:
            page = course_page(session, limit=2, after=after)
            assert page.total == 6
            found += [course.id for course in page.courses]
            after = page.next_after
            if after is None:
                break
        assert found == expected
        with_zero = course_page(session, search="0", limit=10)
        assert [course.id for course in with_zero.courses] == [id_ for id_ in expected if "0" in id_]
        assert course_page(session, search="0", status="done").total == 0


def test_search_heeds_no_case_and_takes_every_character_literally(text_catalogue: Catalogue) -> None:
    for name in ("ÄÖ-Übung", "100%_x", "100 x"):
        text_catalogue.add_course(name)
    with text_catalogue.session() as session:
        found = {text: course_page(session, search=text).total for text in ("äö-ü", "X", "%", "_", "0%_", "\\")}
    assert found == {"äö-ü": 1, "X": 2, "%": 1, "_": 1, "0%_": 1, "\\": 0}


def test_course_that_is_deleted_between_two_pages_hides_no_other(text_catalogue: Catalogue) -> None:
    for name in "abcd":
        text_catalogue.add_course(name)
    with text_catalogue.session() as session:
        page = course_page(session, limit=2)
        session.delete(page.courses[1])
        session.flush()
        rest = course_page(session, limit=2, after=page.next_after)
    assert [course.id for course in rest.courses] == ["c", "d"]


def test_impossible_id_is_no_place_to_begin(integer_catalogue: Catalogue) -> None:
    with integer_catalogue.session() as session, pytest.raises(ValueError, match="no course"):
        course_page(session, after="a\0")

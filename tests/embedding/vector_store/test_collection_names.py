"""Every course has a legal collection name of its own, and plain ids keep the contract's form."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding.vector_store.collection_names import collection_name, course_id_of

LEGAL = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
course_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=700) | st.text(
    "aZ0._-/ 课", min_size=1
)


@pytest.mark.parametrize("course_id", ["1", "abc123", "hello-algo-en", "cs_101", "CS101"])
def test_plain_ids_keep_the_contracts_form(course_id: str) -> None:
    assert collection_name(course_id) == f"course_{course_id}"


@given(course_ids)
def test_names_are_legal(course_id: str) -> None:
    name = collection_name(course_id)
    assert LEGAL.fullmatch(name)
    assert ".." not in name


@given(course_ids)
def test_names_lead_back_to_the_id_unless_it_was_too_long(course_id: str) -> None:
    found = course_id_of(collection_name(course_id))
    assert found == course_id or (found is None and len(course_id) > 100)


@given(course_ids, course_ids)
def test_no_two_courses_share_a_name(one: str, other: str) -> None:
    assert (collection_name(one) == collection_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["lectures", "course_.hdeadbeef", "course_.ff"])
def test_foreign_names_are_nobodys(name: str) -> None:
    assert course_id_of(name) is None


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        collection_name("")

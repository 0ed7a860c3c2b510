"""Names of collections are valid for Chroma and unique; for plain ids they are `course_{id}`."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedding.vector_store.collection_names import MAX_LENGTH, PREFIX, collection_name, course_id_of

VALID = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{1,510}[a-zA-Z0-9]")
course_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=700) | st.text(
    "aZ0._-/ 课", min_size=1
)


@pytest.mark.parametrize("course_id", ["1", "abc123", "hello-algo-en", "cs_101", "CS101"])
def test_collection_name_of_plain_id_has_the_fixed_form(course_id: str) -> None:
    assert collection_name(course_id) == f"course_{course_id}"


@given(course_ids)
def test_collection_name_is_valid_for_chroma(course_id: str) -> None:
    name = collection_name(course_id)
    assert VALID.fullmatch(name)
    assert ".." not in name


@given(course_ids)
def test_course_id_of_inverts_collection_name_unless_the_id_is_long(course_id: str) -> None:
    decoded = course_id_of(collection_name(course_id))
    longest_name = len(PREFIX) + 3 * len(course_id.encode())  # if every byte is escaped
    assert decoded == course_id or (decoded is None and longest_name > MAX_LENGTH)


@given(course_ids, course_ids)
def test_collection_names_of_different_ids_differ(course_id: str, other_id: str) -> None:
    assert (collection_name(course_id) == collection_name(other_id)) == (course_id == other_id)


@pytest.mark.parametrize("name", ["lectures", "course_.hdeadbeef", "course_.ff"])
def test_course_id_of_foreign_name_is_none(name: str) -> None:
    assert course_id_of(name) is None


def test_collection_name_rejects_empty_id() -> None:
    with pytest.raises(ValueError, match="empty"):
        collection_name("")

import json
from io import BytesIO
from typing import Any

import pytest
from dagster import DagsterInstance
from hypothesis import given, settings
from hypothesis import strategies as st

from models.json_values import MAX_DEPTH
from models.jsonl_rows import read_lines
from models.tables import Chunk

LINE: dict[str, Any] = {
    "id": "c1",
    "course_id": "physics",
    "lecture_id": "l1",
    "section_id": "s1",
    "order_in_section": 0,
    "text": "Ohm's law",
    "language": "en",
    "source_type": "pdf",
    "metadata": {"page": 3},
}


def read(content: bytes) -> list[tuple[str, Chunk | str]]:
    return [(str(position), row) for position, row in read_lines("f", BytesIO(content))]


def read_one(line: dict[str, Any]) -> Chunk | str:
    [(_, row)] = read(json.dumps(line).encode())
    return row


def problem(**changes: Any) -> str:
    row = read_one({**LINE, **changes})
    assert isinstance(row, str), "the line was accepted"
    return row


def chunk(**changes: Any) -> Chunk:
    row = read_one({**LINE, **changes})
    assert isinstance(row, Chunk), row
    return row


class TestValidLines:
    def test_metadata_may_be_nested_up_to_the_limit(self) -> None:
        depth = MAX_DEPTH - 1  # and the metadata itself
        content = json.dumps(LINE).replace('"page": 3', '"page": ' + "[" * depth + "]" * depth).encode()
        [(_, row)] = read(content)
        assert isinstance(row, Chunk)

    def test_line_becomes_a_chunk_with_order_in_section_in_its_metadata(self) -> None:
        assert chunk().model_dump() == {
            "id": "c1",
            "course_id": "physics",
            "lecture_id": "l1",
            "section_id": "s1",
            "text": "Ohm's law",
            "language": "en",
            "source_type": "pdf",
            "extra": {"page": 3, "order_in_section": 0},
        }

    def test_integer_ids_become_text(self) -> None:
        row = chunk(id=7, course_id=1, lecture_id=2, section_id=3)
        assert (row.id, row.course_id, row.lecture_id, row.section_id) == ("7", "1", "2", "3")

    def test_metadata_is_optional(self) -> None:
        row = read_one({key: value for key, value in LINE.items() if key != "metadata"})
        assert isinstance(row, Chunk)
        assert row.extra == {"order_in_section": 0}

    def test_labels_may_be_null(self) -> None:
        row = chunk(lecture_id=None, section_id=None, language=None, source_type=None)
        assert (row.lecture_id, row.section_id, row.language, row.source_type) == (None,) * 4

    def test_blank_lines_a_byte_order_mark_and_carriage_returns_are_skipped(self) -> None:
        line = json.dumps(LINE).encode()
        rows = read(b"\xef\xbb\xbf" + line + b"\r\n\r\n  \n" + line)
        assert [position for position, _ in rows] == ["f:1", "f:4"]
        assert all(isinstance(row, Chunk) for _, row in rows)

    def test_other_unicode_line_separators_do_not_end_a_line(self) -> None:
        line = json.dumps({**LINE, "text": "a\u2028b\u0085c\x0bd"}, ensure_ascii=False).encode()
        [(_, row)] = read(line)
        assert isinstance(row, Chunk)
        assert row.text == "a\u2028b\u0085c\x0bd"


class TestInvalidLines:
    @pytest.mark.parametrize("key", [key for key in LINE if key != "metadata"])
    def test_missing_key_is_reported(self, key: str) -> None:
        assert read_one({name: value for name, value in LINE.items() if name != key}) == f"{key} is missing"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"lectureId": "x"}, "lectureId is not a known key"),
            ({"text": ""}, "text is blank"),
            ({"text": " \n\t　"}, "text is blank"),
            ({"text": "\u200b\ufeff\u2060\u00ad\u0301"}, "text is blank"),
            ({"text": None}, "text must be a string"),
            ({"text": 5}, "text must be a string"),
            ({"text": "a\0b"}, "text contains a NUL character"),
            ({"text": "\ud800"}, "text contains an unpaired surrogate"),
            ({"id": ""}, "id is blank"),
            ({"id": None}, "id must be a string or an integer"),
            ({"id": True}, "id must be a string or an integer"),
            ({"id": 1.0}, "id must be a string or an integer"),
            ({"id": ["c1"]}, "id must be a string or an integer"),
            ({"course_id": " "}, "course_id is blank"),
            ({"course_id": "\u200b"}, "course_id is blank"),
            ({"course_id": "a...b"}, "course_id must not contain '...'"),
            ({"course_id": "a\tb"}, "course_id must not contain control characters"),
            ({"order_in_section": "0"}, "order_in_section must be an integer"),
            ({"order_in_section": 0.5}, "order_in_section must be an integer"),
            ({"order_in_section": True}, "order_in_section must be an integer"),
            ({"order_in_section": None}, "order_in_section must be an integer"),
            ({"order_in_section": -1}, "order_in_section must not be negative"),
            ({"order_in_section": 2**63}, "order_in_section is too large"),
            ({"language": 1}, "language must be a string"),
            ({"metadata": None}, "metadata must be an object"),
            ({"metadata": [1]}, "metadata must be an object"),
            ({"metadata": {"a": ["\0"]}}, "metadata contains a NUL character"),
            ({"metadata": {"\ud800": 1}}, "metadata contains an unpaired surrogate"),
            ({"id": "", "text": ""}, "id is blank; text is blank"),
        ],
    )
    def test_invalid_value_is_reported(self, changes: dict[str, Any], message: str) -> None:
        assert problem(**changes) == message

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"{", "not JSON: Expecting property name enclosed in double quotes at column 2"),
            (b'{"id": 1} x', "not JSON: Extra data at column 11"),
            (b"\xff\xfe{}", "not UTF-8: byte 0xff at position 0"),
            (b'{"id": "\xe7\x94"}', "not UTF-8: byte 0xe7 at position 8"),
            (b"[]", "not a JSON object but an array"),
            (b"null", "not a JSON object but null"),
            (b"1.5", "not a JSON object but a number"),
            (b"[" * 100_000, "not JSON: nested too deeply"),
            (b'{"metadata": NaN}', "not JSON: NaN"),
        ],
    )
    def test_line_without_json_object_is_reported(self, content: bytes, message: str) -> None:
        assert read(content) == [("f:1", message)]

    def test_infinite_number_in_metadata_is_reported(self) -> None:
        content = json.dumps(LINE).replace('"page": 3', '"page": 1e999').encode()
        assert read(content) == [("f:1", "metadata contains a number that is too large")]

    def test_too_deeply_nested_metadata_is_reported(self) -> None:
        content = json.dumps(LINE).replace('"page": 3', '"page": ' + "[" * 500 + "]" * 500).encode()
        assert read(content) == [("f:1", "metadata is nested too deeply")]

    @pytest.mark.parametrize(
        "line", ['{"id": 1, "text": "a", "text": "b"}', '{"metadata": {"text": [{"text": 1, "text": 1}]}}']
    )
    def test_key_that_occurs_twice_is_reported(self, line: str) -> None:
        """Otherwise the last value would win, and the first would be lost."""
        assert read(line.encode()) == [("f:1", "the key 'text' occurs more than once in an object")]

    @pytest.mark.parametrize("depth", [MAX_DEPTH, 300, 900, 1000])
    def test_metadata_nested_deeper_than_the_limit_is_reported(self, depth: int) -> None:
        content = json.dumps(LINE).replace('"page": 3', '"page": ' + "[" * depth + "]" * depth).encode()
        [(position, row)] = read(content)
        assert position == "f:1"
        assert isinstance(row, str)
        assert "nested too deeply" in row

    def test_lines_after_an_invalid_line_are_read(self) -> None:
        rows = read(b"{\n" + json.dumps(LINE).encode() + b"\n[]\n")
        assert [(position, isinstance(row, Chunk)) for position, row in rows] == [
            ("f:1", False),
            ("f:2", True),
            ("f:3", False),
        ]

    @given(st.binary(max_size=50))
    def test_any_bytes_give_an_error_message(self, content: bytes) -> None:
        for _, row in read(content):
            assert isinstance(row, str)
            assert row


def test_accepted_course_id_is_a_valid_partition_key() -> None:
    @given(st.text(min_size=1, max_size=8))
    @settings(deadline=None)
    def check(course_id: str) -> None:
        if isinstance(read_one({**LINE, "course_id": course_id}), Chunk):
            instance.add_dynamic_partitions("courses", [course_id])
            assert instance.has_dynamic_partition("courses", course_id)

    with DagsterInstance.ephemeral() as instance:
        check()

"""The context of a chunk: which titles of its metadata, and how they are written."""

from typing import Any

import pytest

from embedding.model_settings import EmbeddingSettings
from models.context import MAX_CHARACTERS, NO_CONTEXT, ContextFields, weighted_titles
from models.tables import Chunk

DEFAULT = EmbeddingSettings().context


def context_of(metadata: Any, fields: ContextFields = DEFAULT) -> str:
    return fields.of(Chunk(id="1", course_id="c", text="text", extra=metadata))


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        ("lecture_title,section_title", ("lecture_title", "section_title")),
        (" heading_path , ,heading_path", ("heading_path",)),
        ("none", ()),
        (",", ()),
    ],
)
def test_setting_names_the_fields(setting: str, names: tuple[str, ...]) -> None:
    assert ContextFields.parse(setting) == ContextFields(names)


def test_default_is_the_titles_of_lecture_and_section(monkeypatch: pytest.MonkeyPatch) -> None:
    assert DEFAULT.names == ("lecture_title", "section_title")
    monkeypatch.setenv("CONTEXT_FIELDS", "none")
    assert EmbeddingSettings().context == NO_CONTEXT


@pytest.mark.parametrize(
    ("metadata", "context"),
    [
        ({"section_title": "Building a heap", "lecture_title": "Heaps"}, "Heaps > Building a heap"),
        ({"lecture_title": "Queue", "section_title": "QUEUE"}, "Queue"),
        ({"lecture_title": " \u200b\n", "section_title": "A\n  line\x00break"}, "A line break"),
        ({"lecture_title": ["Trees", "", 3, "Heaps"], "section_title": "heaps"}, "Trees > Heaps"),
        ({"lecture_title": 7, "section_title": {"text": "x"}}, ""),
        ({"lecture_title": None, "other": "x"}, ""),
        ({"section_title": "half \ud800"}, "half \ufffd"),
        ({}, ""),
        (None, ""),
        (["no", "object"], ""),
    ],
)
def test_context_is_one_line_of_distinct_titles(metadata: Any, context: str) -> None:
    assert context_of(metadata) == context


def test_long_context_keeps_the_specific_title() -> None:
    assert context_of({"lecture_title": "L" * 150, "section_title": "S" * 60}) == "S" * 60
    assert context_of({"lecture_title": "L", "section_title": "S" * 999}) == "S" * MAX_CHARACTERS


def test_without_fields_there_is_no_context() -> None:
    assert context_of({"lecture_title": "Heaps"}, NO_CONTEXT) == ""


def test_each_title_weighs_a_quarter_of_the_more_specific_one() -> None:
    assert list(weighted_titles("Trees > Heaps > Building")) == [("Building", 1.0), ("Heaps", 0.25), ("Trees", 0.0625)]
    assert list(weighted_titles("")) == []

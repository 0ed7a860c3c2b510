import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import (
    cut_at_word,
    is_blank,
    is_unicode,
    one_line,
    without_blank_start,
    without_excerpts,
    without_surrogates,
)


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_without_surrogates_returns_encodable_text(text: str) -> None:
    clean = without_surrogates(text)
    assert is_unicode(clean)
    assert (clean == text) == is_unicode(text)


@pytest.mark.parametrize(
    ("text", "clean"),
    [("a\ud800b", "a\ufffdb"), ("\udc00\ud800", "\ufffd\ufffd"), ("\ud83d\ude00", "\U0001f600"), ("电路", "电路")],
)
def test_without_surrogates_replaces_unpaired_surrogates_and_decodes_pairs(text: str, clean: str) -> None:
    assert without_surrogates(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "",
        " \n\t\u3000",
        "\u200b",
        "\ufeff",
        "\u2060\u00ad",
        "\u200e \u200d",
        "\u0301\ufe0f\u034f",
        "\x00\x1f",
        "\u3164\u2800",
    ],
)
def test_text_without_a_visible_character_is_blank(text: str) -> None:
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", ".", "电", "\u200ba", "e\u0301", "\U0001f600", "\ufffd", "\ue000", "0"])
def test_text_with_a_visible_character_is_not_blank(text: str) -> None:
    assert not is_blank(text)


def test_message_without_excerpts_quotes_no_short_text_either() -> None:
    message = "input '什么是过孔？' and \"FR-4\" and 'a' refused, FR-400 not (1 of 4)"
    shown = "input '…' and \"…\" and 'a' refused, FR-400 not (1 of 4)"
    assert without_excerpts(message, ["什么是过孔？", " FR-4 ", "a", ""]) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("", ""),
        ("too long", "too long"),
        ("input 'Copper is a metal' is too long", "input '…' is too long"),
        ("'metal.' and 'Zinc is another.' (400)", "'metal.' and '…' (400)"),
        ("铜是一种金属元素。 rejected", "… rejected"),
        ("Copper is a metal.", "…"),
    ],
)
def test_message_without_excerpts_quotes_no_text(message: str, shown: str) -> None:
    assert without_excerpts(message, ["Copper is a metal.", "Zinc is another.", "铜是一种金属元素。"]) == shown


@pytest.mark.parametrize(
    ("text", "limit", "beginning"),
    [
        ("copper", 6, "copper"),
        ("copper plated holes", 6, "copper"),
        ("copper plated holes", 7, "copper"),
        ("copper plated holes", 12, "copper"),
        ("copper plated holes", 13, "copper plated"),
        ("state-of-the-art", 13, "state-of-the-"),
        ("so " + "g" * 20, 12, "so " + "g" * 9),
        ("电路板的铜箔厚度", 5, "电路板的铜"),
        ("使用反向传播 backpropagation", 12, "使用反向传播"),
        ("使用反向传播backprop", 10, "使用反向传播"),
        ("한국어 문장입니다", 6, "한국어"),
        ("cafe\u0301 naive\u0308te\u0301", 9, "cafe\u0301"),
        ("nai\u0308vete", 3, "na"),
        ("हिन्दी हिन्दी", 9, "हिन्दी"),
        ("😀👍🏽", 2, "😀"),
        ("😀👨\u200d👩\u200d👧", 3, "😀"),
        ("e" + "\u0301" * 9, 4, "e" + "\u0301" * 3),
    ],
)
def test_text_is_cut_between_words_and_never_within_a_character(text: str, limit: int, beginning: str) -> None:
    assert cut_at_word(text, limit) == beginning


@given(st.text("ab -.电路한é\u0301\u200d👩🏽 \n", max_size=30), st.integers(1, 30))
def test_cut_text_is_a_beginning_within_the_limit(text: str, limit: int) -> None:
    part = cut_at_word(text, limit)
    assert text.startswith(part)
    assert len(part) <= limit
    assert part == text or len(text) > limit


@pytest.mark.parametrize(("text", "visible"), [("", ""), (" \n\u200b ", ""), (" \u200b\ta b ", "a b "), ("a", "a")])
def test_text_without_its_blank_start(text: str, visible: str) -> None:
    assert without_blank_start(text) == visible


def test_one_line_has_nothing_that_a_terminal_obeys() -> None:
    assert (
        one_line(" a\r\n\tb \x1b]0;title\x07c\x9b31m \u202ed\u2066 电路 \u200dé\x00")
        == "a b ]0;title c 31m d 电路 \u200dé"
    )

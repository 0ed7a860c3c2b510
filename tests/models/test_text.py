import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import is_blank, is_unicode, without_excerpts, without_surrogates


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

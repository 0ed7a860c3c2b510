import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import is_unicode, without_surrogates


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_what_comes_out_can_be_encoded(text: str) -> None:
    clean = without_surrogates(text)
    assert is_unicode(clean)
    assert (clean == text) == is_unicode(text)


@pytest.mark.parametrize(
    ("text", "clean"),
    [("a\ud800b", "a\ufffdb"), ("\udc00\ud800", "\ufffd\ufffd"), ("\ud83d\ude00", "\U0001f600"), ("电路", "电路")],
)
def test_halves_become_the_replacement_and_pairs_their_character(text: str, clean: str) -> None:
    assert without_surrogates(text) == clean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.text import is_unicode, without_surrogates


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

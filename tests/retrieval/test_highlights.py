"""Highlighted matches are the tokens of the query in the text."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.analysis import analyse, terms
from retrieval.highlights import CACHED_TEXTS, _spans, matches

VOCABULARY = """
copper Coppers plating plated dying die skies sky ties happily happy hoping hop hashMap HTTPServer node.js c++ C don't
state-of-the-art 复杂度 时间复杂度 阻焊层 马克思主义 ｃｏｐｐｅｒ ﬁlm films 3.14 utf-8 my_var ½ é e\u0301 😀 the
"""
WORDS = st.sampled_from(VOCABULARY.split())
TEXTS = st.lists(WORDS, max_size=12).flatmap(
    lambda words: st.lists(
        st.sampled_from([" ", "\n", ", ", "(", "。", ""]), min_size=len(words), max_size=len(words)
    ).map(lambda gaps: "".join(word + gap for word, gap in zip(words, gaps, strict=True)))
)


@given(TEXTS, TEXTS)
def test_matches_cover_exactly_the_tokens_of_the_query(text: str, query: str) -> None:
    query_terms = terms(query)
    expected = {
        offset for token in analyse(text) if token.term in query_terms for offset in range(token.start, token.end)
    }
    spans = matches(text, query_terms)
    assert {offset for start, end in spans for offset in range(start, end)} == expected
    assert spans == sorted(spans)
    assert all(end < start for (_, end), (start, _) in pairwise(spans))


@pytest.mark.parametrize(
    ("text", "query", "expected"),
    [
        ("Plated copper. COPPERS!", "copper", ["copper", "COPPERS"]),
        ("使用 hashMap 的复杂度", "hash map 复杂度", ["hashMap", "复杂度"]),
        ("node.js and Node", "node", ["node", "Node"]),
        ("ｃｏｐｐｅｒ ﬁlm", "copper film", ["ｃｏｐｐｅｒ", "ﬁlm"]),
        ("The dying sky: skies.", "die sky", ["dying", "sky", "skies"]),
        ("no such word", "copper", []),
        ("only stop words", "the of", []),
    ],
)
def test_matches_of_examples(text: str, query: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in matches(text, terms(query))] == expected


def test_tokens_of_a_bounded_number_of_texts_are_cached() -> None:
    info = _spans.cache_info()
    assert info.maxsize == CACHED_TEXTS
    matches("copper cached once", ["copper"])
    hits = _spans.cache_info().hits
    assert matches("copper cached once", ["cach", "copper"]) == [(0, 6), (7, 13)]
    assert _spans.cache_info().hits == hits + 1

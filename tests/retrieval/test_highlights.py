"""Highlighted matches are what the query asks for."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.analysis.query import analyse_query
from retrieval.bm25 import Bm25, postings_as_arrays
from retrieval.highlights import CACHED_TOKENS, _tokens, matches
from retrieval.query_terms import Marks, resolve

VOCABULARY = """
copper Coppers plating plated dying die skies sky ties happily happy hoping hop hashMap HTTPServer node.js c++ C don't
state-of-the-art 复杂度 时间复杂度 阻焊层 马克思主义 ｃｏｐｐｅｒ ﬁlm films 3.14 utf-8 my_var ½ é e\u0301 😀 the for
上拉电阻 冯诺依曼 5V 10µF sol-\nder im\xadage 电路 電路 ไทย A* == Wi-Fi wifi Café
"""
WORDS = st.sampled_from(VOCABULARY.split(" "))
TEXTS = st.lists(WORDS, max_size=12).flatmap(
    lambda words: st.lists(
        st.sampled_from([" ", "\n", ", ", "(", "。", ""]), min_size=len(words), max_size=len(words)
    ).map(lambda gaps: "".join(word + gap for word, gap in zip(words, gaps, strict=True)))
)


def marked(text: str, query: str) -> list[str]:
    course = Bm25(postings_as_arrays([text]), 1)
    return [text[start:end] for start, end in matches(text, resolve(analyse_query(query), course).marks)]


@given(TEXTS | st.text(max_size=20), TEXTS | st.text(max_size=8))
def test_matches_lie_in_the_text_and_never_touch(text: str, query: str) -> None:
    course = Bm25(postings_as_arrays([text]), 1)
    spans = matches(text, resolve(analyse_query(query), course).marks)
    assert all(0 <= start < end <= len(text) for start, end in spans)
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
        ("If you do it, the solder is going to melt.", "what do I do if the solder is going bad?", ["solder"]),
        ("only words of the grammar", "the of", ["of", "the"]),
        ("The impe\xaddance of the sol-\nder", "impedance solder", ["impe\xaddance", "sol-\nder"]),
        ("the cap\u200bacitor", "capacitor", ["cap\u200bacitor"]),
        ("我们学习马克思主义理论", "马克思主义", ["马克思主义"]),
        ("前缀和与前缀", "前缀和", ["前缀和", "前缀"]),
        ("用上拉电阻，不用下拉电阻", "上拉电阻", ["上拉电阻", "电阻"]),
        ("冯诺依曼体系结构", "冯诺依曼", ["冯诺依曼"]),
        ("電路板需要", "电路板", ["電路板"]),
        ("印 刷 电 路 板 的 制 造", "印刷电路板", ["印 刷 电 路 板"]),
        ("A for loop waits for it", "how does a for loop work", ["for loop"]),
        ("an AND gate and a wire", "AND gate", ["AND", "gate", "and"]),
        ("the Wi-Fi and wifi", "wi fi", ["Wi-Fi", "wifi"]),
        ("a pull up resistor", "pullup", ["pull up"]),
        ("the capacitor", "capcitor", ["capacitor"]),
        ("นี่คือภาษาไทยครับ", "ภาษาไทย", ["ภาษาไทย"]),
        ("10 µF or 100 nF", "10uF", ["10 µF"]),
    ],
)
def test_matches_of_examples(text: str, query: str, expected: list[str]) -> None:
    assert marked(text, query) == expected


def test_tokens_of_recent_texts_are_cached_up_to_a_number_of_tokens() -> None:
    info = _tokens.cache_info()
    assert info.maxsize == CACHED_TOKENS
    matches("copper cached once", Marks(frozenset({"copper"})))
    info = _tokens.cache_info()
    assert matches("copper cached once", Marks(frozenset({"cach", "copper"}))) == [(0, 6), (7, 13)]
    assert _tokens.cache_info().hits == info.hits + 1
    matches("copper " * 1000, Marks(frozenset({"copper"})))
    assert _tokens.cache_info().currsize >= info.currsize + 1000, "a long text counts as much as many short ones"

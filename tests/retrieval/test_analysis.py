"""The analyser: terms of a text, and their positions."""

import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
import Stemmer
from hypothesis import example, given
from hypothesis import strategies as st

from retrieval.analysis import analyse, terms

PIECES = (
    *("sorted", "Trees", "the", "don't", "O’Neill", "hashMap", "HTTPServer", "node.js", "std::vector", "C++", "C#"),
    *("snake_case", "state-of-the-art", "x86", "复杂度", "快速排序算法", "的", "データ", "한국어", "naïve", "naïve"),
    *("Ｐｙｔｈｏｎ", "ﬁle", "½", "㎏", "℀", "㍿", "①", "²", "…", "，", "\n", "\0", "\ud800", "👩\u200d🔬"),
)
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4) | st.just(" "), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("sorting", "sorted"),
        ("Trees", "tree"),
        ("LEARNING", "learned"),
        ("O’Neill", "O'Neill"),
        ("naïve", "nai\u0308ve"),
        ("Ｐｙｔｈｏｎ", "python"),
        ("ﬁle", "files"),
        ("复杂度。", "复杂度"),
    ],
)
def test_variants_of_a_word_give_the_same_terms(text: str, variant: str) -> None:
    assert set(terms(text)) == set(terms(variant)) != set()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Which tree is balanced?", ["tree", "balanc"]),
        ("快速排序的时间复杂度是什么？", ["快速", "排序", "时间", "复杂", "复杂度"]),
        ("用Python实现快速排序", ["python", "实现", "快速", "排序"]),
        ("node.js", ["node.js", "node", "js"]),
        ("std::vector", ["std::vector", "std", "vector"]),
        ("C++ and C#", ["c++", "c", "c#", "c"]),
        ("hashMap", ["hashmap", "hash", "map"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("snake_case", ["snake_case", "snake", "case"]),
        ("It ends. Then", ["end"]),
        ("", []),
        ("… ，\n", []),
        ("The who? 的了吗", []),
    ],
)
def test_terms_of_examples(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@example("½ ﬁle ℀")
@example("O’Neill.js")
@given(texts)
def test_token_positions_refer_to_the_original_text(text: str) -> None:
    tokens = analyse(text)
    stem = Stemmer.Stemmer("english").stemWord
    for token in tokens:
        assert 0 <= token.start < token.end <= len(text)
        normalized = unicodedata.normalize("NFKC", text[token.start : token.end]).lower().replace("’", "'")
        assert token.term.replace("’", "'") in normalized or token.term == stem(normalized)
    assert [token.start for token in tokens] == sorted(token.start for token in tokens)
    assert [token.term for token in tokens] == terms(text)


def test_terms_from_one_character_share_its_position() -> None:
    assert analyse("x ½") == [("x", 0, 1), ("1", 2, 3), ("2", 2, 3)]


def test_positions_account_for_normalization() -> None:
    text = "ﬁrst nai\u0308ve Ｃ＋＋ end"
    assert [(text[token.start : token.end], token.term) for token in analyse(text)] == [
        ("ﬁrst", "first"),
        ("nai\u0308ve", "naïv"),
        ("Ｃ＋＋", "c++"),
        ("Ｃ", "c"),
        ("end", "end"),
    ]


def test_concurrent_analysis_gives_the_same_terms() -> None:
    """The stemmer is not thread-safe, so a lock protects it. The words are not in the stem cache yet."""
    words = [f"{first}{second}ingly sortings 排序算法" for first in "bcdfgh" for second in ("art", "end", "olt", "ust")]
    with ThreadPoolExecutor(8) as pool:
        concurrent = list(pool.map(terms, words * 4))
    assert concurrent == [terms(word) for word in words * 4]
    stem = Stemmer.Stemmer("english").stemWord
    assert [word_terms[0] for word_terms in concurrent[: len(words)]] == [stem(word.split()[0]) for word in words]

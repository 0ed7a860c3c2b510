"""Words as people type them and as courses write them become the same terms, and each knows where it stands."""

import unicodedata
from concurrent.futures import ThreadPoolExecutor

import pytest
import Stemmer
from hypothesis import example, given
from hypothesis import strategies as st

from retrieval.keywords.analysis import analyse, terms

PIECES = (
    *("sorted", "Trees", "the", "don't", "O’Neill", "hashMap", "HTTPServer", "node.js", "std::vector", "C++", "C#"),
    *("snake_case", "state-of-the-art", "x86", "复杂度", "快速排序算法", "的", "データ", "한국어", "naïve", "naïve"),
    *("Ｐｙｔｈｏｎ", "ﬁle", "½", "㎏", "℀", "㍿", "①", "²", "…", "，", "\n", "\0", "\ud800", "👩\u200d🔬"),
)
texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=4) | st.just(" "), max_size=12).map("".join)


@pytest.mark.parametrize(
    ("one", "other"),
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
def test_forms_of_a_word_are_one_term(one: str, other: str) -> None:
    assert set(terms(one)) == set(terms(other)) != set()


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
def test_what_a_text_is_analysed_into(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


@example("½ ﬁle ℀")
@example("O’Neill.js")
@given(texts)
def test_every_token_stands_where_it_says(text: str) -> None:
    """In the text as it was given, not as it was folded."""
    tokens = analyse(text)
    stem = Stemmer.Stemmer("english").stemWord
    for token in tokens:
        assert 0 <= token.start < token.end <= len(text)
        said = unicodedata.normalize("NFKC", text[token.start : token.end]).lower().replace("’", "'")
        assert token.term.replace("’", "'") in said or token.term == stem(said)
    assert [token.start for token in tokens] == sorted(token.start for token in tokens)
    assert [token.term for token in tokens] == terms(text)


def test_a_character_that_stands_for_several_words_is_the_place_of_each() -> None:
    assert analyse("x ½") == [("x", 0, 1), ("1", 2, 3), ("2", 2, 3)]


def test_offsets_count_what_folding_shortened_or_lengthened() -> None:
    text = "ﬁrst nai\u0308ve Ｃ＋＋ end"
    assert [(text[token.start : token.end], token.term) for token in analyse(text)] == [
        ("ﬁrst", "first"),
        ("nai\u0308ve", "naïv"),
        ("Ｃ＋＋", "c++"),
        ("Ｃ", "c"),
        ("end", "end"),
    ]


def test_threads_get_what_one_alone_gets() -> None:
    """The stemmer is not safe to share, so its use is guarded; the words are new to its cache."""
    words = [f"{first}{second}ingly sortings 排序算法" for first in "bcdfgh" for second in ("art", "end", "olt", "ust")]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(terms, words * 4))
    assert together == [terms(word) for word in words * 4]
    stem = Stemmer.Stemmer("english").stemWord
    assert [found[0] for found in together[: len(words)]] == [stem(word.split()[0]) for word in words]

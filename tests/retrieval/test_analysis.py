"""The analyser: terms of a text, what they weigh, and their positions."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import Stemmer
from hypothesis import example, given
from hypothesis import strategies as st

from retrieval.analysis import analyse, terms

PIECES = (
    *("sorted", "Trees", "the", "don't", "O’Neill", "hashMap", "HTTPServer", "node.js", "std::vector", "C++", "C#"),
    *(
        "snake_case",
        "state-of-the-art",
        "x86",
        "复杂度",
        "快速排序算法",
        "的",
        "データ",
        "한국어",
        "naïve",
        "nai\u0308ve",
    ),
    *("Ｐｙｔｈｏｎ", "ﬁle", "½", "㎏", "℀", "㍿", "①", "²", "…", "，", "\n", "\0", "\ud800", "👩\u200d🔬"),
    *(
        "sol-\nder",
        "im\xad\nage",
        "印 刷 电 路",
        "電路",
        "100 nF",
        "10µF",
        "5V",
        "I/O",
        ".NET",
        "A*",
        "==",
        "≤",
        "∑",
        "->",
    ),
    *("सीखना", "ภาษาไทย", "العَرَبِيَّة", "Straße", "\u200b", "\xad", "\ufeff"),
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
        ("電路板", "电路板"),
        ("軟體開發", "软体开发"),
        ("印 刷 电 路 板", "印刷电路板"),
        ("印　刷　电　路　板", "印刷电路板"),
        ("cap\u200bacitor", "capacitor"),
        ("impe\xaddance", "impedance"),
        ("\ufeffword", "word"),
        ("100nF", "100 nF"),
        ("10uF", "10 µF"),
        ("10uF", "10 \u03bcF"),
        ("10kΩ", "10 kΩ"),
        ("10kΩ", "10 k\u2126"),
        ("5V", "5 V"),
        ("5V", "5-V"),
        ("2.4GHz", "2.4 GHz"),
        ("16MHz", "16mhz"),
        ("1,000", "1000"),
        ("≤", "<="),
        ("≥", ">="),
        ("≠", "!="),
        ("→", "->"),
    ],
)
def test_variants_of_a_word_give_the_same_terms(text: str, variant: str) -> None:
    assert set(terms(text)) == set(terms(variant)) != set()


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("FR-4", "FR4"),
        ("RS-485", "RS485"),
        ("RS_485", "rs485"),
        ("auto-encoders", "autoencoder"),
        ("pull-up", "pullup"),
        ("Wi-Fi", "wifi"),
        ("WiFi", "wifi"),
        ("node.js", "NodeJS"),
        ("snake_case", "snakeCase"),
        ("utf-8", "UTF8"),
        ("x86-64", "x86_64"),
        ("sol-\nder", "solder"),
        ("sol-\r\n  der", "solder"),
        ("im\xad\nage", "image"),
        ("pull‑up", "pullup"),
        ("I/O", "IO"),
        ("TCP/IP", "tcp-ip"),
        ("5.0V", "5 V"),
        ("1,000 Hz", "1000Hz"),
    ],
)
def test_spellings_of_a_name_have_the_same_first_term(text: str, variant: str) -> None:
    assert terms(text)[0] == terms(variant)[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Which tree is balanced?", ["which", "tree", "is", "balanc"]),
        ("快速排序的时间复杂度", ["快速", "排序", "的", "时间", "复杂", "复杂度", "速排", "间复", "杂度"]),
        ("用Python", ["用", "python"]),
        ("node.js", ["nodej", "node", "js"]),
        ("std::vector", ["stdvector", "std", "vector"]),
        ("C++ and C#", ["c++", "c", "and", "c#", "c"]),
        ("F#", ["f#", "f"]),
        (".NET", [".net", "net"]),
        ("It ends.Net", ["it", "endsnet", "end", "net"]),
        ("hashMap", ["hashmap", "hash", "map"]),
        ("HTTPServer", ["httpserver", "http", "server"]),
        ("snake_case", ["snakecas", "snake", "case"]),
        ("toString", ["tostr", "string"]),
        ("MySQL", ["mysql", "sql"]),
        ("AlphaGo", ["alphago", "alpha", "go"]),
        ("It ends. Then", ["it", "end", "then"]),
        ("A* search", ["a*", "search"]),
        ("*a* and A*B", ["a", "and", "a", "b"]),
        ("B+树", ["b+", "b", "树"]),
        ("T检验", ["t", "检验"]),
        ("I/O", ["io", "o"]),
        ("either/neither", ["either", "neither"]),
        ("a == b", ["a", "==", "b"]),
        ("x=y ===== | --- |", ["x", "y", "|", "|"]),
        ("∑ ∀x", ["∑", "∀", "x"]),
        ("马克思", ["马克", "马克思", "克思"]),
        ("सीखना मशीन", ["सीखना", "मशीन"]),
        ("ไทย", ["ไทย", "ไท", "ทย"]),
        ("العَرَبِيَّة", ["العربية", "العَرَبِيَّة"]),
        ("データベース", ["データベース", "デー", "ータ", "タベ", "ベー", "ース"]),
        ("Café", ["cafe", "café"]),
        ("Straße", ["strass", "straße"]),
        ("3.14 v1.2.3", ["3.14", "v1.2.3", "v1", "2", "3"]),
        ("", []),
        ("… ，\n", []),
    ],
)
def test_terms_of_examples(text: str, expected: list[str]) -> None:
    assert terms(text) == expected


def test_parts_weigh_their_share_of_the_name() -> None:
    assert [(token.term, token.weight) for token in analyse("hashTable")] == [
        ("hashtabl", 1),
        ("hash", pytest.approx(4 / 9)),
        ("tabl", pytest.approx(5 / 9)),
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("one two-three four", {"one": 0, "twothre": 1, "two": 1, "three": 2, "four": 3}),
        ("toString x", {"tostr": 0, "string": 1, "x": 2}),
        ("前缀和 x", {"前缀": 0, "和": 1, "缀和": -1, "x": 2}),
        ("5 V x", {"5v": 0, "5": 0, "v": 1, "x": 2}),
    ],
)
def test_words_have_positions(text: str, expected: dict[str, int]) -> None:
    assert {token.term: token.position for token in analyse(text)} == expected


@example("½ ﬁle ℀")
@example("O’Neill.js")
@example("印 刷\u200b 电 sol-\nder")
@given(texts)
def test_tokens_lie_in_the_text(text: str) -> None:
    tokens = analyse(text)
    for token in tokens:
        assert 0 <= token.start < token.end <= len(text)
        assert token.term
        assert 0 < token.weight <= 1
    assert [token.term for token in tokens] == terms(text)
    words = [token for token in tokens if token.is_word]
    assert [token.start for token in words] == sorted(token.start for token in words)
    assert [token.position for token in words] == sorted({token.position for token in words})


def test_positions_account_for_normalization() -> None:
    text = "ﬁrst Ｃ＋＋ impe\xaddance sol-\nder 印 刷 end"
    assert [(text[token.start : token.end], token.term) for token in analyse(text) if token.is_word] == [
        ("ﬁrst", "first"),
        ("Ｃ＋＋", "c++"),
        ("impe\xaddance", "imped"),
        ("sol-\nder", "solder"),
        ("印 刷", "印刷"),
        ("end", "end"),
    ]


def test_chinese_line_that_was_wrapped_is_joined_but_a_heading_is_not() -> None:
    wrapped = "这一行文字很长所以它在印刷电\n路板这里断开"
    assert "电路板" in terms(wrapped)
    assert "电路板" not in terms("印刷电\n路板")


def test_concurrent_analysis_gives_the_same_terms() -> None:
    """The stemmer is not thread-safe, so a lock protects it. The words are not in the stem cache yet."""
    words = [f"{first}{second}ingly sortings 排序算法" for first in "bcdfgh" for second in ("art", "end", "olt", "ust")]
    with ThreadPoolExecutor(8) as pool:
        concurrent = list(pool.map(terms, words * 4))
    assert concurrent == [terms(word) for word in words * 4]
    stem = Stemmer.Stemmer("english").stemWord
    assert [word_terms[0] for word_terms in concurrent[: len(words)]] == [stem(word.split()[0]) for word in words]

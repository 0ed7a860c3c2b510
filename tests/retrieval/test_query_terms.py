"""Keyword search finds what is asked for, however it is spelt: order of the rows, corrections and unknown words."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from retrieval.analysis.query import FUNCTION_WORD, analyse_query
from retrieval.bm25 import Bm25, postings_as_arrays
from retrieval.near_terms import NearTerms
from retrieval.query_terms import LONGEST_SPLIT, MOST_REPLACED, QueryTerms, resolve

SAMPLES = Path(__file__).parents[2] / "data/samples"


def course(texts: Sequence[str]) -> Bm25:
    return Bm25(postings_as_arrays(texts), len(texts))


def ranking(texts: Sequence[str], query: str) -> list[str]:
    """The texts with a score, best first; equal scores in the order of the texts."""
    bm25 = course(texts)
    words = resolve(analyse_query(query), bm25)
    scores, highest = bm25.scores(words.terms, words.pairs)
    assert all(0 <= score <= highest * (1 + 1e-6) for score in scores)
    return [texts[row] for row in sorted(range(len(texts)), key=lambda row: -scores[row]) if scores[row] > 0]


def terms_of(texts: Sequence[str], query: str) -> QueryTerms:
    return resolve(analyse_query(query), course(texts))


OTHERS = (
    "The quick brown fox jumps.",
    "Copper is a metal, and it conducts.",
    "算法的效率很重要。",
    "Rows of other words.",
)


@pytest.mark.parametrize(
    ("wrong", "right", "query"),
    [
        ("上拉电阻接到电源。", "下拉电阻接到地。", "下拉电阻"),
        ("下拉电阻接到地。", "上拉电阻接到电源。", "上拉电阻"),
        ("下三角矩阵的元素", "上三角矩阵的元素", "上三角矩阵"),
        ("上采样增加数据", "下采样减少数据", "下采样"),
        ("前缀的定义很长", "前缀和的定义很长", "前缀和"),
        ("B树的查找", "B+树的查找", "B+树"),
        ("B+树的查找", "B树的查找", "B树"),
        ("A 类搜索", "A* 搜索", "A*"),
        ("OR gate: a gate with inputs and an output.", "AND gate: a gate with inputs and an output.", "AND gate"),
        ("An or gate and a wire.", "An and gate or a wire.", "and gate"),
        ("A while loop repeats.", "A for loop repeats.", "for loop"),
        ("A while loop repeats for a time.", "A for loop repeats at times.", "how does a for loop work?"),
        ("The with statement closes files.", "The not operator inverts.", "not"),
        ("The not operator inverts.", "The with statement closes files.", "with"),
        ("The with statement closes files in time.", "Use not in for membership.", "not in"),
        ("F检验比较方差", "T检验比较均值", "T检验"),
        ("USB总线连接设备", "CAN总线连接设备", "CAN总线"),
        ("O is a letter, I am not.", "I/O is slow.", "I/O"),
        ("MyBox holds things.", "MySQL is a database.", "MySQL"),
        ("az iot hub device-identity create", "az iot hub create", "az iot hub create"),
        ("create the hub of the iot", "the iot hub is created", "iot hub create"),
        ("The net list holds all nets.", "Use node.js and .NET Core.", ".NET"),
        ("The C language", "The C++ language", "C++"),
        ("The C++ language", "The C# language", "C#"),
        ("The C language", "The F# language", "F#"),
        ("Decouple with 10 nF and 100 pF.", "Decouple with 100 nF.", "100nF"),
        ("Bulk 100 µF and 10 nF.", "Bulk 10 µF.", "10uF"),
        ("pull up with 1 kΩ of 10", "pull up with 10 kΩ", "10kΩ"),
        ("pull up at 3.3 V, 5 of them", "pull up at 5 V.", "5V"),
        ("Café culture in Zürich.", "The cafe is closed.", "cafe"),
        ("The cafe is closed.", "Café culture in Zürich.", "café"),
        ("x = y assigns", "x == y compares", "=="),
        ("use a -- b", "use a -> b", "->"),
        ("the explanation of an example", "the back propagation", "explain back propagation"),
        ("两种方法的区别", "堆与栈", "堆和栈的区别"),
        ("AlphaGo and AlphaGo won.", "Go is a language.", "go"),
        ("冯先生诺言依旧曼妙", "冯诺依曼结构", "冯诺依曼"),
    ],
)
def test_row_that_was_asked_for_is_first(wrong: str, right: str, query: str) -> None:
    found = ranking([wrong, *OTHERS, right], query)
    assert found[0] == right, found


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("FR-4 is a laminate", "FR4"),
        ("FR4 is a laminate", "FR-4"),
        ("FR4 is a laminate", "FR 4"),
        ("FR 4 is a laminate", "FR4"),
        ("An RS-485 bus", "RS485"),
        ("An RS485 bus", "RS-485"),
        ("A pull-up is weak", "pullup"),
        ("A pullup is weak", "pull-up"),
        ("A pullup is weak", "pull up"),
        ("A pull up is weak", "pullup"),
        ("The auto-encoder learns", "autoencoders"),
        ("The autoencoder learns", "auto encoder"),
        ("Use Wi-Fi here", "wifi"),
        ("Use wifi here", "Wi-Fi"),
        ("Use WiFi here", "wi fi"),
        ("node.js runs", "nodejs"),
        ("NodeJS runs", "node.js"),
        ("Café culture in Zürich.", "Zurich"),
        ("Die Straße ist lang.", "strasse"),
        ("Die Strasse ist lang.", "Straße"),
        ("電路板需要阻抗匹配。", "电路板"),
        ("电路板需要阻抗匹配。", "電路板"),
        ("Ｐｙｔｈｏｎ　３", "python"),
        ("印 刷 电 路 板 的 制 造", "印刷电路板"),
        ("The impe\xaddance of a trace", "impedance"),
        ("the cap\u200bacitor", "capacitor"),
        ("sol-\nder mask", "solder"),
        ("device-\nidentity", "device-identity"),
        ("where a ≤ b", "<="),
        ("where a <= b", "≤"),
        ("the sum ∑ of all", "∑"),
        ("मशीन सीखना कठिन है", "सीखना"),
        ("นี่คือภาษาไทยครับ", "ภาษาไทย"),
        ("هذه العَرَبِيَّة", "العربية"),
        ("데이터베이스를 배운다", "데이터베이스"),
        ("データベースの設計", "データベース"),
        ("use the capacitor", "capcitor"),
        ("use the capacitor", "capactior"),
        ("the algorithms are fast", "algoritms"),
    ],
)
def test_only_the_row_in_another_spelling_is_found(text: str, query: str) -> None:
    assert ranking([*OTHERS, text], query) == [text]


def test_decoupling_values_are_told_apart() -> None:
    right = "Decouple with 100 nF, bulk 10 µF, pull up with 10 kΩ at 5 V."
    others = [
        "Decouple with 10 nF, bulk 100 µF, pull up with 1 kΩ at 3.3 V.",
        "Bulk 22 µF at 12 V, 100 pF.",
        "There are 100 boards, 10 layers and 5 holes.",
    ]
    for query in ("100nF", "100 nf", "10uF", "10 µF", "10kΩ", "10k ohm", "5V", "5 V"):
        assert ranking([*others, right, *OTHERS], query)[0] == right, query


@pytest.mark.parametrize(
    ("name", "written", "queries"),
    [
        ("pcb-en", "FR-4", ("FR4", "fr4", "FR 4")),
        ("pcb-en", "pull-up", ("pullup", "pull up")),
        ("pcb-zh", "RS-485", ("RS485", "rs485")),
        ("pcb-zh", "FR-4", ("FR4",)),
    ],
)
def test_samples_are_found_by_other_spellings(name: str, written: str, queries: Sequence[str]) -> None:
    texts = [json.loads(line)["text"] for line in (SAMPLES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
    for query in queries:
        assert written in ranking(texts, query)[0]


def test_words_of_grammar_and_words_that_ask_weigh_little_beside_others() -> None:
    words = {word.text: word.weight for word in analyse_query("what is the difference between a heap and BSTs").words}
    assert words["what"] == words["the"] == words["and"] == FUNCTION_WORD
    assert FUNCTION_WORD < words["difference"] < 1
    assert words["heap"] == words["BSTs"] == 1


@pytest.mark.parametrize("query", ["not in", "with", "explain", "区别", "what is the", "的"])
def test_query_of_small_words_alone_counts_them_fully(query: str) -> None:
    assert {word.weight for word in analyse_query(query).words} == {1}


@pytest.mark.parametrize(
    ("query", "word"),
    [("the `for` keyword", "for"), ('what does "not in" do', "not"), ("an AND gate", "AND"), ("CAN总线是什么", "CAN")],
)
def test_small_word_that_is_meant_counts_fully(query: str, word: str) -> None:
    assert {each.text: each.weight for each in analyse_query(query).words}[word] == 1


TEXTS = ("The capacitor stores charge.", "The inductor and Wi-Fi.", "快速排序算法", "冯诺依曼结构")


@pytest.mark.parametrize(
    ("query", "unknown"),
    [
        ("what is a capacitor", ()),
        ("explain the transistor", ("transistor",)),
        ("Transistor and MOSFET of the capacitor", ("Transistor", "MOSFET")),
        ("capcitor", ()),
        ("wifi", ()),
        ("quick 排序", ("quick",)),
        ("量子纠缠", ("量子", "纠缠")),
        ("冯诺依曼", ()),
        ("the of", ("of",)),
        ("", ()),
    ],
)
def test_words_that_the_course_never_uses_are_named(query: str, unknown: tuple[str, ...]) -> None:
    words = terms_of(TEXTS, query)
    assert words.unknown == unknown
    assert 0 <= words.known_share <= 1
    assert (words.known_share == 1) == (not unknown)


def test_corrections_are_named_and_weigh_less() -> None:
    words = terms_of(TEXTS, "the capcitor")
    assert words.expansions == {"capcitor": ("capacitor",)}
    assert 0 < words.terms["capacitor"] < 1
    known = terms_of(TEXTS, "the capacitor")
    assert known.expansions == {}
    assert known.terms["capacitor"] == 1


@pytest.mark.parametrize(
    ("term", "near"),
    [
        ("capcitor", ["capacitor"]),
        ("cpaacitor", ["capacitor"]),
        ("capaictorr", ["capacitor"]),
        ("apacitor", []),  # the first letter must be right
        ("cat", []),  # too short
        ("hepas", ["heaps"]),
        ("hepps", ["heaps"]),
        ("hexxs", []),
        ("fr5", []),
        ("rs422", []),
        ("电路", []),
    ],
)
def test_near_terms(term: str, near: list[str]) -> None:
    vocabulary = ["capacitor", "heaps", "help4", "fr4", "rs485", "car", "电阻", "c"]
    assert NearTerms(vocabulary).near(term)[0] == near


def test_english_words_are_no_typos() -> None:
    """The course has no `soft` link and no `bread`, and that is what the answer has to say."""
    texts = ["sort the links of a list", "a break in the thread"]
    words = terms_of(texts, "soft links of bread")
    assert (words.expansions, words.unknown) == ({}, ("soft", "bread"))
    assert words.corrected("soft links of bread") == "soft links of bread"


@pytest.mark.parametrize(
    ("query", "corrected"),
    [
        ("what is a capcitor?", "what is a capacitor?"),
        ("decoupling capacitors", "decoupling capacitors"),
    ],
)
def test_model_reads_the_words_without_their_typos(query: str, corrected: str) -> None:
    texts = ["a capacitor stores charge", "the complexity of heapify", "decoupling capacitors"]
    assert terms_of(texts, query).corrected(query) == corrected


def test_nearest_terms_win() -> None:
    assert NearTerms(["transistor", "transistxx"]).near("transistur") == (["transistor"], 1)


def test_spellings_are_sought_for_a_bounded_number_of_words() -> None:
    """A pasted text may have hundreds of words that a course does not have; each costs a look at its vocabulary."""
    words = [f"capacitor{letter}{second}" for letter in "bcdfgh" for second in "klmnp"]
    found = terms_of(["The capacitor stores charge."], " ".join(words))
    assert list(found.expansions) == words[:MOST_REPLACED]
    assert terms_of(["Use pull up resistors."], "pullup").expansions == {"pullup": ("pull up",)}
    long = "pull" + "x" * LONGEST_SPLIT
    assert terms_of([f"Use pull {long[4:]}"], long).expansions == {}

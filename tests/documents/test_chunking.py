"""Passages keep the text, the limits of the model, and what a citation needs."""

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby, pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from documents.chunking import Passage, divide
from documents.document import Block, Document, Kind
from models.text import is_blank

OVERHEAD = 3
LONG = "x | " + "long and " * 1000


def count_words(texts: Sequence[str]) -> list[int]:
    """A tokenizer for tests: words, Chinese characters, punctuation marks and line breaks; long words have more."""
    pattern = r"[A-Za-z0-9]{1,8}|[^\sA-Za-z0-9]|\n+"
    return [OVERHEAD + len(re.findall(pattern, text)) for text in texts]


def passages(
    *blocks: Block, max_tokens: int = 512, title: str | None = None, count: Callable[..., list[int]] = count_words
) -> list[Passage]:
    document = Document("pdf", title=title, blocks=list(blocks))
    return list(divide(document, title="notes.pdf", count_tokens=count, max_tokens=max_tokens))


def heading(text: str, level: int = 1, page: int | None = None) -> Block:
    return Block(Kind.HEADING, text, level=level, page=page)


def prose(words: int, word: str = "word", page: int | None = None) -> Block:
    """A paragraph of sentences with nine words (ten tokens)."""
    return Block(Kind.TEXT, " ".join([f"A{' ' + word}" + " more" * 7 + "."] * (words // 9)), page=page)


# Lectures and sections


def test_headings_that_make_chapters_are_lectures_and_those_below_are_sections() -> None:
    found = passages(
        heading("One"),
        prose(300),
        heading("Inner", 2),
        prose(300),
        heading("Two"),
        heading("Other", 2),
        prose(900),
        heading("Deep", 3),
        prose(300),
    )

    assert [(p.lecture, p.lecture_title, p.section, p.section_title, p.order_in_section) for p in found] == [
        (1, "One", 1, None, 0),
        (1, "One", 2, "Inner", 0),
        (2, "Two", 1, "Other", 0),
        (2, "Two", 1, "Other", 1),
        (2, "Two", 1, "Other", 2),
        (2, "Two", 1, "Other", 3),
    ]
    assert found[-1].text.startswith("Deep\n\nA word")
    assert found[-1].headings == ("Deep",)
    assert found[-2].headings == ()


@pytest.mark.parametrize("title", ["From the metadata", None])
def test_single_heading_above_all_is_the_title_of_the_only_lecture(title: str | None) -> None:
    found = passages(heading("Heaps"), heading("A", 2), prose(300), heading("B", 2), prose(300), title=title)

    assert [(p.lecture_title, p.section_title) for p in found] == [("Heaps", "A"), ("Heaps", "B")]


def test_without_headings_the_lecture_has_the_title_of_the_document_or_the_file() -> None:
    assert [(p.lecture_title, p.section_title) for p in passages(prose(90))] == [("notes.pdf", None)]
    assert [(p.lecture_title, p.section_title) for p in passages(prose(90), title="Title")] == [("Title", None)]


def test_headings_above_mere_paragraphs_make_sections_and_no_lectures() -> None:
    found = passages(heading("One"), prose(63), heading("Two"), prose(180), heading("Three"), prose(180))

    assert {(p.lecture, p.lecture_title) for p in found} == {(1, "notes.pdf")}
    assert [p.section_title for p in found] == ["One · Two", "Three"]


def test_preface_is_a_lecture_only_if_it_is_long() -> None:
    chapters = [heading("One"), prose(300), heading("Two"), prose(300)]

    assert [p.lecture_title for p in passages(prose(300), *chapters)] == ["notes.pdf", "One", "Two"]
    assert [(p.lecture_title, p.text[:5]) for p in passages(Block(Kind.TEXT, "By me."), *chapters)] == [
        ("One", "By me"),
        ("Two", "A wor"),
    ]


def test_small_sections_are_put_together_under_all_of_their_titles() -> None:
    """Twenty slides with ten words each would be twenty passages that match by chance."""
    slides = [(heading(f"Slide {n}", page=n), prose(27, page=n)) for n in range(1, 21)]

    found = passages(*(block for slide in slides for block in slide))

    assert len(found) == 3
    assert found[0].section_title == " · ".join(f"Slide {n}" for n in range(1, 7))
    assert (found[0].page, found[0].page_end) == (1, 6)
    assert found[0].text.startswith("Slide 1\n\nA word more")
    assert "\n\nSlide 2\n\n" in found[0].text
    assert (found[-1].page, found[-1].page_end) == (13, 20)


def test_small_section_at_the_end_is_put_together_with_the_one_before() -> None:
    found = passages(heading("Title"), heading("A", 2), prose(270), heading("Questions?", 2))

    assert [(p.section_title, p.text[-10:]) for p in found] == [("A · Questions?", "Questions?")]


def test_heading_without_a_text_is_a_text() -> None:
    assert [(p.lecture_title, p.text) for p in passages(heading("Questions?"))] == [("notes.pdf", "Questions?")]


def test_paragraph_in_large_letters_is_no_title() -> None:
    assert passages(heading("x " * 150), prose(90))[0].lecture_title == "notes.pdf"


# Passages


def test_passages_begin_with_paragraphs_where_they_can_and_leave_no_small_rest() -> None:
    found = passages(*[prose(189)] * 3)

    assert [p.text.count("\n\n") for p in found] == [1, 0]
    assert [p.order_in_section for p in found] == [0, 1]

    one_paragraph = passages(prose(540))
    assert [count_words([p.text])[0] for p in one_paragraph] == [303, 303]


def test_sentences_are_cut_only_if_they_are_larger_than_a_passage() -> None:
    sentence = "We see, " + "and we see again, " * 200 + "that it goes on. "

    found = passages(Block(Kind.TEXT, "Before. " + sentence + "After."))

    assert all(p.text.endswith(",") for p in found[:-1])
    assert found[-1].text.endswith("After.")


@pytest.mark.parametrize("max_tokens", [512, 128, 64])
def test_chinese_sentences_are_not_cut(max_tokens: int) -> None:
    found = passages(Block(Kind.TEXT, "堆是一种完全二叉树，用数组表示。" * 200), max_tokens=max_tokens)

    assert all(p.text.endswith("。") for p in found)
    assert all(count_words([p.text])[0] <= min(500, max_tokens) for p in found)


def test_table_stays_together_with_its_introduction_and_caption() -> None:
    table = Block(Kind.TABLE, "\n".join(["name | value", *["some name | some value"] * 60]), page=4)
    found = passages(prose(180), Block(Kind.TEXT, "We begin. The values are these:"), table, prose(90))

    holder = next(p for p in found if "name | value" in p.text)
    assert holder.text.count("some name") == 60
    assert "The values are these:\n\nname | value\n" in holder.text

    captioned = passages(prose(180), table, Block(Kind.TEXT, "Table 3: Names."), prose(270))
    assert any(p.text.count("some name") == 60 and "Table 3: Names." in p.text for p in captioned)


def test_large_table_is_cut_between_rows_and_each_part_has_the_header() -> None:
    rows = [f"row {n} | {n}" for n in range(300)]
    found = passages(Block(Kind.TABLE, "\n".join(["name | value", *rows])))

    assert len(found) > 2
    assert all(p.text.startswith("name | value\nrow ") for p in found)
    assert [line for p in found for line in p.text.splitlines()[1:]] == rows


@pytest.mark.parametrize("kind", [Kind.TEXT, Kind.TABLE, Kind.CODE])
@pytest.mark.parametrize("part", [".", "…", ". ", '."', "|", ", ", "。", "\n."])
def test_time_is_linear_in_the_length(part: str, kind: Kind) -> None:
    """No assertion on the time: with a quadratic search this test takes minutes and is stopped."""
    found = passages(Block(kind, "a" + part * 100_000 + "a"))
    assert "".join("".join(p.text for p in found).split()).startswith("a" + part.strip())


@pytest.mark.parametrize(
    "rows",
    [[LONG], ["a | b", LONG], ["a | b", "c | d", LONG, "e | f"], ["", "", LONG], ["a | b"] * 3 + [LONG] * 3],
    ids=lambda rows: str([len(row) for row in rows]),
)
def test_row_larger_than_a_passage_among_short_ones_is_cut(rows: list[str]) -> None:
    found = passages(prose(180), Block(Kind.TABLE, "\n".join(["名 | 值", *rows])))
    assert all(size <= 500 for size in count_words([p.text for p in found]))
    text = "".join(p.text for p in found)
    assert text.count("long") == sum(row.count("long") for row in rows)
    assert all(row in text for row in rows if row != LONG)


def test_large_listing_is_cut_at_blank_lines_else_between_lines_and_keeps_its_indentation() -> None:
    functions = [f"def f{n}(x):\n    y = x + {n}\n\n    return y" for n in range(60)]
    found = passages(Block(Kind.CODE, "\n\n".join(functions)))

    assert len(found) > 2
    assert "\n\n".join(p.text for p in found) == "\n\n".join(functions)

    lines = [f"    call({n})" for n in range(300)]
    assert "\n".join(p.text for p in passages(Block(Kind.CODE, "\n".join(lines)))) == "\n".join(lines)


def test_monstrous_word_is_cut_without_being_tokenized() -> None:
    longest = 0

    def count(texts: Sequence[str]) -> list[int]:
        nonlocal longest
        longest = max(longest, *map(len, texts))
        return [OVERHEAD + len(text.split()) for text in texts]  # a word of any length is one token

    text = "x" * 200_000
    found = passages(Block(Kind.TEXT, text), count=count)

    assert "".join(p.text for p in found) == text
    assert longest <= 10_000


def test_pages_and_times_are_those_of_the_text() -> None:
    found = passages(
        prose(180, page=1),
        Block(Kind.TEXT, prose(180).text, page=2, page_end=3),
        prose(180, page=3),
        prose(180, page=4),
    )
    assert [(p.page, p.page_end) for p in found] == [(1, 3), (3, 4)]

    cues = [
        Block(Kind.TEXT, f"and this is cue {n}" + "." * (n % 3 == 2), start=2.0 * n, end=2.0 * n + 1.5)
        for n in range(200)
    ]
    spoken = passages(*cues)
    assert spoken[0].start == 0.0
    for before, after in pairwise(spoken):
        assert before.text.endswith(".")
        assert before.end is not None
        assert after.start == before.end + 0.5
    assert spoken[0].text.startswith("and this is cue 0 and this is cue 1 and")


def test_speech_without_punctuation_is_cut_between_cues() -> None:
    cues = [Block(Kind.TEXT, "so we go on", start=float(n), end=n + 0.9) for n in range(400)]

    found = passages(*cues)

    assert all(len(p.text.split()) % 4 == 0 for p in found)
    assert all(200 <= count_words([p.text])[0] <= 500 for p in found)


def test_paragraphs_of_a_transcript_stay_paragraphs() -> None:
    minutes = [Block(Kind.TEXT, prose(81).text, start=60.0 * n, end=60.0 * n + 60) for n in range(12)]

    found = passages(*minutes)

    assert [(p.start, p.end) for p in found] == [(0, 240), (240, 480), (480, 720)]
    assert all(p.text.count("\n\n") == 3 for p in found)


def test_what_belongs_together_is_in_one_passage() -> None:
    filler = prose(153)
    for before, after in [
        ("The cost is given by", Block(Kind.TEXT, "$$c = n^2,$$")),
        ("As one can see,", Block(Kind.TEXT, "The cost grows.")),
        ("It grows as the square of the number", Block(Kind.TEXT, "of elements in the heap.")),
        ("Filename: heap.py", Block(Kind.CODE, "def cost(n):\n    return n ** 2")),
    ]:
        for size in range(60, 200, 9):
            found = passages(filler, prose(size), Block(Kind.TEXT, before), after, filler)
            assert any(f"{before}\n\n{after.text}" in p.text for p in found), (before, size)


def test_no_room_for_a_text_is_an_error() -> None:
    with pytest.raises(ValueError, match="leave none for a text"):
        passages(prose(90), max_tokens=OVERHEAD)


# Whatever the document

MARKS = "①②③④"
"""Headings consist of these, and nothing else contains them."""
SENTENCE = st.one_of(
    st.sampled_from(
        ["Heaps are trees.", "See Fig. 3!", "堆是树。", "x" * 200, "word " * 120, "，" * 90, "\u200b" * 90, "?"]
    ),
    st.text(st.characters(exclude_characters=MARKS), min_size=1, max_size=30),
)
TEXT = st.lists(SENTENCE, min_size=1, max_size=12).map(" ".join)
BLOCK = st.one_of(
    st.builds(Block, st.just(Kind.HEADING), st.text(MARKS, min_size=1, max_size=9), level=st.integers(1, 4)),
    st.builds(Block, st.just(Kind.TEXT), TEXT, page=st.integers(1, 9)),
    st.builds(Block, st.just(Kind.TEXT), TEXT, start=st.floats(0, 9), end=st.floats(9, 20)),
    st.builds(Block, st.just(Kind.CODE), st.lists(SENTENCE, min_size=1, max_size=30).map("\n".join)),
)


def visible(texts: Iterable[str]) -> str:
    return "".join(character for text in texts for character in text if not is_blank(character))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(BLOCK, max_size=25), st.sampled_from([24, 64, 512]))
def test_every_text_is_in_one_passage_and_no_passage_is_too_large(blocks: list[Block], max_tokens: int) -> None:
    found = passages(*blocks, max_tokens=max_tokens)

    shown = visible(p.text for p in found)
    assert re.sub(f"[{MARKS}]", "", shown) == visible(block.text for block in blocks if block.kind is not Kind.HEADING)
    titles = " ".join(f"{p.lecture_title} {p.section_title} {p.text}" for p in found)
    assert all(block.text in titles for block in blocks if block.kind is Kind.HEADING)
    assert all(size <= min(500, max_tokens) for size in count_words([p.text for p in found]))
    assert not any(is_blank(p.text) for p in found)
    for _, group in groupby(found, lambda p: (p.lecture, p.section)):
        orders = [p.order_in_section for p in group]
        assert orders == list(range(len(orders)))
    assert [(p.lecture, p.section) for p in found] == sorted((p.lecture, p.section) for p in found)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.lists(st.integers(1, 60), min_size=1, max_size=20), min_size=1, max_size=40))
def test_only_the_last_passage_of_a_section_is_small(paragraphs: list[list[int]]) -> None:
    texts = [" ".join("So" + " it" * words + " is." for words in sentences) for sentences in paragraphs]

    sizes = count_words([p.text for p in passages(*(Block(Kind.TEXT, text) for text in texts))])

    assert all(200 <= size <= 500 for size in sizes[:-1])
    assert sizes[-1] <= 500

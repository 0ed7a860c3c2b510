"""The reading order: columns, what reaches across them, and text at an angle."""

from pathlib import Path

import pytest

from documents.document import Kind
from documents.formats.pdf import read
from tests.documents.formats.pdf_texts import Read, all_text, prose
from tests.support.pdf_files import Text, lines, paragraph, pdf


def test_two_columns_are_read_one_after_the_other_below_a_title_across_both(read_pages: Read) -> None:
    left, right = prose(0, 12), prose(12, 12)
    page = [
        Text(150, 60, "On the Order of Columns", 20, "bold"),
        Text(230, 90, "An Author of It", 12),
        *paragraph(50, 130, left, 240),
        *paragraph(315, 130, right, 240),
    ]

    texts = [block.text for block in read_pages([page]).blocks]

    assert texts == ["On the Order of Columns", "An Author of It", f"{left} {right}"[: len(left)], right]


def test_columns_are_told_by_their_text_where_they_are_drawn_line_by_line(read_pages: Read) -> None:
    left, right = prose(0, 12), prose(12, 12)
    pairs = zip(paragraph(50, 130, left, 240), paragraph(315, 130, right, 240), strict=False)

    document = read_pages([[text for pair in pairs for text in pair]])

    assert all_text(document).index("n11 ") < all_text(document).index("n12 ")
    assert next(block.text for block in document.blocks) == left[: len(document.blocks[0].text)]


def test_a_figure_across_both_columns_stands_between_what_is_above_and_below_it(read_pages: Read) -> None:
    page = [
        *paragraph(50, 60, prose(0, 6), 240),
        *paragraph(315, 60, prose(6, 6), 240),
        *paragraph(50, 500, prose(12, 6), 240),
        *paragraph(315, 500, prose(18, 6), 240),
        *paragraph(
            60,
            440,
            "Figure 1: The error falls with the number of steps, on the training set as well as on the other.",
            480,
        ),
    ]

    text = all_text(read_pages([page]))

    places = [text.index(word) for word in ("n0 ", "n5 ", "n6 ", "n11 ", "Figure 1", "n12 ", "n17 ", "n18 ", "n23 ")]
    assert places == sorted(places)


def test_a_sentence_goes_on_in_the_next_column_and_on_the_next_page_past_a_footnote(read_pages: Read) -> None:
    left = ["This begins in the left column and it has such a", "long way to go that its last line there is full"]
    right = ["and goes on in the right one, where it does not", "come to an end either, because the page ends too"]
    pages = [
        [
            *paragraph(50, 100, prose(0, 8), 240),
            *lines(50, 400, left),
            *paragraph(50, 700, "1 A footnote in small type, which belongs to the page.", 240, size=7, step=8),
            *lines(315, 100, right),
        ],
        [*lines(50, 100, ["before it does so on the second page."]), *paragraph(50, 160, prose(16, 8), 240)],
    ]

    blocks = read_pages(pages).blocks

    joined = next(block for block in blocks if block.text.startswith("This begins"))
    assert joined.text == " ".join([*left, *right, "before it does so on the second page."])
    assert (joined.page, joined.page_end) == (1, 2)
    assert any(block.text.startswith("1 A footnote") for block in blocks)


def test_no_paragraph_goes_on_past_a_heading(read_pages: Read) -> None:
    pages = [
        [*paragraph(50, 100, prose(0, 9) + " and this one has no end because the page is full here", 500)],
        [Text(50, 100, "Another Chapter", 16, "bold"), *paragraph(50, 140, "is how this begins. " + prose(9, 9), 500)],
    ]

    document = read_pages(pages)

    assert [(block.kind, block.page) for block in document.blocks] == [
        (Kind.TEXT, 1),
        (Kind.HEADING, 2),
        (Kind.TEXT, 2),
    ]


def test_a_stamp_in_the_margin_is_left_out(read_pages: Read) -> None:
    page = [Text(30, 600, "arXiv:2101.00001v1 [cs.CL] 1 Jan 2021", 20, angle=90), *paragraph(60, 100, prose(0, 9), 480)]

    document = read_pages([page])

    assert all_text(document) == prose(0, 9)


@pytest.mark.parametrize("rotate", [90, 180, 270])
def test_a_rotated_page_is_read_as_it_is_shown(tmp_path: Path, rotate: int) -> None:
    def place(x: float, y: float) -> tuple[float, float]:
        return {90: (y, 800 - x), 180: (600 - x, 800 - y), 270: (600 - y, x)}[rotate]

    texts = paragraph(50, 100, prose(0, 9), 400)
    page = [Text(*place(text.x, text.y), text.text, angle=rotate) for text in texts]
    path = tmp_path / "rotated.pdf"
    path.write_bytes(pdf([page], rotate=rotate))

    assert all_text(read(path, lambda share: None)).replace("\n", " ") == prose(0, 9)


def test_small_shifts_of_the_baseline_do_not_tear_a_line(read_pages: Read) -> None:
    page = [
        Text(50, 100, "The area of a circle is r"),
        Text(175, 96.5, "2", 6),
        Text(181, 100.6, "times a number"),
        Text(256, 99.5, "that is known."),
    ]

    assert [block.text for block in read_pages([page]).blocks] == [
        "The area of a circle is r2 times a number that is known."
    ]

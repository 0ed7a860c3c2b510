"""Headings and the title."""

from pathlib import Path

import pytest

from documents.document import Document, Kind
from documents.formats.pdf import read
from tests.documents.formats.pdf_texts import Read, all_text, prose
from tests.support.pdf_files import Text, paragraph, pdf


def _headings(document: Document) -> list[tuple[int, str, int | None]]:
    return [(block.level, block.text, block.page) for block in document.blocks if block.kind == Kind.HEADING]


def _read(tmp_path: Path, content: bytes) -> Document:
    path = tmp_path / "headings.pdf"
    path.write_bytes(content)
    return read(path, lambda share: None)


def test_the_outline_gives_the_levels_and_the_page_the_words(tmp_path: Path) -> None:
    pages = [
        [Text(50, 100, "Chapter 1. Searching", 20), *paragraph(50, 140, prose(0, 5), 450), Text(50, 400, "1.1 Words")],
        [*paragraph(50, 100, prose(5, 5), 450), Text(50, 400, "Vectors"), *paragraph(50, 420, prose(10, 5), 450)],
    ]
    outline = [(1, "Searching", 1, 90), (2, "Words", 1, 390), (2, "Vectors", 2, 390), (1, "A Picture Only", 2, 700)]

    document = _read(tmp_path, pdf(pages, outline=outline))

    assert _headings(document) == [
        (1, "Chapter 1. Searching", 1),
        (2, "1.1 Words", 1),
        (2, "Vectors", 2),
        (1, "A Picture Only", 2),
    ]
    assert document.blocks[-1].text == "A Picture Only"


def test_without_an_outline_type_and_numbers_tell_the_levels(read_pages: Read) -> None:
    page = [
        Text(100, 60, "An Introduction to Searching", 22),
        Text(50, 120, "1 First Things", 14, "bold"),
        *paragraph(50, 140, prose(0, 5), 450),
        Text(50, 240, "1.1 Words", 12, "bold"),
        *paragraph(50, 260, prose(5, 5), 450),
        Text(50, 360, "2 Second Things", 14, "bold"),
        *paragraph(50, 380, prose(10, 5), 450),
        Text(50, 480, "2.1 Vectors and Their Neighbours in a Space of", 12, "bold"),
        Text(50, 495, "Many Dimensions", 12, "bold"),
        *paragraph(50, 515, prose(15, 5), 450),
    ]

    document = read_pages([page])

    assert _headings(document) == [
        (1, "An Introduction to Searching", 1),
        (2, "1 First Things", 1),
        (3, "1.1 Words", 1),
        (2, "2 Second Things", 1),
        (3, "2.1 Vectors and Their Neighbours in a Space of Many Dimensions", 1),
    ]
    assert document.title == "An Introduction to Searching"


def test_chinese_headings(read_pages: Read) -> None:
    body = "机器学习研究如何让计算机从数据中学习规律，并用学到的规律预测新的数据。" * 3
    texts = [("第三章 神经网络", 18), (body, 10), ("一、感知机", 10), (body, 10), ("二、多层网络", 10), (body, 10)]
    page, y = [], 100
    for text, size in texts:
        for start in range(0, len(text), 40):
            page.append(Text(50, y, text[start : start + 40], size, "song"))
            y += 14
        y += 14

    assert [text for _, text, _ in _headings(read_pages([page]))] == ["第三章 神经网络", "一、感知机", "二、多层网络"]


def test_bold_words_in_a_paragraph_are_no_heading(read_pages: Read) -> None:
    page = [*paragraph(50, 100, prose(0, 5), 450)]
    last = page[-1]
    page += [Text(50, last.y + 12, "Attention is all of it,", font="bold"), Text(170, last.y + 12, "as somebody said.")]

    assert _headings(read_pages([page])) == []


@pytest.mark.parametrize("leader", [" . . . . . . . . . . . ", "..............", "                    "])
def test_contents_are_no_headings(read_pages: Read, leader: str) -> None:
    titles = ["Searching", "Words", "Vectors", "Ranking", "Fusion", "Answers", "Questions", "Sources"]
    contents = [Text(50, 60, "Contents", 18, "bold")]
    for number, title in enumerate(titles):
        contents.append(
            Text(50, 100 + 20 * number, f"{number + 1} {title}{leader if leader.strip() else ''}", 12, "bold")
        )
        contents.append(Text(500, 100 + 20 * number, f"{10 * number + 3:>3}", 12, "bold"))
    pages = [
        contents,
        *[
            [Text(50, 60, f"{n + 1} {t}", 16, "bold"), *paragraph(50, 100, prose(n, 20), 450)]
            for n, t in enumerate(titles)
        ],
    ]

    headings = _headings(read_pages(pages))

    assert [(text, page) for _, text, page in headings] == [(f"{n + 1} {t}", n + 2) for n, t in enumerate(titles)]


@pytest.mark.parametrize(
    "title", ["", "untitled", "Microsoft Word - thesis.doc", "slides_final.pptx", "PowerPoint Presentation", "12345"]
)
def test_a_title_that_is_none_gives_way_to_the_largest_text(tmp_path: Path, title: str) -> None:
    page = [Text(50, 60, "What Is Shown", 20), *paragraph(50, 100, prose(0, 5), 450)]

    assert _read(tmp_path, pdf([page], title=title)).title == "What Is Shown"


def test_a_plausible_title_and_the_language_are_taken_from_the_file(tmp_path: Path) -> None:
    page = [Text(50, 60, "What Is Shown", 20), *paragraph(50, 100, prose(0, 5), 450)]

    document = _read(tmp_path, pdf([page], title="检索导论", language="zh-CN"))

    assert (document.title, document.language, document.source_type) == ("检索导论", "zh-CN", "pdf")


def test_titles_in_an_unknown_encoding_are_ignored(tmp_path: Path) -> None:
    page = [Text(50, 60, "What Is Shown", 20), *paragraph(50, 100, prose(0, 5), 450)]
    content = pdf([page], title="XX", outline=[(1, "XX", 1, 300)])

    document = _read(tmp_path, content.replace(b"<feff00580058>", b"<feffd8000058>"))

    assert document.title == "What Is Shown"
    assert all("X" not in text for _, text, _ in _headings(document))


def test_a_document_without_headings_has_none(read_pages: Read) -> None:
    document = read_pages([paragraph(50, 100, prose(0, 30), 450)])

    assert _headings(document) == []
    assert document.title is None
    assert all_text(document) == prose(0, 30)

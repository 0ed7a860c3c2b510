"""Paragraphs, hyphens, listings and tables."""

from documents.document import Kind
from tests.documents.formats.pdf_texts import Read, all_text, prose
from tests.support.pdf_files import HAN, Text, lines, paragraph


def _text_of(read_pages: Read, texts: list[str], font: str = "body") -> str:
    return all_text(read_pages([lines(50, 100, texts, font=font)]))


def test_a_word_divided_at_the_end_of_a_line_is_joined(read_pages: Read) -> None:
    assert (
        _text_of(read_pages, ["A model that computes an embed-", "ding of the text."])
        == "A model that computes an embedding of the text."
    )


def test_a_compound_keeps_its_hyphen_if_the_document_has_it_elsewhere(read_pages: Read) -> None:
    text = _text_of(
        read_pages,
        [
            "It is a well-known fact that state-of-the-",
            "art models are good, and also that a well-",
            "known one is better, says the self-taught man",
            "with his well-meant words about x-ray and X-",
            "Ray, and about page-turners and over-",
            "fitting, as it is called.",
        ],
    )

    assert "state-of-the-art models" in text
    assert "a well-known one" in text
    assert "X-Ray" in text
    assert "overfitting" in text


def test_soft_hyphens_ligatures_and_odd_characters_become_ordinary_text(read_pages: Read) -> None:
    page = [
        *[
            Text(50, 100, "the ef"),
            Text(80, 100, "A", font="odd"),
            Text(85, 100, "fort to "),
            Text(125, 100, "B", font="odd"),
        ],
        *[
            Text(130, 100, "nd "),
            Text(145, 100, "CD", font="odd"),
            Text(155, 100, "a read"),
            Text(185, 100, "A", font="odd"),
        ],
        *[Text(50, 112, "er and "), Text(85, 112, "E", font="odd")],
    ]

    assert all_text(read_pages([page])) == "the effort to find a reader and 一"


def test_a_glyph_of_several_letters_is_no_gap(read_pages: Read) -> None:
    page = [
        Text(50, 100, "an e"),
        Text(70, 100, "F", font="odd"),
        Text(75, 100, "cient o"),
        Text(110, 100, "F", font="odd"),
    ]

    assert all_text(read_pages([[*page, Text(115, 100, "ce")]])) == "an efficient office"


def test_chinese_lines_are_joined_without_blanks(read_pages: Read) -> None:
    rows = [
        "卷积神经网络由卷积层和池化层组成，卷积层用来提取图像的特征，池化层用来减少参数",
        "的数量。训练时用反向传播算法计算梯度。",
    ]

    assert _text_of(read_pages, rows, font="song") == "".join(rows)


def test_chinese_characters_that_are_spread_over_a_line_are_one_word(read_pages: Read) -> None:
    spread = [Text(50 + 13 * place, 100, letter, font="han") for place, letter in enumerate("ABCDEFG")]
    words = [Text(50, 150, "第三章", 10, "song"), Text(90, 150, "排序", 10, "song")]

    assert [block.text for block in read_pages([[*spread, *words]]).blocks] == [HAN, "第三章 排序"]


def test_paragraphs_are_told_by_indentation_space_and_short_last_lines(read_pages: Read) -> None:
    first, second, third, fourth = prose(0, 4), prose(4, 4), prose(8, 4), prose(12, 4)
    indented = paragraph(50, 148, second, 400)
    page = [
        *paragraph(50, 100, first, 400),
        Text(70, 148, indented[0].text[:76].rsplit(" ", 1)[0]),
    ]
    rest = second[len(page[-1].text) + 1 :]
    page += [*paragraph(50, 160, rest, 400), *paragraph(50, 220, third, 400), *paragraph(50, 290, fourth, 400)]

    assert [block.text for block in read_pages([page]).blocks] == [first, second, third, fourth]


def test_items_of_a_list_are_blocks(read_pages: Read) -> None:
    page = [
        *paragraph(50, 100, "There are some things to know before this begins, and they are listed here:", 400),
        Text(60, 124, "•"),
        *lines(70, 124, ["The first is that an item may well go over more than one", "line, which hangs."]),
        Text(60, 148, "•"),
        Text(70, 148, "The second is short."),
        Text(60, 160, "1."),
        Text(72, 160, "Numbers are items, too."),
    ]

    assert [block.text for block in read_pages([page]).blocks][1:] == [
        "• The first is that an item may well go over more than one line, which hangs.",
        "• The second is short.",
        "1. Numbers are items, too.",
    ]


def test_a_listing_keeps_its_lines_and_indentation(read_pages: Read) -> None:
    code = ["def mean(values):", "    if not values:", "        return 0.0", "", "    return sum(values) / len(values)"]
    page = [
        *paragraph(50, 100, prose(0, 4), 400),
        *[
            Text(60 + 6 * (len(line) - len(line.lstrip())), 160 + 12 * number, line.lstrip(), font="code")
            for number, line in enumerate(code)
            if line
        ],
        *paragraph(50, 240, prose(4, 4), 400),
    ]

    blocks = read_pages([page]).blocks

    assert [block.kind for block in blocks] == [Kind.TEXT, Kind.CODE, Kind.TEXT]
    assert blocks[1].text == "\n".join(code)


def test_a_document_in_one_typewriter_font_is_text(read_pages: Read) -> None:
    blocks = read_pages([[Text(t.x, t.y, t.text, font="code") for t in paragraph(50, 100, prose(0, 9), 400)]]).blocks

    assert {block.kind for block in blocks} == {Kind.TEXT}


def test_aligned_columns_are_a_table(read_pages: Read) -> None:
    table = [
        ["Model", "Size", "Error"],
        ["Linear", "10 kB", "0.31"],
        ["Convolution", "2 MB", "0.12"],
        ["Attention", "90 MB", "0.07"],
    ]
    page = [
        *paragraph(50, 100, prose(0, 4), 400),
        *[
            Text(80 + 110 * column, 180 + 14 * row, cell)
            for row, cells in enumerate(table)
            for column, cell in enumerate(cells)
        ],
        *paragraph(50, 260, prose(4, 4), 400),
    ]

    blocks = read_pages([page]).blocks

    assert [block.kind for block in blocks] == [Kind.TEXT, Kind.TABLE, Kind.TEXT]
    assert blocks[1].text == "\n".join(" | ".join(row) for row in table)


def test_the_lines_of_a_cell_stay_together(read_pages: Read) -> None:
    page = [
        *paragraph(50, 60, prose(0, 4), 400),
        *[Text(80, 180, "Name"), Text(200, 180, "Meaning")],
        *[Text(80, 220, "alpha"), *lines(200, 220, ["the share of the vector search", "in the sum of both"])],
        *[Text(80, 260, "beta"), *lines(200, 260, ["how much a longer text", "is preferred"])],
        *[Text(80, 300, "gamma"), Text(200, 300, "nothing")],
    ]

    table = next(block for block in read_pages([page]).blocks if block.kind == Kind.TABLE)

    assert table.text == (
        "Name | Meaning\nalpha | the share of the vector search in the sum of both\n"
        "beta | how much a longer text is preferred\ngamma | nothing"
    )

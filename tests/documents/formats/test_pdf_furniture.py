"""Running headers, footers and page numbers, and what only looks like them."""

from documents.document import Kind
from tests.documents.formats.pdf_texts import Read, all_text, prose
from tests.support.pdf_files import Text, lines, paragraph


def _body(number: int) -> list[Text]:
    return paragraph(50, 100, prose(20 * number, 20), 500)


def test_headers_with_the_name_of_the_chapter_and_numbers_on_alternating_sides_are_left_out(read_pages: Read) -> None:
    chapters = ["1 Beginnings", "1 Beginnings", "1 Beginnings", "2 Middles", "3 Ends", "3 Ends", "3 Ends", "3 Ends"]
    pages = []
    for number, chapter in enumerate(chapters):
        inner, outer = (50, 520) if number % 2 else (520, 50)
        pages.append([Text(inner, 40, chapter), Text(outer, 40, str(number + 17)), *_body(number)])

    text = all_text(read_pages(pages))

    assert not any(chapter in text for chapter in chapters)
    assert "\n17" not in text
    assert text.replace("\n", " ") == prose(0, 160)


def test_page_numbers_of_every_style_are_left_out(read_pages: Read) -> None:
    for style in ("{}", "- {} -", "Page {} of 4", "{} / 4"):
        pages = [[*_body(number), Text(290, 770, style.format(number + 1))] for number in range(4)]

        assert all_text(read_pages(pages)).replace("\n", " ") == prose(0, 80), style


def test_what_a_browser_prints_around_pages_is_left_out(read_pages: Read) -> None:
    def around(number: int) -> list[Text]:
        header = [Text(24, 22, "11/28/26, 11:18 PM", 8), Text(330, 22, "Notes on Sorting", 8)]
        return [*header, Text(24, 775, "https://example.org/notes/2024", 8), Text(560, 775, f"{number + 1}/2", 8)]

    pages = [[*around(number), *_body(number)] for number in range(2)]

    assert all_text(read_pages(pages)).replace("\n", " ") == prose(0, 40)


def test_chinese_and_roman_page_numbers_are_left_out(read_pages: Read) -> None:
    chinese = [[*_body(number), Text(270, 770, f"第 {number + 1} 页", font="song")] for number in range(3)]
    roman = [[*_body(number), Text(290, 770, numeral)] for number, numeral in enumerate(["i", "ii", "iii", "iv"])]

    assert all_text(read_pages(chinese)).replace("\n", " ") == prose(0, 60)
    assert all_text(read_pages(roman)).replace("\n", " ") == prose(0, 80)


def test_a_single_page_keeps_everything(read_pages: Read) -> None:
    text = all_text(read_pages([[Text(50, 40, "A header"), *_body(0), Text(290, 770, "1")]]))

    assert text.startswith("A header")
    assert text.endswith("\n1")


def test_the_first_and_last_lines_of_pages_stay_even_if_they_have_numbers(read_pages: Read) -> None:
    pages = [
        [
            *paragraph(50, 100, f"{number + 3} examples are counted here. " + prose(20 * number, 15), 500),
            Text(
                50,
                700,
                f"Exercise {number * 2 + 1}: show that the method of the example ends after {7 - number} steps.",
            ),
        ]
        for number in range(4)
    ]

    text = all_text(read_pages(pages))

    assert all(f"{number + 3} examples are counted here." in text for number in range(4))
    assert all(f"after {7 - number} steps." in text for number in range(4))


def test_a_numbered_footnote_on_every_page_stays(read_pages: Read) -> None:
    notes = [
        "See the first book.",
        "This holds for even numbers only.",
        "Proved by Gauss.",
        "It was later found wrong.",
        "Ibid.",
    ]
    pages = [
        [*_body(number), Text(50, 740, f"{number + 1} {note}", 8), Text(290, 775, str(number + 41))]
        for number, note in enumerate(notes)
    ]

    text = all_text(read_pages(pages))

    assert all(note in text for note in notes)
    assert "41" not in text.split()


def test_the_title_of_consecutive_slides_stays_once(read_pages: Read) -> None:
    pages = [
        [
            Text(50, 60, "Backpropagation", 24),
            *lines(
                70, 150, [f"Point {number}.{point} of the list of this slide" for point in "abcde"], step=30, size=14
            ),
            Text(700, 580, f"{number + 1}", 8),
        ]
        for number in range(5)
    ]

    blocks = read_pages(pages, (800, 600)).blocks

    assert [block.text for block in blocks if block.kind == Kind.HEADING] == ["Backpropagation"]
    assert sum(block.text.startswith("Point") for block in blocks) == 25


def test_a_bar_beside_every_slide_is_left_out(read_pages: Read) -> None:
    bar = lines(20, 100, ["Introduction", "Methods", "Results"], step=40, size=9)
    pages = [[*bar, *paragraph(150, 100, prose(5 * number, 5), 400)] for number in range(6)]

    assert all_text(read_pages(pages)).replace("\n", " ") == prose(0, 30)


def test_of_slides_that_show_their_points_one_by_one_the_last_is_read(read_pages: Read) -> None:
    points = [Text(70, 150 + 40 * number, f"The point number {number} of this slide", 14) for number in range(3)]
    title = Text(50, 60, "One by One", 24)
    pages = [[title, *points[: number + 1]] for number in range(3)]

    blocks = read_pages(pages, (800, 600)).blocks

    assert [(block.text, block.page) for block in blocks] == [
        ("One by One", 3),
        *((point.text, 3) for point in points),
    ]

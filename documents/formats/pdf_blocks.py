"""Blocks from the rows of a PDF: paragraphs without the layout of their lines, listings, tables."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median

from documents.document import Block, Kind
from documents.formats.pdf_headings import Headings, OutlineEntry, is_caption, starts_item
from documents.formats.pdf_layout import Region, Row
from documents.formats.pdf_page import HAN, IS_HAN, Segment

_ENDS_SENTENCE = re.compile(r"[.!?:;。！？：；…][\"'”’»)\]）」』]*$")
_WORD = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_NUMBERED = re.compile(r"(?:\d{1,3}|[a-zA-Z])[.)、]\s*\S|[（(](?:\d{1,3}|[一二三四五六七八九十]+)[)）]")
_NO_BLANK = re.compile(
    rf"[{HAN}]\n[{HAN}]|[，。、；：？！）》」』]\n|\n[，。、；：？！）》」』]"
    r"|\S[/—–]\n|\d-\n|(?:https?:|(?:https?://|www\.)\S*[./_=&?%#-])\n"
)
"""Where two lines are joined without a blank: between Chinese characters, after a dash, and inside of an address."""
_MIN_TABLE_ROWS = 3
_CELL_GAP = 0.9
"""Space between two cells, in sizes of the font."""


class Words:
    """The words of a document inside its lines: what a word that is divided at the end of a line looks like whole."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._counts: Counter[str] = Counter()
        self._first_parts: Counter[str] = Counter()
        is_divided = False
        for row in rows:
            words = _WORD.findall(row.text.casefold())
            inner = words[1:] if is_divided else words
            is_divided = row.text.endswith(("-", "‐", "\u00ad"))
            inner = inner[:-1] if is_divided else inner
            self._counts.update(inner)
            self._first_parts.update(word.split("-")[0] for word in inner if "-" in word)

    def join(self, first: str, second: str) -> str:
        """The text of two lines that follow each other in a paragraph."""
        if first.endswith("\u00ad"):
            return first[:-1] + second
        if first.endswith(("-", "‐")) and first[-2:-1].isalpha():
            return (first if self._keeps_hyphen(first[:-1], second) else first[:-1]) + second
        return first + second if _NO_BLANK.search(first[-200:] + "\n" + second[:1]) else f"{first} {second}"

    def _keeps_hyphen(self, first: str, second: str) -> bool:
        if not second[0].isalpha() or second[0].isupper():
            return True
        left = re.findall(r"[^\W\d_]+(?:-[^\W\d_]+)*$", first.casefold())
        right = _WORD.match(second.casefold())
        if not left or not right:
            return True
        start, end = left[0], right.group()
        whole, compound = self._counts[start + end], self._counts[f"{start}-{end}"]
        if whole or compound:
            return compound > whole
        is_chain = "-" in start or ("-" in end and self._counts[end.split("-")[0]] > 0)  # state-of-the-art
        # well-known, where it says well-defined elsewhere
        return is_chain or (self._first_parts[start] > 0 and self._counts[end] > 0)


def blocks(
    pages: Sequence[Sequence[Region]], headings: Headings, words: Words, *, is_mono: bool, is_slides: bool
) -> list[Block]:
    """The blocks of all pages, in order. `is_mono`: the body is in a monospace font, so that it tells nothing.

    `is_slides`: A sentence that begins a line is a point of its own; slides often draw their bullets as pictures.
    """
    builder = _Builder(words)
    code = set() if is_mono else {id(row) for page in pages for region in page for row in _code_rows(region)}
    for number, page in enumerate(pages, 1):
        waiting = sorted(headings.unplaced.get(number, []), key=lambda entry: entry.y or 0)
        for region in page:
            _add_region(builder, region, headings, waiting, code, is_slides=is_slides)
        for entry in waiting:
            builder.add(Block(Kind.HEADING, entry.title, level=min(entry.level, 6), page=number))
    return builder.blocks


def _code_rows(region: Region) -> Iterator[Row]:
    """The lines of listings: those in a monospace font, unless one goes on with the paragraph above."""
    rows = region.rows
    for last, row, following in zip([None, *rows], rows, [*rows, None][1:], strict=False):
        if row.mono:
            goes_on = (
                last is not None
                and not last.mono
                and row.y - last.y < 1.6 * row.size
                and last.x1 > region.right - 2 * last.size
                and not _ENDS_SENTENCE.search(last.text)
                and row.x0 < last.x0 + row.size
            )
            if not goes_on and not row.text.endswith("。"):
                yield row
        elif (
            last is not None
            and following is not None
            and last.mono
            and following.mono
            and following.y - last.y < 3.2 * row.size
            and row.x0 > min(last.x0, following.x0) - 1
            and IS_HAN.search(row.text)
        ):
            yield row  # a comment or a text in Chinese, for which there is no monospace font


def _add_region(
    builder: "_Builder",
    region: Region,
    headings: Headings,
    waiting: list[OutlineEntry],
    code: set[int],
    *,
    is_slides: bool,
) -> None:
    rows = region.rows
    index = 0
    for start, end, cells in [*_tables(region, headings), (len(rows), len(rows), [])]:
        while index < start:
            row = rows[index]
            while waiting and row.y > (waiting[0].y or 0) - row.size:
                entry = waiting.pop(0)
                builder.add(Block(Kind.HEADING, entry.title, level=min(entry.level, 6), page=row.page))
            heading = headings.by_first_row.get(id(row))
            if heading:
                text = heading.rows[0].text
                for following in heading.rows[1:]:
                    text = builder.words.join(text, following.text)
                builder.add(Block(Kind.HEADING, text, level=heading.level, page=row.page))
                index += len(heading.rows)
                continue
            stop = index + 1
            is_code = id(row) in code
            while stop < start and id(rows[stop]) not in headings.by_first_row and (id(rows[stop]) in code) == is_code:
                if waiting and rows[stop].y > (waiting[0].y or 0) - row.size:
                    break
                stop += 1
            if is_code:
                builder.add(_code(rows[index:stop]))
            else:
                _add_paragraphs(builder, rows[index:stop], region, is_slides=is_slides)
            index = stop
        if cells:
            builder.add(Block(Kind.TABLE, "\n".join(" | ".join(line) for line in cells), page=rows[start].page))
            index = end


class _Builder:
    """Collects blocks, and joins a paragraph that was interrupted by the end of a column or page."""

    def __init__(self, words: Words) -> None:
        self.words = words
        self.blocks: list[Block] = []
        self._heading: tuple[int, str] | None = None
        self._open: dict[float, int] = {}
        """By size of the font, the number of the last paragraph if it may go on in the next region."""

    def add(self, block: Block) -> None:
        """Add a block that nothing continues."""
        if not block.text:
            return
        if block.kind == Kind.HEADING:
            self._open.clear()
            if block.level and (block.level, block.text) == self._heading:
                return  # a title that repeats on the next slide
            self._heading = block.level, block.text
        self.blocks.append(block)

    def add_paragraph(self, rows: Sequence[Row], *, may_continue: bool, may_go_on: bool) -> None:
        """Add rows as a paragraph, or to the one that is open.

        Args:
            rows: its lines.
            may_continue: It is not set off as a new one.
            may_go_on: It is the last one of its kind in the region, and its last line is full.
        """
        text = rows[0].text
        for row in rows[1:]:
            text = self.words.join(text, row.text)
        if re.fullmatch(r"[.·…_=\s–—-]+", text):
            return  # a rule
        size = rows[0].size
        may_continue &= not text[0].isupper() or len(rows) > 1
        number = next((index for other, index in self._open.items() if abs(other - size) < 0.12 * size), None)
        if number is not None and may_continue and not is_caption(text) and not text.startswith(("•", "[")):
            block = self.blocks[number]
            end = rows[0].page if rows[0].page != block.page else None
            self.blocks[number] = replace(block, text=self.words.join(block.text, text), page_end=end)
        else:
            number = len(self.blocks)
            self.blocks.append(Block(Kind.TEXT, text, page=rows[0].page))
        if is_caption(text):
            return
        self._open = {other: index for other, index in self._open.items() if abs(other - size) >= 0.12 * size}
        if may_go_on and (len(rows) > 1 or len(text) > 25) and not _ENDS_SENTENCE.search(text):
            self._open[size] = number


def _code(rows: Sequence[Row]) -> Block:
    """A listing: with its indentation, and a blank line where there is space for one."""
    widths = [(s.x1 - s.x0) / len(s.text) for row in rows for s in row.segments if s.mono and len(s.text) > 1]
    width = median(widths) if widths else rows[0].size / 2
    left = min(row.x0 for row in rows)
    steps = [b.y - a.y for a, b in pairwise(rows) if b.y > a.y]
    step = min(steps, default=0)
    lines = []
    for last, row in zip([None, *rows], rows, strict=False):
        if last is not None and step and row.y - last.y > 1.6 * step:
            lines.append("")
        lines.append(" " * round((row.x0 - left) / width) + row.text)
    return Block(Kind.CODE, "\n".join(lines).strip("\n"), page=rows[0].page)


def _add_paragraphs(builder: _Builder, rows: Sequence[Row], region: Region, *, is_slides: bool) -> None:
    leading = _leading(region.rows)
    is_last = rows[-1] is region.rows[-1]
    paragraphs = list(_paragraphs(rows, region, leading, is_slides=is_slides))
    for number, paragraph in enumerate(paragraphs):
        last = paragraph[-1]
        goes_on = last.x1 > region.right - 2 * last.size or last.text.endswith(("-", "\u00ad"))
        # A footnote or a figure may stand between the end of a paragraph and the end of its column.
        ends_column = is_last and all(
            abs(after[0].size - last.size) > 0.12 * last.size or is_caption(after[0].text)
            for after in paragraphs[number + 1 :]
        )
        is_indented = paragraph[0].x0 > region.left + 0.8 * paragraph[0].size and (
            len(paragraph) > 1 and paragraph[0].x0 > paragraph[1].x0 + 0.8 * paragraph[0].size
        )
        builder.add_paragraph(
            paragraph,
            may_continue=not is_indented and paragraph[0].x0 < region.left + 3 * paragraph[0].size,
            may_go_on=ends_column and goes_on,
        )


def _leading(rows: Sequence[Row]) -> float:
    """The usual distance of two lines, in sizes of the font."""
    steps = [(b.y - a.y) / b.size for a, b in pairwise(rows) if b.y > a.y and abs(a.size - b.size) < 0.3]
    return min(max(median(steps), 1.0), 2.2) if len(steps) >= 3 else 1.25


def _paragraphs(rows: Sequence[Row], region: Region, leading: float, *, is_slides: bool) -> Iterator[list[Row]]:
    paragraph: list[Row] = []
    for index, row in enumerate(rows):
        following = rows[index + 1] if index + 1 < len(rows) else None
        if paragraph and (
            _is_new(paragraph, row, following, region, leading) or (is_slides and _is_point(paragraph[-1], row))
        ):
            yield paragraph
            paragraph = []
        paragraph.append(row)
    if paragraph:
        yield paragraph


def _is_new(paragraph: list[Row], row: Row, following: Row | None, region: Region, leading: float) -> bool:
    """Whether the row begins another paragraph."""
    last = paragraph[-1]
    size = max(row.size, last.size)
    is_other_size = abs(row.size - last.size) > 0.12 * size and len(row.text) > 3 and len(last.text) > 3
    if is_other_size or row.y - last.y > 1.3 * leading * size or is_caption(row.text):
        return True
    is_short = _is_short(paragraph, row, region)
    ends = bool(_ENDS_SENTENCE.search(last.text))
    is_apart = is_short or abs(row.x0 - last.x0) > 0.5 * size
    if starts_item(row.text) and (is_apart or ends or row.text[0] not in "([0123456789"):
        return True
    if _NUMBERED.match(row.text) and is_apart:
        return True
    if len(paragraph) > 1 and row.x0 < last.x0 - 0.8 * size:
        return True
    if row.x0 > last.x0 + 0.8 * size and (is_short or ends):
        return is_short or not (_is_centered(last, row, region) or _hangs(paragraph, row, following))
    return is_short


def _is_centered(last: Row, row: Row, region: Region) -> bool:
    return abs((row.x0 + row.x1) - (last.x0 + last.x1)) < row.size and last.x0 > region.left + row.size


def _hangs(paragraph: list[Row], row: Row, following: Row | None) -> bool:
    """Whether all lines of the paragraph but its first are indented."""
    if len(paragraph) > 1:
        return False
    is_item = starts_item(paragraph[0].text) or bool(_NUMBERED.match(paragraph[0].text))
    return is_item or (following is not None and abs(following.x0 - row.x0) < 0.3 * row.size)


def _is_point(last: Row, row: Row) -> bool:
    if re.match(r"\d{1,2}\s+[A-Z]", row.text):
        return True
    is_apart = bool(_ENDS_SENTENCE.search(last.text)) or row.y - last.y > 1.7 * row.size
    return is_apart and not row.text[0].islower()


def _is_short(paragraph: list[Row], row: Row, region: Region) -> bool:
    """Whether the last line ends so early that the first word of the row had found room on it."""
    last = paragraph[-1]
    if len(paragraph) > 1 and abs(paragraph[-2].x1 - last.x1) < 1:
        return False
    word = 2 * row.size if IS_HAN.match(row.text) else (row.x1 - row.x0) * len(row.text.split()[0]) / len(row.text)
    return last.x1 + word + 1.2 * last.size < region.right


def _cells(row: Row) -> list[Segment]:
    """The segments of a row, those joined that are as close as words."""
    cells: list[Segment] = []
    for segment in row.segments:
        if cells and segment.x0 - cells[-1].x1 < _CELL_GAP * segment.size:
            last = cells[-1]
            cells[-1] = replace(last, text=f"{last.text} {segment.text}", x1=max(last.x1, segment.x1))
        else:
            cells.append(segment)
    return cells


def _tables(region: Region, headings: Headings) -> Iterator[tuple[int, int, list[list[str]]]]:
    """Runs of rows that are a table: where each begins and ends, and its cells."""
    rows = region.rows
    in_listing = [
        row.mono and any(other.mono for other in rows[max(0, n - 1) : n + 2] if other is not row)
        for n, row in enumerate(rows)
    ]
    cells = [
        _cells(row) if id(row) not in headings.by_first_row and not is_code else []
        for row, is_code in zip(rows, in_listing, strict=True)
    ]
    index = 0
    while index < len(rows):
        end = index
        gaps: list[tuple[float, float]] = []
        while end < len(rows) and cells[end] and (end == index or rows[end].y - rows[end - 1].y < 4.5 * rows[end].size):
            blank = _blanks(cells[end])
            common = blank if end == index else _common(gaps, blank)
            if not any(a > float("-inf") and b < float("inf") for a, b in common) or len(cells[index]) == 1:
                break
            gaps, end = common, end + 1
        while end > index and len(cells[end - 1]) == 1 and not _is_wrapped_cell(cells[end - 1][0], rows[end - 2], gaps):
            end -= 1
        lines = _lines(cells[index:end], gaps) if end - index >= _MIN_TABLE_ROWS else []
        if _is_table(lines, cells[index:end]):
            yield index, end, lines
            index = end
        else:
            index += 1


def _is_wrapped_cell(cell: Segment, above: Row, gaps: Sequence[tuple[float, float]]) -> bool:
    return cell.x0 > min(end for _, end in gaps) - 1 and cell.y - above.y < 1.5 * cell.size


def _blanks(cells: Sequence[Segment]) -> list[tuple[float, float]]:
    inner = [(a.x1, b.x0) for a, b in pairwise(cells)]
    last = cells[-1]
    return [(float("-inf"), cells[0].x0), *inner, (last.x1, float("inf"))]


def _common(first: Sequence[tuple[float, float]], second: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    pairs = [(max(a, c), min(b, d)) for a, b in first for c, d in second]
    return [(a, b) for a, b in pairs if b - a >= 5]


def _lines(rows: Sequence[Sequence[Segment]], gaps: Sequence[tuple[float, float]]) -> list[list[str]]:
    """The texts of the cells, in the columns between the gaps; a row without its first cell joins the nearest one."""
    left = min(cell.x0 for row in rows for cell in row)
    right = max(cell.x1 for row in rows for cell in row)
    bounds = sorted((a + b) / 2 for a, b in gaps if a >= left and b <= right)
    lines = []
    for row in rows:
        line = [""] * (len(bounds) + 1)
        for cell in row:
            column = sum(cell.x0 > bound for bound in bounds)
            line[column] = f"{line[column]} {cell.text}".strip()
        lines.append((row[0].y, line))
    whole = [number for number, (_, line) in enumerate(lines) if line[0]]
    parts: dict[int, list[list[str]]] = {number: [] for number in whole}
    for number, (y, line) in enumerate(lines):
        # Of a cell with several lines, the others may be above as well as below the line of the first cell.
        nearest = min(whole, key=lambda other: (abs(lines[other][0] - y), other), default=number)
        parts.setdefault(number if number in parts else nearest, []).append(line)
    return [[" ".join(filter(None, column)) for column in zip(*parts[number], strict=True)] for number in sorted(parts)]


def _is_table(lines: Sequence[Sequence[str]], cells: Sequence[Sequence[Segment]]) -> bool:
    if len(lines) < _MIN_TABLE_ROWS or len(lines[0]) < 2:
        return False
    if sum(len(row) > 1 for row in cells) < max(_MIN_TABLE_ROWS, 0.5 * len(cells)):
        return False
    firsts = [line[0] for line in lines if line[0]]
    if (
        sum(bool(starts_item(text) or re.fullmatch(r"[\W_]*\w{0,3}[.)\]:]?", text)) for text in firsts)
        > 0.5 * len(firsts)
        and len(lines[0]) == 2
    ):
        return False  # a list
    filled = sum(bool(cell) for line in lines for cell in line)
    return filled > 0.6 * len(lines) * len(lines[0])

"""The headings of a PDF: from its outline where it has one, else from what their lines look like."""

import re
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from statistics import median

from documents.formats.pdf_layout import Region, Row
from documents.formats.pdf_page import HAN, IS_HAN

MAX_LEVEL = 6
_MAX_ROWS = 3
_HAN_NUMBER = "[一二三四五六七八九十百零〇]"
_CHAPTER = re.compile(
    rf"第\s*(?:{_HAN_NUMBER}+|\d+)\s*[章篇部讲講课課]|(?:chapter|part|lecture|appendix|unit)\s+(?:\d+|[A-Z]|[IVXL]+)\b|附录|附錄",
    re.IGNORECASE,
)
_SECTION = re.compile(rf"第\s*(?:{_HAN_NUMBER}+|\d+)\s*[节節]|{_HAN_NUMBER}{{1,3}}、|§")
_DECIMAL = re.compile(
    r"(?:[A-Z]\.)?(\d{1,2}(?:\.\d{1,2}){0,4})\.?(?=\s|[A-Z" + HAN + r"])|[A-Z](?:\.\d{1,2}){1,4}\.?\s"
)
_LETTERED = re.compile(r"(?:[IVX]+|[A-Z])\.\s+\S")
_MARKER = re.compile(r"[•◦▪▸►‣·■□●○–—*]\s|[•◦▪▸►‣■□●○]|\(?(?:\d{1,3}|[a-z]|[ivx]+)\)|\[\w+\]")
_LEADER = re.compile(r"(?:[.·․…]\s*){4,}(?:[A-Z]?[\d.–-]+|[ivxlc]+)?$")
_SHORT_LEADER = re.compile(r"(?:[.·․]\s*){2,}(?:\d+|[ivxlc]+)$")
_ENDS_IN_NUMBER = re.compile(r"\S\s+(?:\d{1,4}|[ivxlc]+)$")
_CONTENTS = re.compile(
    r"(?:table of |short )?contents|list of (?:figures|tables|listings|algorithms)"
    r"|目\s*[录錄次]|(?:插图|图|表格?)目录",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class OutlineEntry:
    """A bookmark."""

    title: str
    level: int
    page: int
    y: float | None
    """The place on the upright page, if it says one."""


@dataclass(slots=True, eq=False)
class Heading:
    """Rows that are a heading."""

    rows: list[Row]
    level: int
    text: str


class Headings:
    """The headings found in a document.

    Attributes:
        by_first_row: each by (the id of) its first row.
        unplaced: per page, entries of the outline whose line was not found; they begin above the row at their place.
    """

    def __init__(self) -> None:
        self.by_first_row: dict[int, Heading] = {}
        self.unplaced: dict[int, list[OutlineEntry]] = defaultdict(list)


def find_headings(
    pages: Sequence[Sequence[Region]], outline: Sequence[OutlineEntry], body_size: float, *, is_slides: bool
) -> Headings:
    """Find the headings among the rows of all pages. `is_slides`: the first line of every page is its title."""
    found = Headings()
    taken: set[int] = set()
    for entry in outline:
        if not 1 <= entry.page <= len(pages):
            continue
        rows = _rows_of_entry(entry, pages[entry.page - 1], taken)
        if rows:
            taken.update(map(id, rows))
            found.by_first_row[id(rows[0])] = Heading(
                rows, min(entry.level, MAX_LEVEL), " ".join(row.text for row in rows)
            )
        else:
            found.unplaced[entry.page].append(entry)
    guessed = [
        rows
        for rows in _guessed(pages, body_size, has_outline=bool(outline), is_slides=is_slides)
        if not taken & set(map(id, rows))
    ]
    guessed = _without_authors(guessed)
    levels = _levels(guessed, body_size)
    order = {
        id(row): number for number, row in enumerate(row for page in pages for region in page for row in region.rows)
    }
    placed: list[tuple[float, int]] = [(order[first], heading.level) for first, heading in found.by_first_row.items()]
    placed += [
        (order[id(row)] - 0.5, e.level)
        for e in outline
        if (row := _row_below(e, pages)) and e in found.unplaced[e.page]
    ]
    placed.sort()
    largest = max((rows[0].size for rows in guessed), default=0)
    lowest = max((entry.level for entry in outline), default=0)
    for rows, guess in zip(guessed, levels, strict=True):
        above = bisect_left(placed, (order[id(rows[0])], 0))
        if placed and not above and rows[0].size < largest:
            continue  # authors, below the title
        level = min(max(placed[above - 1][1] + 1, lowest), MAX_LEVEL) if above else 1 if placed else guess
        found.by_first_row[id(rows[0])] = Heading(rows, level, " ".join(row.text for row in rows))
    return found


def _without_authors(headings: list[list[Row]]) -> list[list[Row]]:
    """Without what follows the title on its page in a type that no other heading of the document has."""
    if not headings:
        return []
    title = headings[0]
    types = Counter((rows[0].size, rows[0].bold, rows[0].italic) for rows in headings)
    first_page = [rows for rows in headings if rows[0].page == title[0].page]
    types.subtract((rows[0].size, rows[0].bold, rows[0].italic) for rows in first_page)
    kept = [title]
    for index, rows in enumerate(headings[1:], 1):
        is_like_others = types[rows[0].size, rows[0].bold, rows[0].italic] > 0 or _starts_numbered(rows[0].text)
        if (
            rows[0].page != title[0].page
            or is_like_others
            or rows[0].size >= title[0].size
            or len(headings) == len(first_page)
        ):
            return kept + headings[index:]
    return kept


def _row_below(entry: OutlineEntry, pages: Sequence[Sequence[Region]]) -> Row | None:
    if not 1 <= entry.page <= len(pages):
        return None
    rows = [row for region in pages[entry.page - 1] for row in region.rows]
    return next((row for row in rows if row.y > (entry.y or 0) - row.size), None)


def without_contents(regions: Sequence[Region]) -> list[Region]:
    """The regions of a page without the lines of a table of contents, which repeat the headings with page numbers."""
    kept = []
    for region in regions:
        lines = [bool(_LEADER.search(row.text)) for row in region.rows]
        numbered = [bool(_ENDS_IN_NUMBER.search(row.text)) and _ends_at(region.rows, row) for row in region.rows]
        if sum(lines) < 3 and not (_rises(region.rows, numbered)):
            kept.append(region)
            continue
        ends = [row.x1 for row, line, number in zip(region.rows, lines, numbered, strict=True) if line or number]
        gone = [
            line
            or number
            or bool(_SHORT_LEADER.search(row.text))
            or (bool(_ENDS_IN_NUMBER.search(row.text)) and any(abs(row.x1 - end) < 3 for end in ends))
            for row, line, number in zip(region.rows, lines, numbered, strict=True)
        ]
        last = max(index for index, is_gone in enumerate(gone) if is_gone)
        rows = [
            row
            for index, row in enumerate(region.rows)
            if not gone[index]
            and not _CONTENTS.fullmatch(row.text.strip())
            and not (index < last and gone[index + 1] and _is_wrapped(row, region.rows[index + 1]))
        ]
        if rows:
            kept.append(Region(rows, region.left, region.right))
    return kept


def _ends_at(rows: Sequence[Row], row: Row) -> bool:
    return sum(abs(other.x1 - row.x1) < 3 for other in rows) >= 4 and len(row.segments) > 1


def _rises(rows: Sequence[Row], numbered: Sequence[bool]) -> bool:
    """Whether these rows end in page numbers that rise, as in contents without dots."""
    values = [
        int(text)
        for row, is_numbered in zip(rows, numbered, strict=True)
        if is_numbered and (text := row.text.split()[-1]).isdigit()
    ]
    return (
        len(values) >= 6
        and len(values) > 0.6 * len(rows)
        and all(a <= b for a, b in pairwise(values))
        and values[0] < values[-1]
    )


def _is_wrapped(row: Row, following: Row) -> bool:
    return following.y - row.y < 1.5 * row.size and abs(following.size - row.size) < 0.5


@lru_cache(maxsize=4096)
def _normal(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


@lru_cache(maxsize=4096)
def _without_number(text: str) -> str:
    text = text.strip()
    for pattern in (_CHAPTER, _SECTION, _DECIMAL):
        if (match := pattern.match(text)) and match.end() < len(text):
            return text[match.end() :]
    return re.sub(r"^(?:[A-Z]|[IVX]+)\.?\s+(?=\S)", "", text)


def _rows_of_entry(entry: OutlineEntry, regions: Sequence[Region], taken: set[int]) -> list[Row]:
    """The rows on the page that are the entry's title, with or without its number; those nearest to its place."""
    wanted = {_normal(entry.title), _normal(_without_number(entry.title))} - {""}
    longest = max(map(len, wanted), default=0) + 20
    best: tuple[float, list[Row]] | None = None
    for region in regions:
        for start, first in enumerate(region.rows):
            text = ""
            for end in range(start, min(start + _MAX_ROWS, len(region.rows))):
                if id(region.rows[end]) in taken:
                    break
                text = f"{text} {region.rows[end].text}"
                if len(_normal(text)) > longest:
                    break
                if {_normal(text), _normal(_without_number(text))} & wanted:
                    distance = abs(first.y - entry.y) if entry.y is not None else 0.0
                    rating = distance - 10 * first.size
                    if best is None or rating < best[0]:
                        best = rating, region.rows[start : end + 1]
    return best[1] if best else []


def _guessed(
    pages: Sequence[Sequence[Region]], body_size: float, *, has_outline: bool, is_slides: bool
) -> list[list[Row]]:
    """Runs of rows that look like headings."""
    letters: Counter[float] = Counter()
    for row in (row for page in pages for region in page for row in region.rows):
        letters[row.size] += len(row.text)
    total = sum(letters.values())
    common = {size for size, count in letters.items() if count > 0.3 * total}
    return [
        rows
        for page in pages
        for region in page
        for rows in _runs(region)
        if (is_slides and region is page[0] and _is_slide_title(rows, region, body_size))
        or (not (is_slides and has_outline) and _is_heading(rows, region, body_size, common, has_outline=has_outline))
    ]


def _runs(region: Region) -> Iterator[list[Row]]:
    """Rows of the same size and weight that follow each other closely."""
    run: list[Row] = []
    for row in region.rows:
        if run and (
            abs(row.size - run[-1].size) > 0.6
            or (row.bold, row.italic) != (run[-1].bold, run[-1].italic)
            or row.y - run[-1].y > 1.7 * row.size
            or _starts_numbered(row.text)
        ):
            yield run
            run = []
        run.append(row)
    if run:
        yield run


def _starts_numbered(text: str) -> bool:
    return any(pattern.match(text) for pattern in (_CHAPTER, _SECTION, _DECIMAL, _LETTERED))


def _is_heading(rows: list[Row], region: Region, body_size: float, common: set[float], *, has_outline: bool) -> bool:
    text, first = " ".join(row.text for row in rows), rows[0]
    if len(rows) > _MAX_ROWS or first.mono or not _may_be_title(text) or _has_cells(rows):
        return False
    if text[0].islower() and not has_outline and first.size < 1.3 * body_size:
        return False
    above, below = _space_around(rows, region)
    is_isolated = above > 1.45 * first.size
    if first.size > 1.13 * body_size and first.size not in common:
        return not has_outline or is_isolated or _starts_numbered(text)
    if first.size < 0.93 * body_size or not is_isolated:
        return False
    if first.bold:
        return below > 1.15 * first.size
    return _is_plain_heading(text, first, region, below, has_outline=has_outline)


def _may_be_title(text: str) -> bool:
    letters = sum(character.isalpha() for character in text)
    return (
        len(text) + 2 * len(IS_HAN.findall(text)) <= 200
        and letters >= max(2, 0.4 * len(text.replace(" ", "")))
        and not text.endswith((",", ";", "，", "；", "。", "：", ":"))
        and (not text.endswith(".") or _starts_numbered(text))
        and not _MARKER.match(text)
        and not _CAPTION.match(text)
        and not re.search(r"[=∑∫√⟨]", text)
    )


def _has_cells(rows: list[Row]) -> bool:
    """Whether the rows have wide gaps, other than behind the number of a heading."""
    pairs = (pair for row in rows for pair in pairwise(row.segments))
    return any(b.x0 - a.x1 > 1.5 * a.size and not _starts_numbered(f"{a.text} X") for a, b in pairs)


def _space_around(rows: list[Row], region: Region) -> tuple[float, float]:
    """The distance of the line above and of the line below."""
    start = bisect_left(region.rows, rows[0].y, key=lambda row: row.y)
    index = region.rows.index(rows[0], start)
    end = index + len(rows)
    above = rows[0].y - region.rows[index - 1].y if index else float("inf")
    return above, region.rows[end].y - rows[-1].y if end < len(region.rows) else float("inf")


def _is_plain_heading(text: str, row: Row, region: Region, below: float, *, has_outline: bool) -> bool:
    """Whether a line in the type of the body is a heading."""
    is_in_chinese = bool(IS_HAN.search(text) and _CHAPTER.match(text)) or bool(_SECTION.match(text))
    if is_in_chinese:
        return len(text) <= 40 and row.x1 < region.right - 3 * row.size
    if has_outline:
        return False
    indent, rest = row.x0 - region.left, region.right - row.x1
    is_special = row.italic or text.isupper() or (abs(indent - rest) < row.size and indent > 2 * row.size)
    is_numbered = bool(_LETTERED.match(text) or _DECIMAL.match(text))
    return bool(_USUAL.fullmatch(text)) or (is_numbered and is_special and below > 1.15 * row.size)


def _is_slide_title(rows: list[Row], region: Region, body_size: float) -> bool:
    if rows[0] is not region.rows[0] or len(rows) > 2 or rows[0].size < 0.95 * body_size:
        return False
    text = " ".join(row.text for row in rows)
    below = region.rows[len(rows)].y - rows[-1].y if len(rows) < len(region.rows) else 10 * rows[0].size
    return (
        sum(map(str.isalpha, text)) >= 2 and len(text) <= 120 and below > 1.6 * rows[0].size and not _MARKER.match(text)
    )


_CAPTION = re.compile(
    r"(?:fig(?:ure|\.)?|table|listing|algorithm)\s*[A-Z]?\d+(?:[.-]\d+)*\s*[:.|]|[图表圖]\s*\d+([.-]\d+)*\s*[:：\s]",
    re.IGNORECASE,
)


_USUAL = re.compile(
    r"abstract|introduction|conclusions?|references|bibliography|acknowledge?ments?|appendix|摘\s*要|引\s*言|参考文献|致\s*谢",
    re.IGNORECASE,
)
"""Titles of sections that are often set like the body."""


def is_caption(text: str) -> bool:
    """Whether this is the text below a figure or above a table."""
    return bool(_CAPTION.match(text))


def starts_item(text: str) -> bool:
    """Whether this begins with a bullet, or the number of an item of a list or of a reference."""
    return bool(_MARKER.match(text))


def _depth(text: str) -> int | None:
    """How deep the number in front of a heading says it is; None without a number."""
    if _CHAPTER.match(text):
        return 1
    if (match := _DECIMAL.match(text)) and match.group(1):
        return match.group(1).count(".") + 1
    if match:
        return match.group().count(".") + 1
    return (
        1
        if re.match(r"[IVX]+\.\s|" + _HAN_NUMBER + "{1,3}、", text)
        else 2
        if re.match(r"[A-Z]\.\s|第.{1,3}[节節]", text)
        else None
    )


def _levels(headings: Sequence[list[Row]], body_size: float) -> list[int]:
    """The level of each: larger and bolder ones are higher, and a number like 3.2 says how deep it is."""
    styles: dict[tuple[float, bool, bool], list[int | None]] = defaultdict(list)
    keys = []
    for rows in headings:
        is_large = rows[0].size > 1.13 * body_size
        key = (round(2 * rows[0].size) / 2, is_large or rows[0].bold, is_large or not rows[0].italic)
        keys.append(key)
        styles[key].append(_depth(rows[0].text))
    level_of: dict[tuple[float, bool, bool], tuple[int, int | None]] = {}
    level, last_depth = 0, None
    for key in sorted(styles, reverse=True):
        depths = [depth for depth in styles[key] if depth is not None]
        depth = min(depths) if len(depths) > len(styles[key]) / 2 else None
        if depth is None or depth != last_depth:
            level += 1
        level_of[key] = level, depth
        deepest = round(median(depths)) if depths else 0
        last_depth = depth
        if depth is not None:
            level += max(0, deepest - depth)
    result = []
    for rows, key in zip(headings, keys, strict=True):
        level, base = level_of[key]
        depth = _depth(rows[0].text)
        result.append(max(1, min(level + (depth - base if depth is not None and base is not None else 0), MAX_LEVEL)))
    return result

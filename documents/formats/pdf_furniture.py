"""What repeats from page to page and is not content: running headers and footers, page numbers, bars at the side.

A row at the upper or lower edge is left out if other pages have the same text at the same height, if it holds a number
that grows with the pages, or if it stands by itself where most pages have such a row (names of chapters, which change).
Larger text than the body's stays: a title may well repeat on consecutive slides.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from documents.formats.pdf_page import Page, Segment

_OUTER_ROWS = 4
"""Rows at each edge of a page that may be a header or footer."""
_HEIGHT_TOLERANCE = 4.0
"""Points. Within them, rows on two pages are at the same height."""
_NUMBER = re.compile(r"\d+|\b[ivxlc]+\b")
_ONLY_NUMBER = re.compile(
    r"[\W_]*(?:page|seite|p\.|第)?\s*(\d{1,4}|[ivxlc]+)\s*(?:页|頁|(?:of|von|/|\||共)\W*\d+\s*[页頁]?)?[\W_]*",
    re.IGNORECASE,
)
_ROMAN = {"i": 1, "v": 5, "x": 10, "l": 50, "c": 100}


@dataclass(slots=True, eq=False)
class _EdgeRow:
    """A row of a page, seen from one of its edges."""

    page: int
    edge: str
    segments: list[Segment]
    distance: float
    """Of its baseline from the upper edge of the page, in points."""
    text: str
    shape: str
    """Its text with `#` for numbers."""
    is_isolated: bool
    """There is more space between it, or a row further out, and the rest of the page than between lines."""
    is_furniture: bool = False


def remove_furniture(pages: Sequence[Page], body_size: float) -> None:
    """Take the repeated segments from the pages. A single page keeps everything."""
    if len(pages) < 2:
        return
    rows = [row for index, page in enumerate(pages) for row in _edge_rows(page, index)]
    for edge in ("top", "bottom"):
        _mark([row for row in rows if row.edge == edge], len(pages), body_size)
    for row in rows:
        if row.is_furniture:
            gone = set(map(id, row.segments))
            page = pages[row.page]
            page.segments = [segment for segment in page.segments if id(segment) not in gone]
    _remove_bars(pages, body_size)


def rows_of(segments: Sequence[Segment]) -> list[list[Segment]]:
    """The segments in rows from top to bottom, each from left to right, over the whole width."""
    rows: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda segment: segment.y):
        if rows and segment.y - rows[-1][-1].y < 0.3 * segment.size:
            rows[-1].append(segment)
        else:
            rows.append([segment])
    return [sorted(row, key=lambda segment: segment.x0) for row in rows]


def _edge_rows(page: Page, index: int) -> list[_EdgeRow]:
    rows = rows_of(page.segments)
    found = []
    for edge, ordered in (("top", rows), ("bottom", rows[::-1])):
        outer = ordered[: _OUTER_ROWS + 1]
        gaps = [abs(b[0].y - a[0].y) / max(s.size for s in (*a, *b)) for a, b in pairwise(outer)]
        isolated_until = max((number for number, gap in enumerate(gaps, 1) if gap > 1.6), default=0)
        for number, row in enumerate(outer[:_OUTER_ROWS]):
            text = " ".join(segment.text for segment in row)
            found.append(
                _EdgeRow(
                    index,
                    edge,
                    row,
                    row[0].y,
                    text,
                    re.sub(r"\s", "", _NUMBER.sub("#", text.casefold())),
                    is_isolated=number < isolated_until or len(outer) <= number + 1,
                )
            )
    return found


def _mark(rows: list[_EdgeRow], page_count: int, body_size: float) -> None:
    enough = 2 if page_count < 6 else 3
    for group in _same_place(rows, lambda row: row.text):
        pages = {row.page for row in group}
        everywhere = len(pages) >= 4 and len(pages) > 0.5 * page_count
        for row in group:
            is_small = row.segments[0].size <= 1.1 * body_size
            near = sum(abs(row.page - page) <= 2 for page in pages) >= 2  # a short chapter
            if is_small and (everywhere or ((len(pages) >= enough or near) and row.is_isolated)):
                row.is_furniture = True
    for group in _same_place(
        [row for row in rows if _numbers(row)], lambda row: _ONLY_NUMBER.fullmatch(row.text) is None
    ):
        offsets = Counter(offset for row in group for offset in {number - row.page for number in _numbers(row)})
        offset, count = offsets.most_common(1)[0]
        shapes = Counter(row.shape for row in group)
        for row in group:
            if _ONLY_NUMBER.fullmatch(row.text):
                row.is_furniture |= any(offsets[number - row.page] >= enough for number in _numbers(row))
            elif (
                row.is_isolated
                and row.segments[0].size <= 1.1 * body_size
                and enough <= count > 0.5 * len(group)
                and (len(row.segments) > 1 or shapes[row.shape] > 1)  # not a numbered footnote
            ):
                row.is_furniture |= any(number - row.page == offset for number in _numbers(row))
    for group in _same_place(rows, lambda _: ""):
        isolated = [row for row in group if row.is_isolated or row.is_furniture]
        known = sum(row.is_furniture for row in isolated)
        if known >= enough and known > 0.5 * len(isolated) and len(isolated) > 0.3 * page_count:
            sizes = {row.segments[0].size for row in isolated if row.is_furniture}
            for row in isolated:
                if row.segments[0].size in sizes and len(row.text) < 100:
                    row.is_furniture = True


def _same_place(rows: list[_EdgeRow], key: Callable[[_EdgeRow], object]) -> list[list[_EdgeRow]]:
    """Groups of rows with the same key at the same height."""
    groups: list[list[_EdgeRow]] = []
    by_key: dict[object, list[_EdgeRow]] = defaultdict(list)
    for row in rows:
        by_key[key(row)].append(row)
    for same in by_key.values():
        same.sort(key=lambda row: row.distance)
        group = [same[0]]
        for row in same[1:]:
            if row.distance - group[0].distance > _HEIGHT_TOLERANCE:
                groups.append(group)
                group = []
            group.append(row)
        groups.append(group)
    return groups


def _numbers(row: _EdgeRow) -> list[int]:
    """The outer numbers of a row, one of which may be that of the page: `3 Methods` or `Notes, 3 of 12`."""
    found = re.findall(r"(?<![\w.])(?:\d{1,4}|[ivxlc]+)(?![\w.]\w)", row.text.casefold())
    values = [int(text) if text.isdigit() else _roman(text) for text in {*found[:2], *found[-2:]}]
    return [value for value in values if value]


def _roman(text: str) -> int:
    values = [_ROMAN[letter] for letter in text]
    return sum(-a if a < b else a for a, b in zip(values, [*values[1:], 0], strict=True))


def _remove_bars(pages: Sequence[Page], body_size: float) -> None:
    """Leave out what most pages have at exactly the same place, such as the outline beside every slide."""
    places: Counter[tuple[str, int, int]] = Counter()
    for page in pages:
        places.update({_place(segment) for segment in page.segments})
    shared = {place for place, count in places.items() if count >= 5 and count > 0.6 * len(pages)}
    for page in pages:
        page.segments = [s for s in page.segments if _place(s) not in shared or s.size > 1.1 * body_size]


def _place(segment: Segment) -> tuple[str, int, int]:
    return segment.text, round(segment.x0 / 2), round(segment.y / 2)


def remove_partial_slides(pages: Sequence[Page]) -> None:
    """Empty a page if the next one shows all of it and more: a slide whose points appear one after the other."""
    for page, following in pairwise(pages):
        shown, then = ({_place(segment) for segment in shown_page.segments} for shown_page in (page, following))
        if shown and shown <= then:
            page.segments, page.is_partial = [], True

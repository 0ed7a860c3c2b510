"""The reading order of a page: its segments as regions, one after the other, each with rows from top to bottom.

The method is a recursive XY-cut over the boxes of segments. A blank strip from top to bottom divides a region into
columns, if either both sides are running text or the page draws one side entirely before the other; so the columns of
a table, which are drawn row by row, are not taken for columns of text. Where something reaches across (a title, a wide
figure), the region is first divided into bands that have the same blank strips, from top to bottom.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from documents.formats.pdf_page import IS_HAN, Segment

_MIN_GUTTER = 0.9
"""Width of the space between two columns, in sizes of the font."""
_MAX_DEPTH = 12
_MAX_GUTTERS = 6
_MAX_BANDS = 12
"""Strips and bands that are examined, the largest first: no page of text needs more, and a picture has thousands."""


@dataclass(slots=True, eq=False)
class Row:
    """A line of text in a region."""

    segments: list[Segment]
    text: str
    page: int
    x0: float
    x1: float
    y: float
    size: float
    bold: bool
    italic: bool
    mono: bool


@dataclass(slots=True, eq=False)
class Region:
    """Rows that are read from top to bottom."""

    rows: list[Row]
    left: float
    right: float


def regions(segments: Sequence[Segment], page: int) -> list[Region]:
    """Put the segments of a page in reading order."""
    if not segments:
        return []
    size = median(segment.size for segment in segments for _ in range(min(len(segment.text), 100)))
    return [_region(leaf, page) for leaf in _divided(list(segments), _MIN_GUTTER * size, 0)]


def _divided(segments: list[Segment], gutter: float, depth: int) -> list[list[Segment]]:
    if len(segments) < 4 or depth > _MAX_DEPTH:
        return [segments] if segments else []
    sides = _columns(segments, gutter)
    if sides:
        return [leaf for side in sides for leaf in _divided(side, gutter, depth + 1)]
    bands = _around_columns(segments, gutter)
    if bands is None:
        return [segments]
    return [leaf for band in bands for leaf in _divided(band, gutter, depth + 1)]


def _columns(segments: list[Segment], gutter: float) -> tuple[list[Segment], list[Segment]] | None:
    """The two sides of the best blank strip from top to bottom; None if the segments are not in columns."""
    best = None
    for start, end in sorted(_gaps(segments, gutter), key=lambda gap: gap[0] - gap[1])[:_MAX_GUTTERS]:
        x = (start + end) / 2
        left = [segment for segment in segments if segment.x0 < x]
        right = [segment for segment in segments if segment.x0 >= x]
        if min(_row_count(left), _row_count(right)) < 2:
            continue
        drawn = _precedence(left, right)
        is_text = _is_running_text(left) and _is_running_text(right)
        is_listing = all(segment.mono for segment in segments)  # code, and comments beside it
        if (
            (drawn > 0.9 or is_text)
            and not (is_listing and _has_same_lines(left, right))
            and (best is None or drawn > best[0])
        ):
            best = drawn, left, right
    return best and best[1:]


def _gaps(segments: list[Segment], gutter: float) -> list[tuple[float, float]]:
    """The blank strips, at least as wide as the gutter, between the segments from left to right."""
    return _blank(segments, min(s.x0 for s in segments), max(s.x1 for s in segments), gutter)


def _row_count(segments: list[Segment]) -> int:
    return len({round(segment.y / (0.5 * segment.size)) for segment in segments})


def _has_same_lines(left: list[Segment], right: list[Segment]) -> bool:
    """Whether most segments at the right stand on the line of one at the left."""
    lines = {round(segment.y) for segment in left}
    return sum(bool({round(s.y), round(s.y) - 1, round(s.y) + 1} & lines) for s in right) > 0.7 * len(right)


def _precedence(first: list[Segment], second: list[Segment]) -> float:
    """The share of pairs, one of each, of which the first is drawn before the second."""
    ordered = sorted([(s.order, 0) for s in first] + [(s.order, 1) for s in second])
    before, pairs = 0, 0
    for _, side in ordered:
        if side:
            pairs += before
        else:
            before += 1
    return pairs / (len(first) * len(second))


def _is_running_text(segments: list[Segment]) -> bool:
    """Whether most segments are long and about as wide as the column."""
    if _row_count(segments) < 3:
        return False
    width = max(s.x1 for s in segments) - min(s.x0 for s in segments)
    full = sum(s.x1 - s.x0 > 0.6 * width and _length(s.text) >= 20 for s in segments)
    return full > 0.5 * _row_count(segments)


def _length(text: str) -> int:
    return len(text) + len(IS_HAN.findall(text))


def _around_columns(segments: list[Segment], gutter: float) -> tuple[list[Segment], ...] | None:
    """What is above the largest band in columns, the band, and what is below it; None if no band is in columns."""
    strips = _strips(segments)
    left, right = min(s.x0 for s in segments), max(s.x1 for s in segments)
    blanks = [_blank(strip, left, right, gutter) for strip in strips]
    runs: list[tuple[int, int, list[tuple[float, float]]]] = []
    last_end = 0
    for start in range(len(strips)):
        shared, end = blanks[start], start + 1
        while end < len(strips) and (common := _intersections(shared, blanks[end], gutter)):
            shared, end = common, end + 1
        if end > last_end and any(a > left and b < right for a, b in shared):
            runs.append((start, end, shared))
            last_end = end
        if end > start + 1 and len(strips[start]) >= 4:
            runs.append((start, start + 1, []))
    runs.sort(key=lambda run: -sum(map(len, strips[run[0] : run[1]])))
    for start, end, shared in runs[:_MAX_BANDS]:
        for first, last in ((start, end), _both_sided(strips, start, end, shared)):
            band = _joined(strips[first:last])
            sides = len(band) >= 4 and (first, last) != (0, len(strips)) and _columns(band, gutter)
            if sides:
                last_right = max(segment.order for segment in sides[1])
                right = min(segment.x0 for segment in sides[1])
                stop = last
                while all(s.order > last_right and s.x0 < right for s in strips[stop - 1]):
                    stop -= 1  # drawn after both columns: it doesn't belong to the left one
                return _joined(strips[:first]), _joined(strips[first:stop]), _joined(strips[stop:])
    return None


def _both_sided(
    strips: list[list[Segment]], start: int, end: int, shared: list[tuple[float, float]]
) -> tuple[int, int]:
    """The part of a run that begins and ends with text on both sides of its widest blank strip."""
    inner = [(a, b) for a, b in shared if any(s.x1 <= a for t in strips[start:end] for s in t)]
    inner = [(a, b) for a, b in inner if any(s.x0 >= b for t in strips[start:end] for s in t)]
    if not inner:
        return start, start
    x = max(inner, key=lambda interval: interval[1] - interval[0])[1]
    sided = [number for number in range(start, end) if {s.x0 >= x for s in strips[number]} == {True, False}]
    return (sided[0], sided[-1] + 1) if sided else (start, start)


def _joined(strips: list[list[Segment]]) -> list[Segment]:
    return [segment for strip in strips for segment in strip]


def _strips(segments: list[Segment]) -> list[list[Segment]]:
    """The segments in strips with nothing but space between them, from top to bottom."""
    strips: list[list[Segment]] = []
    bottom = 0.0
    for segment in sorted(segments, key=lambda segment: segment.top):
        if strips and segment.top < bottom:
            strips[-1].append(segment)
            bottom = max(bottom, segment.bottom)
        else:
            strips.append([segment])
            bottom = segment.bottom
    return strips


def _blank(strip: list[Segment], left: float, right: float, gutter: float) -> list[tuple[float, float]]:
    """The blank intervals of a strip within the region, also those beside its text."""
    found, end = [], left
    for segment in sorted(strip, key=lambda segment: segment.x0):
        if segment.x0 - end >= gutter:
            found.append((end, segment.x0))
        end = max(end, segment.x1)
    return [*found, (end, right)] if right - end >= gutter else found


def _intersections(
    first: list[tuple[float, float]], second: list[tuple[float, float]], gutter: float
) -> list[tuple[float, float]]:
    """What two lists of intervals, each from left to right, have in common, if it is at least as wide as the gutter."""
    found = []
    one = other = 0
    while one < len(first) and other < len(second):
        start, end = max(first[one][0], second[other][0]), min(first[one][1], second[other][1])
        if end - start >= gutter:
            found.append((start, end))
        if first[one][1] < second[other][1]:
            one += 1
        else:
            other += 1
    return found


def _region(segments: list[Segment], page: int) -> Region:
    rows: list[list[Segment]] = []
    for segment in sorted(segments, key=lambda segment: (segment.y, segment.x0)):
        for row in rows[-3:][::-1]:
            if _is_on(segment, row):
                row.append(segment)
                break
        else:
            rows.append([segment])
    result = sorted((_row(row, page) for row in rows), key=lambda row: row.y)
    ends = sorted(row.x1 for row in result)
    return Region(result, min(row.x0 for row in result), ends[int(0.85 * (len(ends) - 1) + 0.5)])


def _is_on(segment: Segment, row: list[Segment]) -> bool:
    base = max(row, key=lambda other: other.size)
    larger, smaller = max(base.size, segment.size), min(base.size, segment.size)
    offset = abs(segment.y - base.y)
    if offset > (0.5 if smaller < 0.85 * larger else 0.25) * larger:
        return False
    return not any(segment.x0 < other.x1 - 0.3 * smaller and other.x0 < segment.x1 - 0.3 * smaller for other in row)


def _row(segments: list[Segment], page: int) -> Row:
    segments = sorted(segments, key=lambda segment: segment.x0)
    letters = sum(len(segment.text) for segment in segments)
    enough = min(0.25 * letters, max(len(segment.text) for segment in segments))
    size = max(segment.size for segment in segments if len(segment.text) >= enough)
    base = next(s for s in segments if s.size == size)

    def share(trait: str) -> bool:
        return sum(len(s.text) for s in segments if getattr(s, trait)) > 0.8 * letters

    text = segments[0].text
    for last, segment in itertools.pairwise(segments):
        blanks = " "
        if last.mono and segment.mono and last.text:
            blanks = " " * max(1, round((segment.x0 - last.x1) / ((last.x1 - last.x0) / len(last.text))))
        text += blanks + segment.text
    return Row(
        segments,
        text,
        page,
        segments[0].x0,
        max(s.x1 for s in segments),
        base.y,
        size,
        share("bold"),
        share("italic"),
        share("mono"),
    )

"""The order of a course's lectures, which tells what a student who has come to one of them has not reached yet.

It is the number in a field of the metadata (`ORDER_FIELDS`), or the number at the beginning of the titles. Ids have no
order: as text, lecture 10 comes before lecture 2. Where not every lecture has a number of its own, there is no order,
because a guess would show a student what comes later, or hide what they know.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np

from models.text import quoted
from retrieval.snapshots.fields import Field, Fields, Scalar

ORDER_FIELDS: Final = ("lecture_number", "lecture_order", "lecture_index", "lecture_no", "lecture_position")
"""Metadata fields with the number of the lecture; the first that a course has is used."""
TITLE_FIELDS: Final = ("lecture_title", "lecture_name")
"""Metadata fields with the title of the lecture, like `Lecture 3: Heaps`, `3.1 Heaps` or `第三讲 堆`."""

_SHOWN = 12
"""Lectures that an error message lists."""

Number = tuple[float, ...]

_NUMBERED = re.compile(
    r"""\s*(?:(?:lecture|lesson|chapter|week|unit|module|session|part|class|day|topic|lec|ch)\b[\s.#:_-]*)?
    (?P<number>\d+(?:\.\d+)*)(?=[.:)\]_\s、，：—–-]|$)""",
    re.IGNORECASE | re.VERBOSE,
)
_NUMBERED_CJK = re.compile(r"\s*第\s*(?P<number>\d+|[〇零一二三四五六七八九十百]+)\s*[讲講课課章节節周週回单單]")
_DIGITS = {digit: value for value, digits in enumerate(("〇零", *"一二三四五六七八九")) for digit in digits}


class NoLectureOrderError(ValueError):
    """The lectures have no order; the message says why, and what to do."""


class UpTo(NamedTuple):
    """The lectures up to one of them: what a student has come to."""

    lecture_id: str
    """The last lecture."""
    order: tuple[str, ...] | None = None
    """All lectures in their order; None for the order of the course."""

    def reached(self, lectures: Sequence[str], numbers: Mapping[str, Number]) -> frozenset[str]:
        """The lectures up to and including the last one.

        Args:
            lectures: All lectures of the course.
            numbers: Their numbers (`lecture_numbers`), unless there is an order.

        Raises:
            NoLectureOrderError: The last lecture is not among them, or the order is not one of this course.
        """
        last, order = self
        known = lectures if order is None else order
        if last not in known:
            where = "the course has no lecture" if order is None else "lecture_order does not contain the lecture"
            raise NoLectureOrderError(f"{where} {quoted(last)}; it has {_listed(known)}")
        if order is not None:
            if lectures and not set(order) & set(lectures):
                raise NoLectureOrderError(f"lecture_order has no lecture of the course, which has {_listed(lectures)}")
            return frozenset(order[: order.index(last) + 1])
        return frozenset(lecture for lecture in lectures if numbers[lecture] <= numbers[last])


def _listed(lectures: Sequence[str]) -> str:
    return (", ".join(map(quoted, lectures[:_SHOWN])) or "none") + ", …" * (len(lectures) > _SHOWN)


def lecture_numbers(fields: Fields) -> dict[str, Number]:
    """The number of each lecture of a course, by its id.

    Raises:
        NoLectureOrderError: A lecture has no number, or several, or that of another.
    """
    lectures = fields.get("lecture_id")
    if lectures is None:
        raise NoLectureOrderError("no chunk of the course has a lecture_id")
    problems = []
    for name in (*ORDER_FIELDS, *TITLE_FIELDS):
        if name in fields:
            try:
                return _numbers_in(fields[name], lectures, is_title=name in TITLE_FIELDS)
            except NoLectureOrderError as error:
                problems.append(f"{name}: {error}")
    reason = "; ".join(problems) or f"no chunk has {ORDER_FIELDS[0]}, or a {TITLE_FIELDS[0]} that begins with a number"
    raise NoLectureOrderError(
        f"the lectures of the course have no order ({reason}); send lecture_order, or let stage one write "
        f"{ORDER_FIELDS[0]} to the metadata of each chunk"
    )


def _numbers_in(field: Field, lectures: Field, *, is_title: bool) -> dict[str, Number]:
    known = [str(value) for value in lectures.values]
    lecture_of = np.full(int(max(field.rows.max(initial=-1), lectures.rows.max(initial=-1))) + 1, -1, dtype=np.int64)
    lecture_of[lectures.rows] = lectures.codes
    pairs = np.unique(np.stack([lecture_of[field.rows], field.codes]), axis=1)
    numbers: dict[str, Number] = {}
    for lecture, code in pairs.T.tolist():
        number = _number_of(field.values[code], is_title=is_title)
        if lecture < 0 or number is None:
            continue
        if numbers.setdefault(known[lecture], number) != number:
            raise NoLectureOrderError(f"the lecture {quoted(known[lecture])} has several numbers")
    without = next((lecture for lecture in known if lecture not in numbers), None)
    if without is not None:
        raise NoLectureOrderError(f"the lecture {quoted(without)} has no number")
    of_number: dict[Number, str] = {}
    for lecture, number in numbers.items():
        if of_number.setdefault(number, lecture) != lecture:
            raise NoLectureOrderError(
                f"the lectures {quoted(of_number[number])} and {quoted(lecture)} have the same number"
            )
    return numbers


def _number_of(value: Scalar, *, is_title: bool) -> Number | None:
    """The number in a field or at the beginning of a title; `3.10` is the tenth part of the third."""
    if not isinstance(value, str):
        return None if isinstance(value, bool) or is_title else (float(value),)
    if is_title:
        found = _NUMBERED.match(value) or _NUMBERED_CJK.match(value)
        number = found["number"] if found else ""
    else:
        number = value.strip()
    if number and all(character in _DIGITS or character in "十百" for character in number):
        return (float(_chinese_number(number)),)
    if re.fullmatch(r"[0-9]+(\.[0-9]+)*", number):
        return tuple(float(part) for part in number.split("."))
    return None


def _chinese_number(text: str) -> int:
    """A number up to 999 in Chinese: 二十三 is 23."""
    total = 0
    for unit, factor in (("百", 100), ("十", 10)):
        before, found, rest = text.partition(unit)
        if found:
            total += (_DIGITS[before[-1]] if before else 1) * factor
            text = rest
    return total + int("".join(str(_DIGITS[digit]) for digit in text) or 0)

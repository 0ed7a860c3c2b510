"""Filters on the metadata of chunks: the JSON form that a request contains, checked, and evaluated to a mask of rows.

    {"section_id": "3"}                                  equal
    {"source_type": ["pdf", "video"]}                    any of these
    {"page": {"gte": 10, "lt": 20}}                      a range of numbers, or of ISO 8601 dates and times
    {"tags": {"not": "draft"}, "url": {"exists": true}}  all of these
    {"or": [{"page": 1}, {"not": {"language": "en"}}]}   combined

A list in the metadata matches if one of its elements does. `not` matches every other chunk, also one without the field.
A date without a time is a whole day. A field that no chunk has is an error: a misspelt name would find nothing, or hide
nothing, without a word.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from models.json_values import whole_number
from models.text import is_unicode, quoted
from retrieval.snapshots.fields import TEXT_FIELDS, Field, Fields, Scalar, is_scalar, kind_of, time_of

Mask = NDArray[np.bool_]

MAX_VALUES: Final = 100
"""Values of a list, and filters of `and` and `or`."""
MAX_SIZE: Final = 500
"""Values of a whole filter, which bound the time that it takes."""
MAX_DEPTH: Final = 8
PLAIN_FIELDS: Final = ("section_id", "lecture_id", "source_type")
"""Fields of the contract: a course without them has no match, which is no error. null does not filter."""
CHUNK_ID: Final = "chunk_id"
_DAY = 24 * 3600.0
_RANGE = ("gt", "gte", "lt", "lte")
OPERATORS = ("eq", "in", "not", *_RANGE, "exists")
_SHOWN = 12
"""Names that an error message lists."""
_SHOWN_CHARACTERS = 100
"""Longer names are shortened in an error message."""
_KINDS = {str: "text", float: "numbers", bool: "true or false", datetime: "dates"}


class FilterError(ValueError):
    """A filter is not valid, or cannot be applied to a course.

    Args:
        path: Where in the filter, such as `page.gte`; empty for the filter itself.
        problem: What is wrong.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(f"{path}: {problem}" if path else problem)
        self.path = path
        self.problem = problem


@dataclass(frozen=True)
class Filter:
    """A checked filter.

    Args:
        evaluate: The mask (chunks,) of the chunks that match.
    """

    evaluate: "Callable[[_Course], Mask]"

    def mask(self, fields: Fields, chunk_ids: Sequence[str]) -> Mask:
        """Which chunks match, (chunks,).

        Args:
            fields: The metadata of the course.
            chunk_ids: The ids of its chunks, by row, ascending.

        Raises:
            FilterError: No chunk of the course has one of the fields, or its values are of another kind.
        """
        return self.evaluate(_Course(fields, chunk_ids))


def parse_filter(raw: Mapping[str, Any]) -> Filter:
    """Check a filter in its JSON form.

    Raises:
        FilterError: It is not valid.
    """
    if _size(raw) > MAX_SIZE:
        raise FilterError("", f"more than {MAX_SIZE} values")
    return Filter(_all_of(raw, "", 1))


class _Course:
    """The fields of a course, with one for the ids of its chunks."""

    def __init__(self, fields: Fields, chunk_ids: Sequence[str]) -> None:
        self.fields, self.chunk_ids = fields, chunk_ids

    def field(self, name: str, path: str) -> Field | None:
        """The field; None for a field of the contract that no chunk has."""
        if name in self.fields:
            return self.fields[name]
        if name in PLAIN_FIELDS or not self.chunk_ids:
            return None
        known = sorted({*self.fields, *PLAIN_FIELDS, CHUNK_ID})
        names = ", ".join(map(quoted, known[:_SHOWN])) + (", …" if len(known) > _SHOWN else "")
        raise FilterError(path, f"no chunk of the course has this field; its fields are {names}")

    def rows_of(self, chunk_ids: Iterable[str]) -> list[int]:
        """The rows of the chunks with these ids; those that the course does not have are left out."""
        places = ((bisect_left(self.chunk_ids, chunk_id), chunk_id) for chunk_id in chunk_ids)
        return [row for row, chunk_id in places if row < len(self.chunk_ids) and self.chunk_ids[row] == chunk_id]

    def mask(self, rows: Sequence[int] | NDArray[Any]) -> Mask:
        """The mask of these rows."""
        mask = np.zeros(len(self.chunk_ids), dtype=np.bool_)
        mask[rows] = True
        return mask


_Evaluate = Callable[[_Course], Mask]


def _size(raw: object) -> int:
    """Number of values in a JSON value."""
    size, rest = 0, [raw]
    while rest:
        value = rest.pop()
        if isinstance(value, Mapping):
            rest += value.values()
        elif isinstance(value, list):
            rest += value
        else:
            size += 1
    return size


def _all_of(raw: object, path: str, depth: int) -> _Evaluate:
    """A filter: all entries of an object match."""
    if not isinstance(raw, Mapping):
        raise FilterError(path, 'must be an object like {"lecture_id": "12"}')
    if depth > MAX_DEPTH:
        raise FilterError(path, f"nested more than {MAX_DEPTH} deep")
    parts = []
    for name, value in raw.items():
        shown = name if name.isprintable() and len(name) <= _SHOWN_CHARACTERS else quoted(name)
        at = f"{path}.{shown}" if path else shown
        if name in ("and", "or"):
            parts.append(_combined(name, value, at, depth))
        elif name == "not":
            parts.append(_inverse(_all_of(value, at, depth + 1)))
        elif value is not None or name not in PLAIN_FIELDS:
            parts.append(_condition(name, value, at, depth))
    return lambda course: _and(course, [part(course) for part in parts])


def _and(course: _Course, masks: Sequence[Mask]) -> Mask:
    return np.logical_and.reduce(masks) if masks else np.ones(len(course.chunk_ids), dtype=np.bool_)


def _combined(name: str, value: object, path: str, depth: int) -> _Evaluate:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_VALUES:
        raise FilterError(path, f"must be a list of 1 to {MAX_VALUES} filters")
    parts = [_all_of(part, f"{path}.{index}", depth + 1) for index, part in enumerate(value)]
    combine = np.logical_or if name == "or" else np.logical_and
    return lambda course: np.asarray(combine.reduce([part(course) for part in parts]))


def _inverse(evaluate: _Evaluate) -> _Evaluate:
    return lambda course: ~evaluate(course)


def _condition(name: str, value: object, path: str, depth: int) -> _Evaluate:
    """A condition on one field: a value, a list of values, or an object of operators."""
    if not isinstance(value, Mapping):
        return _equal(name, value, path)
    if not value:
        raise FilterError(path, f"must have an operator: {', '.join(OPERATORS)}")
    if depth > MAX_DEPTH:
        raise FilterError(path, f"nested more than {MAX_DEPTH} deep")
    parts: list[_Evaluate] = []
    for operator, operand in value.items():
        at = f"{path}.{operator}"
        match operator:
            case "eq" | "in":
                if (operator == "in") != isinstance(operand, list):
                    raise FilterError(at, "must be a list of values" if operator == "in" else "must be one value")
                parts.append(_equal(name, operand, at))
            case "not":
                parts.append(_inverse(_condition(name, operand, at, depth + 1)))
            case "exists":
                if not isinstance(operand, bool):
                    raise FilterError(at, "must be true or false")
                exists = _exists(name, at)
                parts.append(exists if operand else _inverse(exists))
            case _ if operator in _RANGE:
                parts.append(_within(name, operator, operand, at))
            case _:
                known = ", ".join(OPERATORS)
                raise FilterError(path, f"unknown operator {quoted(str(operator))}; the operators are {known}")
    return lambda course: _and(course, [part(course) for part in parts])


def _equal(name: str, value: object, path: str) -> _Evaluate:
    values = value if isinstance(value, list) else [value]
    if not 1 <= len(values) <= MAX_VALUES:
        raise FilterError(path, f"must be a value or a list of 1 to {MAX_VALUES} values")
    accepted = [
        _scalar(name, each, f"{path}.{index}" if values is value else path) for index, each in enumerate(values)
    ]
    if name == CHUNK_ID:
        ids = set(map(str, accepted))
        return lambda course: course.mask(course.rows_of(ids))
    keys = [(kind_of(each), each) for each in accepted]

    def evaluate(course: _Course) -> Mask:
        field = course.field(name, path)
        if field is None:
            return course.mask([])
        codes = [code for key in keys if (code := field.code_of.get(key)) is not None]
        if not codes:
            _require_kind(field, {kind for kind, _ in keys}, path)
        return course.mask(field.having(codes) if codes else [])

    return evaluate


def _exists(name: str, path: str) -> _Evaluate:
    def evaluate(course: _Course) -> Mask:
        if name == CHUNK_ID:
            return _and(course, [])
        field = course.field(name, path)
        return course.mask([] if field is None else field.rows)

    return evaluate


def _within(name: str, operator: str, limit: object, path: str) -> _Evaluate:
    """A limit of a range."""
    limit = _scalar("", limit, path)
    kind, bound = kind_of(limit), 0.0
    if isinstance(limit, str):
        kind, bound = datetime, time_of(limit)
        if len(limit) == len("2026-01-31") and operator in ("gt", "lte"):  # after, or until the end of, the whole day
            bound, operator = bound + _DAY, {"gt": "gte", "lte": "lt"}[operator]
    elif not isinstance(limit, bool):
        bound = float(limit)
    if kind is bool or math.isnan(bound):
        raise FilterError(path, "must be a number, or a date or time like 2026-01-31 or 2026-01-31T12:00:00Z")
    compare = {"gt": np.greater, "gte": np.greater_equal, "lt": np.less, "lte": np.less_equal}[operator]

    def evaluate(course: _Course) -> Mask:
        field = course.field(name, path)
        if field is None:
            return course.mask([])
        _require_kind(field, {kind}, path)
        inside = compare(field.times if kind is datetime else field.numbers, bound)
        return course.mask(field.rows[inside[field.codes]])

    return evaluate


def _scalar(name: str, value: object, path: str) -> Scalar:
    if isinstance(value, str) and not is_unicode(value):
        raise FilterError(path, "must be valid Unicode")
    if name in TEXT_FIELDS or name == CHUNK_ID:
        value = whole_number(value)
        if isinstance(value, str) or type(value) is int:
            return str(value)
        raise FilterError(path, "must be a text or an integer")
    if is_scalar(value):
        return value
    raise FilterError(path, "must be a text, a number, true or false" + _HINT * (value is None))


_HINT = '; chunks without the field are found by {"exists": false}'


def _require_kind(field: Field, kinds: set[type], path: str) -> None:
    """Check that the field has values of one of these kinds: a number is never equal to a text."""
    if not kinds & field.kinds:
        is_all = " and ".join(_KINDS[kind] for kind in (str, float, bool, datetime) if kind in field.kinds)
        example = quoted(str(field.values[0])) if field.values else ""
        wanted = " or ".join(sorted(_KINDS[kind] for kind in kinds))
        raise FilterError(path, f"the values of this field are {is_all}, like {example}, not {wanted}")

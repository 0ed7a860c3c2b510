"""The metadata of a course by field, so that a filter looks at numbers instead of at every chunk's metadata.

A field has a table of distinct values, and pairs (row, code): the chunk in this row has the value with this code. A
list has one pair for each of its distinct elements. 1 and 1.0 are one value, and `true` is another. The fields of an
object have dots in their names: `speaker.name`. The values of `TEXT_FIELDS`, which may be numbers in stage one's
tables, are text.
"""

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from typing_extensions import TypeIs

from retrieval.snapshots.file import Arrays, Strings, strings_as_arrays

TEXT_FIELDS: Final = ("section_id", "lecture_id", "source_type", "course_id")
"""Fields of the contract whose values are opaque text, compared as text."""

Scalar = str | int | float | bool


class Field:
    """The values of one field. Threads may share it.

    Args:
        rows: The rows of the pairs, (pairs,), ascending.
        codes: Their codes, (pairs,).
        encoded: The distinct values in JSON, by code.
    """

    def __init__(self, rows: NDArray[np.int32], codes: NDArray[np.int32], encoded: Sequence[str]) -> None:
        self.rows = rows
        self.codes = codes
        self._encoded = encoded

    @cached_property
    def values(self) -> list[Scalar]:
        """The distinct values, by code."""
        decoded: list[Scalar] = json.loads(f"[{','.join(self._encoded)}]")
        return decoded

    @cached_property
    def code_of(self) -> dict[tuple[type, Scalar], int]:
        """The code of each value and its kind; for Python, `True` equals 1."""
        return {(kind_of(value), value): code for code, value in enumerate(self.values)}

    @cached_property
    def kinds(self) -> frozenset[type]:
        """The kinds of the values: `str`, `float` for all numbers, `bool`; and `datetime` if some are dates."""
        kinds = {kind for kind, _ in self.code_of}
        return frozenset(kinds | {datetime} if not np.isnan(self.times).all() else kinds)

    @cached_property
    def numbers(self) -> NDArray[np.float64]:
        """The values as numbers, (values,); NaN for others."""
        return np.array([value if kind_of(value) is float else math.nan for value in self.values], dtype=np.float64)

    @cached_property
    def times(self) -> NDArray[np.float64]:
        """The values as seconds since 1970, (values,); NaN for all but ISO 8601 dates and times."""
        return np.array([time_of(value) if isinstance(value, str) else math.nan for value in self.values])

    def having(self, codes: Sequence[int]) -> NDArray[np.int32]:
        """The rows that have one of these values."""
        found = self.codes == codes[0] if len(codes) == 1 else np.isin(self.codes, codes)
        return np.compress(found, self.rows)


class Fields(Mapping[str, Field]):
    """The fields of a course by name.

    Args:
        arrays: Contains what `fields_as_arrays` returned.
    """

    def __init__(self, arrays: Arrays) -> None:
        self._names, self._values = Strings(arrays, "fields.names"), Strings(arrays, "fields.values")
        self._rows, self._codes = arrays["fields.rows"], arrays["fields.codes"]
        self._starts, self._value_starts = arrays["fields.starts"], arrays["fields.value_starts"]
        self._fields: dict[str, Field] = {}

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self._names)}

    def __len__(self) -> int:
        return len(self._names)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __getitem__(self, name: str) -> Field:
        field = self._fields.get(name)
        if field is None:
            number = self._numbers[name]
            start, end = self._starts[number : number + 2].tolist()
            first, last = self._value_starts[number : number + 2].tolist()
            pairs = slice(start, end)
            field = self._fields[name] = Field(self._rows[pairs], self._codes[pairs], self._values[first:last])
        return field


def fields_as_arrays(metadata: Sequence[Mapping[str, Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of `Fields`, by name, for the metadata of each row.

    * `fields.names` and `fields.values` (JSON): strings;
    * `fields.rows` and `fields.codes` (pairs,): the pairs of all fields, one field after the other;
    * `fields.starts` and `fields.value_starts` (fields + 1,): where the pairs, and the values, of each field start.
    """
    pairs: dict[str, list[tuple[int, int]]] = {}
    values: dict[str, dict[tuple[type, Scalar], int]] = {}
    for row, fields in enumerate(metadata):
        distinct = dict.fromkeys((name, (kind_of(value), value)) for name, value in _scalars(fields))
        for name, value in distinct:
            codes = values.setdefault(name, {})
            pairs.setdefault(name, []).append((row, codes.setdefault(value, len(codes))))
    names = sorted(pairs)
    flat = np.array([pair for name in names for pair in pairs[name]], dtype=np.int32).reshape(-1, 2)
    return {
        **strings_as_arrays("fields.names", names),
        **strings_as_arrays(
            "fields.values", (json.dumps(value, ensure_ascii=False) for name in names for _, value in values[name])
        ),
        "fields.rows": np.ascontiguousarray(flat[:, 0]),
        "fields.codes": np.ascontiguousarray(flat[:, 1]),
        "fields.starts": _starts([len(pairs[name]) for name in names]),
        "fields.value_starts": _starts([len(values[name]) for name in names]),
    }


def is_scalar(value: object) -> TypeIs[Scalar]:
    """Whether a value can be compared: a text, true or false, or a number that a float can hold."""
    return isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) <= sys.float_info.max)


def kind_of(value: object) -> type:
    """`str`, `bool`, or `float` for any number."""
    return bool if isinstance(value, bool) else float if isinstance(value, int | float) else str


def time_of(text: str) -> float:
    """An ISO 8601 date or time in seconds since 1970, in UTC unless it has another zone; NaN for any other text."""
    if len(text) < 10 or text[4] != "-":
        return math.nan
    try:
        moment = datetime.fromisoformat(text)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return math.nan


def _scalars(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """The fields and their values that can be compared. JSON has no NaN."""
    for name, value in metadata.items():
        if not prefix and name in TEXT_FIELDS:
            if value is not None:
                yield name, str(value)
        else:
            for element in value if isinstance(value, list) else [value]:
                if isinstance(element, Mapping):
                    yield from _scalars(element, f"{prefix}{name}.")
                elif is_scalar(element):
                    yield f"{prefix}{name}", element


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)

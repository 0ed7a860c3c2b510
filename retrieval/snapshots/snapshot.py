"""A course snapshot: the chunks of one generation of a course, with their vectors and keyword postings.

All of it are arrays of one file that is mapped into memory (`retrieval.snapshots.file`), so opening a course takes
milliseconds at any size. It never changes: new content is a new file. A course is small, so a search compares the query
with every chunk. That is exact and takes a fraction of the time of a request to Chroma.
"""

import json
from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from retrieval.bm25 import Bm25, postings_as_arrays
from retrieval.cosines import Cosines, vectors_as_arrays
from retrieval.filters import Filter
from retrieval.lecture_order import Number, UpTo, lecture_numbers
from retrieval.near_duplicates import overlaps
from retrieval.snapshots.fields import Fields, fields_as_arrays
from retrieval.snapshots.file import Arrays, Strings, strings_as_arrays

Rows = NDArray[np.integer[Any]]
"""Numbers of chunks, ascending."""
_NO_ROWS: Rows = np.empty(0, dtype=np.int64)


class CourseSnapshot:
    """The chunks of a course, one row each, in the order of their ids. Threads may share it.

    Args:
        arrays: What `snapshot_arrays` returned.
        info: The course and the embedding model of the vectors.
        generation: The generation of the course for which the snapshot was made.
    """

    def __init__(self, arrays: Arrays, info: CollectionInfo, generation: int) -> None:
        self.info = info
        self.generation = generation
        self.chunk_ids = Strings(arrays, "chunk_ids")
        self.texts = Strings(arrays, "texts")
        self._metadata = Strings(arrays, "metadata")
        self.cosines = Cosines(arrays)
        self.bm25 = Bm25(arrays, len(self.texts))
        self.fields = Fields(arrays)
        self._codes: dict[str, NDArray[np.int32]] = {}
        self._reading_order: NDArray[np.int32] = arrays["reading_order"]
        self._positions: NDArray[np.int32] = arrays["positions"]
        self._first_copies: NDArray[np.int32] = arrays["first_copies"]
        self._has_copies = bool((self._first_copies != np.arange(len(self))).any())
        self._near_groups: NDArray[np.int32] = arrays["near_groups"]
        self._repeated: NDArray[np.uint8] = arrays["repeated"]
        self.has_repeats = bool(self._repeated.any())
        self._has_near_copies = bool((self._near_groups != self._first_copies).any())

    def __len__(self) -> int:
        return len(self.texts)

    def row_of(self, chunk_id: str) -> int | None:
        """The row of a chunk; None if the course has no chunk with this id."""
        row = bisect_left(self.chunk_ids, chunk_id)
        return row if row < len(self) and self.chunk_ids[row] == chunk_id else None

    def metadata(self, row: int) -> dict[str, Any]:
        """The metadata of a chunk, with its `chunk_id`."""
        metadata: dict[str, Any] = json.loads(self._metadata[row])
        metadata["chunk_id"] = self.chunk_ids[row]
        return metadata

    def metadata_length(self, row: int) -> int:
        """Number of characters of the metadata of a chunk as JSON."""
        return len(self._metadata[row])

    def rows(self, only: Filter | None, up_to: UpTo | None = None) -> Rows | None:
        """The chunks that match a filter, of the lectures up to one; None for all chunks.

        Raises:
            FilterError: The filter does not fit to the metadata of the course.
            NoLectureOrderError: It is not known which lectures come before.
        """
        mask = None if only is None else only.mask(self.fields, self.chunk_ids)
        if up_to is not None:
            lectures = self.fields.get("lecture_id")
            known = [] if lectures is None else [str(value) for value in lectures.values]
            numbers = self.lecture_numbers if up_to.order is None and known else {}
            reached = up_to.reached(known, numbers)
            # The code of a chunk without a lecture is -1.
            is_reached = np.array([*(lecture in reached for lecture in known), False])[self.codes("lecture_id")]
            mask = is_reached if mask is None else mask & is_reached
        return None if mask is None else np.flatnonzero(mask)

    @cached_property
    def lecture_numbers(self) -> dict[str, Number]:
        """The number of each lecture, by its id.

        Raises:
            NoLectureOrderError: The lectures have no order.
        """
        return lecture_numbers(self.fields)

    def codes(self, name: str) -> NDArray[np.int32]:
        """The code of each chunk's value in a field, (chunks,); -1 without a value. Of several values, the last."""
        known = self._codes.get(name)
        if known is None:
            known = np.full(len(self), -1, dtype=np.int32)
            field = self.fields.get(name)
            if field is not None:
                known[field.rows] = field.codes
            self._codes[name] = known
        return known

    def distinct(self, rows: Rows | None) -> Rows | None:
        """The first of the chunks with each text; None instead of all chunks."""
        if not self._has_copies:
            return rows
        if rows is None:
            return np.flatnonzero(self._first_copies == np.arange(len(self)))
        copied = self._first_copies[rows]
        first = np.empty(len(self), dtype=np.int64)
        first[copied[::-1]] = rows[::-1]  # of several rows with one text, NumPy keeps the last: the first by id
        return np.compress(first[copied] == rows, rows)

    def copies(self, row: int, rows: Rows | None) -> Rows:
        """All other chunks, among `rows`, with exactly the same text."""
        if not self._has_copies:
            return _NO_ROWS
        same = np.flatnonzero(self._first_copies == self._first_copies[row])
        if rows is not None:
            same = np.intersect1d(same, rows, assume_unique=True)
        return np.compress(same != row, same)

    def near_groups(self, rows: Rows) -> Rows | None:
        """The group of near-duplicates of each chunk (`retrieval.near_duplicates`); None if the course has none."""
        return self._near_groups[rows] if self._has_near_copies else None

    def near_copies(self, row: int, rows: Rows | None) -> Rows:
        """All other chunks, among `rows`, with nearly but not exactly the same text."""
        if not self._has_near_copies:
            return _NO_ROWS
        near = np.flatnonzero(self._near_groups == self._near_groups[row])
        if rows is not None:
            near = np.intersect1d(near, rows, assume_unique=True)
        return np.compress(self._first_copies[near] != self._first_copies[row], near)

    def is_repeated(self, row: int) -> bool:
        """Whether all of the chunk's text is in others too, so that they may make it superfluous."""
        return bool(self._repeated[row])

    def neighbours(self, row: int, distance: int) -> tuple[list[int], list[int]]:
        """Up to `distance` chunks before and after a chunk in the same section, in reading order."""
        position = int(self._positions[row])
        before = self._reading_order[max(0, position - distance) : position]
        after = self._reading_order[position + 1 : position + 1 + distance]
        return self._in_section_of(row, before), self._in_section_of(row, after)

    def _in_section_of(self, row: int, rows: Rows) -> list[int]:
        codes = (self.codes("lecture_id"), self.codes("section_id"))
        return [other for other in rows.tolist() if all(code[other] == code[row] for code in codes)]


def snapshot_arrays(records: Sequence[Record], vectors: Vectors) -> dict[str, NDArray[Any]]:
    """The arrays of a snapshot.

    Args:
        records: The chunks, sorted by id.
        vectors: Their unit vectors (chunks, dimensions).

    Returns:
        Those of `Cosines` and `Bm25`, the strings `chunk_ids`, `texts` and `metadata` (JSON), and

        * those of `Fields`;
        * `reading_order` (chunks,) and `positions` (chunks,): the rows in reading order, and each row's place in it;
        * `first_copies` (chunks,): the first row with the same text;
        * `near_groups` and `repeated` (chunks,): see `Overlaps`.
    """
    reading_order = sorted(range(len(records)), key=lambda row: _reading_order_key(records[row]))
    first: dict[str, int] = {}
    in_common = overlaps([record.text for record in records])
    return {
        **vectors_as_arrays(vectors),
        **strings_as_arrays("chunk_ids", (record.chunk_id for record in records)),
        **strings_as_arrays("texts", (record.text for record in records)),
        **strings_as_arrays("metadata", (json.dumps(record.metadata) for record in records)),
        **fields_as_arrays([record.metadata for record in records]),
        **postings_as_arrays((record.text for record in records), (record.context for record in records)),
        "reading_order": np.asarray(reading_order, dtype=np.int32),
        "positions": np.argsort(reading_order).astype(np.int32),
        "first_copies": np.asarray(
            [first.setdefault(record.text, row) for row, record in enumerate(records)], dtype=np.int32
        ),
        "near_groups": in_common.groups,
        "repeated": in_common.repeated,
    }


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _reading_order_key(record: Record) -> tuple[str, str, float, int, str]:
    """Sort key for reading order: lecture, section, `order_in_section`, id.

    Chunks without a numeric `order_in_section` come last in their section. Ids of digits are ordered as numbers.
    """
    lecture, section = (_text(record.metadata.get(name)) for name in ("lecture_id", "section_id"))
    try:
        order = float(record.metadata["order_in_section"])
    except (KeyError, TypeError, ValueError, OverflowError):
        order = np.nan
    chunk_id = record.chunk_id
    return (
        lecture or "",
        section or "",
        np.inf if np.isnan(order) else order,
        len(chunk_id) if chunk_id.isdigit() else 0,
        chunk_id,
    )

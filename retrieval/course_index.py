"""A course in memory, as it was published: all that a search looks at (a *retrieval handle*).

It is read from the collection once and never changes: a new generation is another index. A course is small, so a search
compares the query with every chunk of it, which is exact and takes a fraction of what a question to Chroma takes; a
filter is a mask over the chunks.
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from embedding.records import Record
from embedding.vector_store import CollectionInfo, CourseCollection
from embedding.vectors import Vectors
from models.fingerprint import FingerprintBuilder
from retrieval.fusion import Mask, Scores
from retrieval.keyword_index import KeywordIndex, KeywordIndexBuilder, KeywordIndexError
from retrieval.keyword_store import KeywordStore, KeywordStoreError

logger = logging.getLogger(__name__)

FILTERS = ("section_id", "lecture_id", "source_type")
"""Metadata that a search can be limited to."""
LARGE = 16_000_000
"""Numbers in the vectors of a course that is searched on several cores."""
CORES = min(4, os.cpu_count() or 1)
"""As many as can make use of the way to the memory."""
_BYTES_PER_RECORD = 2500
"""What Python needs for the metadata of a chunk and the objects around it, measured."""

_one_large_product = threading.Lock()


@cache
def _cores() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CORES, thread_name_prefix="product")


@contextmanager
def products_side_by_side() -> Iterator[None]:
    """Keep numpy to one thread a product, as an app needs it whose searches run at the same time.

    Its BLAS library would spread each product over all cores and let them wait for one another: eight clients get 44
    searches a second of a course of 5,000 chunks, and 830 in this way.
    """
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        yield


class CourseIndex:
    """The chunks of a course, by row: the rows are in the order of the chunks' ids. Threads may share it.

    Args:
        records: The chunks, by id.
        vectors: Their unit vectors, one row a record.
        keywords: The index of their texts; its rows are the same.
        info: What the collection says of its making.
    """

    def __init__(
        self,
        records: Sequence[Record],
        vectors: Vectors,
        keywords: KeywordIndex,
        info: CollectionInfo,
    ) -> None:
        self.records = tuple(records)
        self.keywords = keywords
        self.info = info
        self._vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        self._values = {name: _encoded([_text(record.metadata.get(name)) for record in records]) for name in FILTERS}
        self._reading_order = sorted(range(len(records)), key=lambda row: _place(records[row]))
        self._position = {row: position for position, row in enumerate(self._reading_order)}
        self._copies = _copies(records)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def bytes(self) -> int:
        """Memory it takes, about."""
        return _bytes(self.records, self._vectors)

    def cosines(self, vector: Vectors, mask: Mask | None = None) -> Scores:
        """Cosine similarity of every chunk (chunks,) to a unit vector (dimensions,).

        Beyond the mask it may be left at -1.
        """
        if self._vectors.size < LARGE:
            cosines: Scores = self._vectors @ vector
        elif mask is not None and np.count_nonzero(mask) < len(self) // 8:
            cosines = np.full(len(self), -1, dtype=np.float32)
            cosines[mask] = self._vectors[mask] @ vector
        else:
            with _one_large_product:  # it takes the whole way to the memory
                parts = _cores().map(lambda part: part @ vector, np.array_split(self._vectors, CORES))
                cosines = np.concatenate(list(parts))
        return np.clip(cosines, -1.0, 1.0, out=cosines)

    def mask(self, filters: Mapping[str, Sequence[str]]) -> Mask | None:
        """Which chunks have, in every field that is given, one of its values; None where nothing is filtered."""
        mask: Mask | None = None
        for name, wanted in filters.items():
            codes, numbers = self._values[name]
            known = [numbers[value] for value in wanted if value in numbers]
            chosen = codes == known[0] if len(known) == 1 else np.isin(codes, known)
            mask = chosen if mask is None else mask & chosen
        return mask

    def neighbours(self, row: int, distance: int) -> tuple[list[int], list[int]]:
        """Rows of the chunks before and after a chunk, in reading order and in its section."""
        position = self._position[row]
        before = self._reading_order[max(0, position - distance) : position]
        after = self._reading_order[position + 1 : position + 1 + distance]
        section = _section(self.records[row])
        return (
            [other for other in before if _section(self.records[other]) == section],
            [other for other in after if _section(self.records[other]) == section],
        )

    def distinct(self, mask: Mask | None) -> Mask | None:
        """The chunks of the mask, each text once: copies must not weigh more than one."""
        if not self._copies:
            return mask
        distinct = np.ones(len(self), dtype=np.bool_) if mask is None else mask.copy()
        for row, copies in self._copies.items():
            if distinct[row] and any(copy < row and distinct[copy] for copy in copies):
                distinct[row] = False
        return distinct

    def copies(self, row: int) -> Sequence[int]:
        """Rows of all chunks with the very same text, itself among them."""
        return self._copies.get(row, (row,))


@dataclass(frozen=True)
class CourseContent:
    """What a collection holds: its records by id, and their vectors."""

    records: Sequence[Record]
    vectors: Vectors
    info: CollectionInfo
    digest: str
    """Of the ids and contents of the chunks, as in `CourseFingerprint.content`."""


class CourseTooLargeError(Exception):
    """The course does not fit into the memory that is set aside for courses."""


def read_course(collection: CourseCollection, max_bytes: int | None = None) -> CourseContent:
    """Read a course from its collection.

    Raises:
        CourseTooLargeError: as its first page shows, its index would be larger.
        CollectionNotFoundError: the course has no collection any more.
        VectorStoreError: the vector store failed.
    """
    records: list[Record] = []
    pages: list[Vectors] = []
    for page, vectors in collection.contents():
        if not records and max_bytes is not None and collection.count() * _bytes(page, vectors) / len(page) > max_bytes:
            raise CourseTooLargeError
        records += page
        pages.append(vectors)
    order = sorted(range(len(records)), key=lambda row: records[row].chunk_id)
    vectors = np.concatenate(pages)[order] if pages else np.empty((0, 0), np.float32)
    fingerprint = FingerprintBuilder()
    for record in records:
        fingerprint.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    digest = fingerprint.build("").content
    return CourseContent([records[row] for row in order], vectors, collection.info, digest)


def make_course_index(content: CourseContent, course_id: str, keyword_store: KeywordStore) -> CourseIndex:
    """The index of a course; its keyword index is read from its file, or made and kept there."""
    ids = tuple(record.chunk_id for record in content.records)
    try:
        keywords = keyword_store.load(course_id, content.digest)
        if keywords.chunk_ids == ids:
            return CourseIndex(content.records, content.vectors, keywords, content.info)
        reason = "it holds other chunks"
    except KeywordIndexError as error:
        reason = str(error)
    logger.info("Making the keyword index of course %s: %s", course_id, reason)
    keywords = KeywordIndexBuilder().add_all((record.chunk_id, record.text) for record in content.records).build()
    try:
        keyword_store.save(course_id, content.digest, keywords)
        keyword_store.keep_only(course_id, content.digest)
    except KeywordStoreError as error:
        logger.warning("The keyword index of course %s is made anew at every load: %s", course_id, error)
    return CourseIndex(content.records, content.vectors, keywords, content.info)


def _bytes(records: Sequence[Record], vectors: Vectors) -> int:
    """Memory that an index of these takes, about; half of what is put down for the texts is their keyword index."""
    return vectors.nbytes + sum(4 * len(record.text) for record in records) + _BYTES_PER_RECORD * len(records)


def _encoded(values: Sequence[str | None]) -> tuple[NDArray[np.int32], dict[str, int]]:
    """A number a value, -1 for none: comparing numbers is a hundred times faster."""
    numbers: dict[str, int] = {}
    codes = [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    return np.asarray(codes, dtype=np.int32), numbers


def _text(value: object) -> str | None:
    """A metadata value as a filter names it."""
    return None if value is None else str(value)


def _section(record: Record) -> tuple[str | None, str | None]:
    return _text(record.metadata.get("lecture_id")), _text(record.metadata.get("section_id"))


def _place(record: Record) -> tuple[str, str, float, int, str]:
    """Sorts chunks in reading order; those whose `order_in_section` is no number come last, by their ids.

    Ids that are numbers are ordered as numbers.
    """
    lecture, section = _section(record)
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


def _copies(records: Sequence[Record]) -> dict[int, tuple[int, ...]]:
    """Row → the rows of the same text, for texts that occur more than once."""
    rows: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        rows.setdefault(record.text, []).append(row)
    repeated = (tuple(same) for same in rows.values() if len(same) > 1)
    return {row: same for same in repeated for row in same}

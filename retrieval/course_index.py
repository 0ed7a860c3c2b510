"""A published course in memory: vectors, records and keyword index.

It is read from the collection once and is immutable: a new generation is another index. A course is small, so a search
compares the query with every chunk, which is exact and takes a fraction of a request to Chroma. A filter is a mask over
the chunks.
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

from embedding.vector_store.collections import CollectionInfo, CourseCollection
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models.fingerprint import FingerprintBuilder
from retrieval.fusion import Mask, Scores
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder, KeywordIndexError
from retrieval.keywords.store import KeywordStore, KeywordStoreError

logger = logging.getLogger(__name__)

FILTERS = ("section_id", "lecture_id", "source_type")
"""Metadata fields a search can be filtered by."""
LARGE = 16_000_000
"""From this number of vector elements on, a course is searched on several cores."""
CORES = min(4, os.cpu_count() or 1)
"""Cores for a large course; more would only wait for memory bandwidth."""
_BYTES_PER_RECORD = 2500
"""Measured memory of the metadata of a chunk and its Python objects."""

_one_large_product = threading.Lock()


@cache
def _cores() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(CORES, thread_name_prefix="product")


@contextmanager
def one_thread_per_product() -> Iterator[None]:
    """Limit numpy to one thread per matrix product, for an app whose searches run concurrently.

    By default its BLAS library spreads each product over all cores, and concurrent products wait for one another: eight
    clients then get 44 searches per second over 5,000 chunks, instead of 830.
    """
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        yield


class CourseIndex:
    """The chunks of a course, one row each, in the order of their ids. Threads may share it.

    Args:
        records: The chunks, sorted by id.
        vectors: Their unit vectors (chunks, dimensions).
        keywords: Their keyword index, with the same rows.
        info: Course and model of the collection.
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
        """Estimated memory."""
        return _bytes(self.records, self._vectors)

    def cosines(self, vector: Vectors, mask: Mask | None = None) -> Scores:
        """Cosine similarity of every chunk, (chunks,), to a unit vector (dimensions,); -1.0 to 1.0.

        A chunk outside the mask may have -1.0 instead.
        """
        if self._vectors.size < LARGE:
            cosines: Scores = self._vectors @ vector
        elif mask is not None and np.count_nonzero(mask) < len(self) // 8:
            cosines = np.full(len(self), -1, dtype=np.float32)
            cosines[mask] = self._vectors[mask] @ vector
        else:
            with _one_large_product:  # it saturates memory bandwidth
                parts = _cores().map(lambda part: part @ vector, np.array_split(self._vectors, CORES))
                cosines = np.concatenate(list(parts))
        return np.clip(cosines, -1.0, 1.0, out=cosines)

    def mask(self, filters: Mapping[str, Sequence[str]]) -> Mask | None:
        """The chunks, (chunks,), that have one of the accepted values in every field; None without filters."""
        mask: Mask | None = None
        for name, wanted in filters.items():
            codes, numbers = self._values[name]
            known = [numbers[value] for value in wanted if value in numbers]
            chosen = codes == known[0] if len(known) == 1 else np.isin(codes, known)
            mask = chosen if mask is None else mask & chosen
        return mask

    def neighbours(self, row: int, distance: int) -> tuple[list[int], list[int]]:
        """Rows of up to `distance` chunks before and after a chunk, in reading order, within its section."""
        position = self._position[row]
        before = self._reading_order[max(0, position - distance) : position]
        after = self._reading_order[position + 1 : position + 1 + distance]
        section = _section(self.records[row])
        return (
            [other for other in before if _section(self.records[other]) == section],
            [other for other in after if _section(self.records[other]) == section],
        )

    def distinct(self, mask: Mask | None) -> Mask | None:
        """The mask with only one chunk of each text."""
        if not self._copies:
            return mask
        distinct = np.ones(len(self), dtype=np.bool_) if mask is None else mask.copy()
        for row, copies in self._copies.items():
            if distinct[row] and any(copy < row and distinct[copy] for copy in copies):
                distinct[row] = False
        return distinct

    def copies(self, row: int) -> Sequence[int]:
        """Rows of all chunks with exactly the same text, this one included."""
        return self._copies.get(row, (row,))


@dataclass(frozen=True)
class CourseContent:
    """The content of a collection: records sorted by id, with their vectors (chunks, dimensions)."""

    records: Sequence[Record]
    vectors: Vectors
    info: CollectionInfo
    digest: str
    """Digest of the chunks' ids and contents, as in `CourseFingerprint.content`."""


class CourseTooLargeError(Exception):
    """The course does not fit into the cache (CACHE_MAX_MB)."""


def read_course(collection: CourseCollection, max_bytes: int | None = None) -> CourseContent:
    """Read a course from its collection.

    Args:
        collection: Of the course.
        max_bytes: Limit of the index's memory.

    Raises:
        CourseTooLargeError: Its index would exceed the limit, as estimated from the first page.
        CollectionNotFoundError: The collection was deleted.
        VectorStoreError: The vector store failed.
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
    """The index of a course. Its keyword index is loaded, or built and saved if there is none."""
    ids = tuple(record.chunk_id for record in content.records)
    try:
        keywords = keyword_store.load(course_id, content.digest)
        if keywords.chunk_ids == ids:
            return CourseIndex(content.records, content.vectors, keywords, content.info)
        reason = "it holds other chunks"
    except KeywordIndexError as error:
        reason = str(error)
    logger.info("Building the keyword index of course %s: %s", course_id, reason)
    keywords = KeywordIndexBuilder().add_all((record.chunk_id, record.text) for record in content.records).build()
    try:
        keyword_store.save(course_id, content.digest, keywords)
        keyword_store.keep_only(course_id, content.digest)
    except KeywordStoreError as error:
        logger.warning("The keyword index of course %s is rebuilt at every load: %s", course_id, error)
    return CourseIndex(content.records, content.vectors, keywords, content.info)


def _bytes(records: Sequence[Record], vectors: Vectors) -> int:
    """Estimated memory of an index; half of the estimate for texts is their keyword index."""
    return vectors.nbytes + sum(4 * len(record.text) for record in records) + _BYTES_PER_RECORD * len(records)


def _encoded(values: Sequence[str | None]) -> tuple[NDArray[np.int32], dict[str, int]]:
    """A code per value, -1 for None; comparing codes is a hundred times faster than comparing strings."""
    numbers: dict[str, int] = {}
    codes = [-1 if value is None else numbers.setdefault(value, len(numbers)) for value in values]
    return np.asarray(codes, dtype=np.int32), numbers


def _text(value: object) -> str | None:
    """A metadata value as text, for comparison with filter values."""
    return None if value is None else str(value)


def _section(record: Record) -> tuple[str | None, str | None]:
    return _text(record.metadata.get("lecture_id")), _text(record.metadata.get("section_id"))


def _place(record: Record) -> tuple[str, str, float, int, str]:
    """Sort key for reading order.

    Chunks without a numeric `order_in_section` come last, by id; numeric ids as numbers.
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
    """For each row whose text occurs more than once: the rows with that text."""
    rows: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        rows.setdefault(record.text, []).append(row)
    repeated = (tuple(same) for same in rows.values() if len(same) > 1)
    return {row: same for same in repeated for row in same}

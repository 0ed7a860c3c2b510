"""A published course in memory: vectors, records and keyword index.

A course index is read from the collection once and never changes: a new generation gets a new index. A course is small,
so a search compares the query with every chunk. That is exact and takes a fraction of the time of a request to Chroma.
A filter is a boolean mask over the chunks.
"""

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from embedding.engine.cpus import available_cpus
from embedding.vector_store.collections import CollectionInfo, CourseCollection
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models.fingerprint import FingerprintBuilder
from retrieval.fusion import Mask, Scores
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder, KeywordIndexError
from retrieval.keywords.store import KeywordStore, KeywordStoreError

logger = logging.getLogger(__name__)

FILTERS = ("section_id", "lecture_id", "source_type")
"""Metadata fields that a search can filter by."""
PARALLEL_FROM = 16_000_000
"""From this number of vector elements (chunks × dimensions) on, several threads compute the cosines of a course."""
PARALLEL_THREADS = min(4, available_cpus())
"""Memory bandwidth limits the matrix product, so more threads do not help."""
_BYTES_PER_RECORD = 2500
"""Measured memory of one chunk's metadata and Python objects, without its text and vector."""

_parallel_product_lock = threading.Lock()


@cache
def _thread_pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(PARALLEL_THREADS, thread_name_prefix="product")


@contextmanager
def one_thread_per_product() -> Iterator[None]:
    """Limit NumPy to one thread per matrix product, for an app that runs searches concurrently.

    By default, OpenBLAS spreads each product over all cores, and concurrent products wait for one another. Measured
    with eight clients and 5,000 chunks: 830 searches per second with the limit, 44 without.
    """
    with ThreadpoolController().select(internal_api="openblas").limit(limits=1):
        yield


class CourseIndex:
    """The chunks of a course, one row each, in the order of their ids. Threads may share it.

    Args:
        records: The chunks, sorted by id.
        vectors: Their unit vectors (chunks, dimensions).
        keywords: Their keyword index, with the same rows.
        info: The course and the embedding model of the collection.
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
        self._values = {name: _encode([_text(record.metadata.get(name)) for record in records]) for name in FILTERS}
        self._reading_order = sorted(range(len(records)), key=lambda row: _reading_order_key(records[row]))
        self._position = {row: position for position, row in enumerate(self._reading_order)}
        self._copies = _copies(records)

    def __len__(self) -> int:
        return len(self.records)

    @property
    def bytes(self) -> int:
        """Estimated memory in bytes."""
        return _bytes(self.records, self._vectors)

    def cosines(self, vector: Vectors, mask: Mask | None = None) -> Scores:
        """Cosine similarity of every chunk to a unit vector (dimensions,): (chunks,), -1.0 to 1.0.

        For chunks outside the mask, the value may be -1.0 instead.
        """
        if self._vectors.size < PARALLEL_FROM:
            cosines: Scores = self._vectors @ vector
        elif mask is not None and np.count_nonzero(mask) < len(self) // 8:
            cosines = np.full(len(self), -1, dtype=np.float32)
            cosines[mask] = self._vectors[mask] @ vector
        else:
            with _parallel_product_lock:  # one product already saturates the memory bandwidth
                parts = _thread_pool().map(lambda part: part @ vector, np.array_split(self._vectors, PARALLEL_THREADS))
                cosines = np.concatenate(list(parts))
        return np.clip(cosines, -1.0, 1.0, out=cosines)

    def mask(self, filters: Mapping[str, Sequence[str]]) -> Mask | None:
        """Mask (chunks,) of the chunks with an accepted value in every filtered field; None without filters."""
        mask: Mask | None = None
        for name, accepted in filters.items():
            codes, code_of = self._values[name]
            accepted_codes = [code_of[value] for value in accepted if value in code_of]
            matching = codes == accepted_codes[0] if len(accepted_codes) == 1 else np.isin(codes, accepted_codes)
            mask = matching if mask is None else mask & matching
        return mask

    def neighbours(self, row: int, distance: int) -> tuple[list[int], list[int]]:
        """Rows of up to `distance` chunks before and after a chunk in the same section, in reading order."""
        position = self._position[row]
        before = self._reading_order[max(0, position - distance) : position]
        after = self._reading_order[position + 1 : position + 1 + distance]
        section = _section(self.records[row])
        return (
            [other for other in before if _section(self.records[other]) == section],
            [other for other in after if _section(self.records[other]) == section],
        )

    def distinct(self, mask: Mask | None) -> Mask | None:
        """The mask restricted to one chunk for each text; None means that it selects all chunks."""
        if not self._copies:
            return mask
        distinct = np.ones(len(self), dtype=np.bool_) if mask is None else mask.copy()
        for row, copies in self._copies.items():
            if distinct[row] and any(copy < row and distinct[copy] for copy in copies):
                distinct[row] = False
        return distinct

    def copies(self, row: int) -> Sequence[int]:
        """Rows of all chunks with exactly the same text, including `row`."""
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
        collection: The course's collection.
        max_bytes: Maximum memory of the course index.

    Raises:
        CourseTooLargeError: The index would exceed `max_bytes`, as estimated from the first page.
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
    """Make a course index. Its keyword index is loaded from disk, or built and saved if no usable file exists."""
    ids = tuple(record.chunk_id for record in content.records)
    try:
        keywords = keyword_store.load(course_id, content.digest)
        if keywords.chunk_ids == ids:
            return CourseIndex(content.records, content.vectors, keywords, content.info)
        reason = "the saved one contains other chunks"
    except KeywordIndexError as error:
        reason = str(error)
    logger.info("Building the keyword index of course %s: %s", course_id, reason)
    keywords = KeywordIndexBuilder().add_all((record.chunk_id, record.text) for record in content.records).build()
    try:
        keyword_store.save(course_id, content.digest, keywords)
    except KeywordStoreError as error:
        logger.warning("The keyword index of course %s is rebuilt at every load: %s", course_id, error)
    return CourseIndex(content.records, content.vectors, keywords, content.info)


def _bytes(records: Sequence[Record], vectors: Vectors) -> int:
    """Estimated memory of a course index: 4 bytes per character, half of them for the keyword index."""
    return vectors.nbytes + sum(4 * len(record.text) for record in records) + _BYTES_PER_RECORD * len(records)


def _encode(values: Sequence[str | None]) -> tuple[NDArray[np.int32], dict[str, int]]:
    """One integer code per value, -1 for None, and the code of each value.

    Comparing codes is a hundred times faster than comparing strings.
    """
    code_of: dict[str, int] = {}
    codes = [-1 if value is None else code_of.setdefault(value, len(code_of)) for value in values]
    return np.asarray(codes, dtype=np.int32), code_of


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _section(record: Record) -> tuple[str | None, str | None]:
    return _text(record.metadata.get("lecture_id")), _text(record.metadata.get("section_id"))


def _reading_order_key(record: Record) -> tuple[str, str, float, int, str]:
    """Sort key for reading order: lecture, section, `order_in_section`, id.

    Chunks without a numeric `order_in_section` come last in their section. Ids of digits are ordered as numbers.
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
    """Maps each row whose text occurs more than once to all rows with that text."""
    rows: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        rows.setdefault(record.text, []).append(row)
    repeated = (tuple(same) for same in rows.values() if len(same) > 1)
    return {row: same for same in repeated for row in same}

"""A course in memory, as it was published: all that a search looks at (a *retrieval handle*).

It is read from the collection once and never changes: a new generation is another index. A course is small, so a search
compares the query with every chunk of it, which is exact and takes a fraction of what a question to Chroma takes; a
filter is a mask over the chunks.
"""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from embedding.records import Record
from embedding.vector_store import CollectionInfo, CourseCollection
from embedding.vectors import Vectors
from models.fingerprint import FingerprintBuilder
from retrieval.keyword_index import KeywordIndex, KeywordIndexBuilder, KeywordIndexError
from retrieval.keyword_store import KeywordStore, KeywordStoreError

logger = logging.getLogger(__name__)

FILTERS = ("section_id", "lecture_id", "source_type")
"""Metadata that a search can be limited to."""
_BYTES_PER_RECORD = 2500
"""What Python needs for the metadata of a chunk and the objects around it, measured."""

Mask = NDArray[np.bool_]


class CourseIndex:
    """The chunks of a course, by row: the rows are in the order of the chunks' ids. Threads may share it.

    Args:
        records: The chunks, by id.
        vectors: Their unit vectors, one row a record.
        keywords: The index of their texts; its rows are the same.
        info: What the collection says of its making.
        content: Digest of the ids and contents of the chunks, as in `CourseFingerprint.content`.
    """

    def __init__(
        self,
        records: Sequence[Record],
        vectors: Vectors,
        keywords: KeywordIndex,
        info: CollectionInfo,
        content: str,
    ) -> None:
        self.records = tuple(records)
        self.keywords = keywords
        self.info = info
        self.content = content
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
        texts = sum(len(record.text) for record in self.records)
        return self._vectors.nbytes + self.keywords.bytes + 2 * texts + _BYTES_PER_RECORD * len(self)

    def cosines(self, vector: Vectors) -> NDArray[np.float32]:
        """Cosine similarity of every chunk (chunks,) to a unit vector (dimensions,)."""
        cosines: NDArray[np.float32] = self._vectors @ vector
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

    def copies(self, row: int) -> Sequence[int]:
        """Rows of all chunks with the very same text, itself among them."""
        return self._copies.get(row, (row,))


def load_course_index(collection: CourseCollection, keyword_store: KeywordStore, course_id: str) -> CourseIndex:
    """Read a course from its collection, and its keyword index from its file; one that is missing is made and kept.

    Raises:
        CollectionNotFoundError: the course has no collection any more.
        VectorStoreError: the vector store failed.
    """
    pages = list(collection.contents())
    records = [record for page, _ in pages for record in page]
    order = sorted(range(len(records)), key=lambda row: records[row].chunk_id)
    vectors = np.concatenate([vectors for _, vectors in pages])[order] if pages else np.empty((0, 0), np.float32)
    records = [records[row] for row in order]
    content = _content(records)
    keywords = _keywords(records, keyword_store, course_id, content)
    return CourseIndex(records, vectors, keywords, collection.info, content)


def _content(records: Sequence[Record]) -> str:
    fingerprint = FingerprintBuilder()
    for record in records:
        fingerprint.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    return fingerprint.build("").content


def _keywords(records: Sequence[Record], store: KeywordStore, course_id: str, content: str) -> KeywordIndex:
    try:
        index = store.load(course_id, content)
        if index.chunk_ids == tuple(record.chunk_id for record in records):
            return index
        reason = "it holds other chunks"
    except KeywordIndexError as error:
        reason = str(error)
    logger.info("Making the keyword index of course %s: %s", course_id, reason)
    index = KeywordIndexBuilder().add_all((record.chunk_id, record.text) for record in records).build()
    try:
        store.save(course_id, content, index)
    except KeywordStoreError as error:
        logger.warning("The keyword index of course %s is made anew at every load: %s", course_id, error)
    return index


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


def _place(record: Record) -> tuple[str, str, float, str]:
    """Sorts chunks in reading order; those whose `order_in_section` is no number come last in their section."""
    lecture, section = _section(record)
    order = record.metadata.get("order_in_section")
    return lecture or "", section or "", float(order) if isinstance(order, int | float) else np.inf, record.chunk_id


def _copies(records: Sequence[Record]) -> dict[int, tuple[int, ...]]:
    """Row → the rows of the same text, for texts that occur more than once."""
    rows: dict[str, list[int]] = {}
    for row, record in enumerate(records):
        rows.setdefault(record.text, []).append(row)
    repeated = (tuple(same) for same in rows.values() if len(same) > 1)
    return {row: same for same in repeated for row in same}

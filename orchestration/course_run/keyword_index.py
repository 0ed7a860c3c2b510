"""The keyword index of a course in a run: built while the chunks are embedded, written, and read back.

If the chunks have not changed, the existing index is kept.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from embedding.vector_store.collections import CourseCollection
from models.fingerprint import CourseFingerprint
from models.tables import Chunk
from retrieval.keywords.index import KeywordIndexBuilder, KeywordIndexError
from retrieval.keywords.store import KeywordStore, index_from_collection

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeywordReport:
    """The keyword index of a course, after it was read back."""

    chunks: int
    """Number of chunks of the course."""
    indexed: int
    """Number of chunks in the index. Must equal `chunks`."""
    terms: int
    """Number of distinct terms."""
    bytes: int
    """Estimated memory of the index in the search app."""
    seconds: float
    """Time to build, write and read the index."""
    kept: bool
    """Whether an existing index was kept."""

    @property
    def complete(self) -> bool:
        """Whether every chunk of the course is in the index."""
        return self.indexed == self.chunks


class CourseKeywords:
    """Iterates over the pages of chunks of a course and builds their keyword index at the same time.

    It can be iterated several times; the last complete iteration counts.

    Args:
        store: The keyword indexes of all courses.
        course_id: The course.
        pages: All chunks of the course. Can be iterated several times.
        expected: Fingerprint of the chunks, read before this pass. If an index with this content exists, it is kept.
    """

    def __init__(
        self, store: KeywordStore, course_id: str, pages: Iterable[Sequence[Chunk]], expected: CourseFingerprint
    ) -> None:
        self._store = store
        self._course_id = course_id
        self._pages = pages
        self._existing = expected.content if self._is_usable(expected) else None
        self._builder: KeywordIndexBuilder | None = None
        self._seconds = 0.0

    def __iter__(self) -> Iterator[Sequence[Chunk]]:
        if self._existing:
            yield from self._pages
            return
        builder = KeywordIndexBuilder()
        for page in self._pages:
            started = time.perf_counter()
            builder.add_all((chunk.id, chunk.text or "") for chunk in page)
            self._seconds += time.perf_counter() - started
            yield page
        self._builder = builder

    def write(self, fingerprint: CourseFingerprint, collection: Callable[[], CourseCollection]) -> KeywordReport:
        """Write the index of the iterated chunks, unless it exists, and read it back.

        Args:
            fingerprint: Fingerprint of the iterated chunks.
            collection: Opens the collection of these chunks. The index is built from it if the chunks have changed
                since `expected` was computed.

        Raises:
            KeywordIndexError: The index cannot be read back.
            KeywordStoreError: The index cannot be written.
            VectorStoreError: The collection cannot be read.
        """
        started = time.perf_counter()
        kept = fingerprint.content == self._existing
        if not kept:
            built = self._builder.build() if self._builder else index_from_collection(collection(), fingerprint.content)
            self._store.save(self._course_id, fingerprint.content, built)
        index = self._store.load(self._course_id, fingerprint.content)
        return KeywordReport(
            chunks=fingerprint.chunks,
            indexed=len(index.chunk_ids),
            terms=index.terms,
            bytes=index.bytes,
            seconds=self._seconds + time.perf_counter() - started,
            kept=kept,
        )

    def _is_usable(self, fingerprint: CourseFingerprint) -> bool:
        try:
            index = self._store.load(self._course_id, fingerprint.content)
        except KeywordIndexError as error:
            logger.info("Building the keyword index of course %s: %s", self._course_id, error)
            return False
        return len(index.chunk_ids) == fingerprint.chunks

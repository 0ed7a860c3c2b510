"""The keyword index of a course in a run: built from the chunks that are being embedded, written and read back.

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
    """The keyword index of a course, as read back."""

    chunks: int
    """Chunks of the course."""
    indexed: int
    """Chunks in the index; equal to `chunks` unless something is wrong."""
    terms: int
    """Distinct terms."""
    bytes: int
    """Estimated memory it takes in the search app."""
    seconds: float
    """Time to build, write and read it."""
    kept: bool
    """Whether it existed before."""

    @property
    def complete(self) -> bool:
        """Whether every chunk of the course is in the index."""
        return self.indexed == self.chunks


class CourseKeywords:
    """Passes a course's pages of chunks through and builds their keyword index; can be iterated several times.

    Args:
        store: Where the index is kept.
        course_id: The course.
        pages: All of its chunks.
        expected: Their fingerprint a moment ago. If there is an index of it, no other is built.
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

    def write(self, passed: CourseFingerprint, collection: Callable[[], CourseCollection]) -> KeywordReport:
        """Write the index of the chunks that were passed through, unless it exists, and read it back.

        Args:
            passed: Fingerprint of those chunks.
            collection: Opens the collection that holds them. It is read if the chunks changed after `expected`.

        Raises:
            KeywordIndexError: The index cannot be read back.
            KeywordStoreError: It cannot be written.
            VectorStoreError: The collection cannot be read.
        """
        started = time.perf_counter()
        kept = passed.content == self._existing
        if not kept:
            built = self._builder.build() if self._builder else index_from_collection(collection(), passed.content)
            self._store.save(self._course_id, passed.content, built)
        index = self._store.load(self._course_id, passed.content)
        return KeywordReport(
            chunks=passed.chunks,
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

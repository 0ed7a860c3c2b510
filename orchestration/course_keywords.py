"""The keyword index of a course in a run: made of the chunks on their way into the collection, written and read back.

A course that holds what it held has its index already, and keeps it.
"""

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from embedding.vector_store import CourseCollection
from models.fingerprint import CourseFingerprint
from models.tables import Chunk
from retrieval.keyword_index import KeywordIndexBuilder, KeywordIndexError
from retrieval.keyword_store import KeywordStore, index_of

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class KeywordReport:
    """What the index of a course is, as read back."""

    chunks: int
    """Of the course."""
    indexed: int
    """Chunks in the index; equals `chunks` unless something is wrong."""
    terms: int
    """How many different ones."""
    bytes: int
    """Memory it takes in the search app, about."""
    seconds: float
    """For making, writing and reading it."""
    kept: bool
    """Whether it was there already."""

    @property
    def complete(self) -> bool:
        """Whether every chunk of the course is in it."""
        return self.indexed == self.chunks


class CourseKeywords:
    """A course's pages of chunks, for as many passes as are needed; makes the index of what passes by.

    Args:
        store: Keeps the index.
        course_id: The course.
        pages: All of its chunks.
        expected: What they were a moment ago: an index of that is not made anew.
    """

    def __init__(
        self, store: KeywordStore, course_id: str, pages: Iterable[Sequence[Chunk]], expected: CourseFingerprint
    ) -> None:
        self._store = store
        self._course_id = course_id
        self._pages = pages
        self._usable = expected.content if self._is_usable(expected) else None
        self._builder: KeywordIndexBuilder | None = None
        self._seconds = 0.0

    def __iter__(self) -> Iterator[Sequence[Chunk]]:
        if self._usable:
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
        """Write the index of what passed by, unless it is there, and read it back.

        Args:
            passed: What that was.
            collection: Holds it by now. It is read where stage one wrote to the course right after `expected`.

        Raises:
            KeywordIndexError: it cannot be read back.
            KeywordStoreError: it cannot be written.
            VectorStoreError: the collection cannot be read.
        """
        started = time.perf_counter()
        kept = passed.content == self._usable
        if not kept:
            made = self._builder.build() if self._builder else index_of(collection(), passed.content)
            self._store.save(self._course_id, passed.content, made)
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
            logger.info("The keyword index of course %s is made: %s", self._course_id, error)
            return False
        return len(index.chunk_ids) == fingerprint.chunks

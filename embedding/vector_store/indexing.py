"""A course's chunks → its collection, touching only what changed.

Every record carries hashes of the chunk it was made from, so a second pass embeds new and changed texts alone, rewrites
metadata where nothing else changed, drops what vanished and leaves the rest. Interrupted half way, the next pass finds
what is missing in the same manner. The cost grows with the change; memory holds a page of chunks and a number a chunk.

What is written is read back, and what is not as it should be is taken out again: a record that is there is right.
Vectors of different models cannot be compared: when the model changes, the collection is built anew.
"""

import logging
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress

import numpy as np

from embedding.interface import Embedder
from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.records import Hashes, Record
from embedding.vectors import are_sound
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk
from models.text import is_unicode

EMBED_BATCH = 64
"""Texts embedded and written at a time: a unit of progress, and what an interruption costs."""
SAMPLE_SIZE = 5

logger = logging.getLogger(__name__)


class EmptyCourseError(Exception):
    """The course has no chunks, so there is nothing to search; has stage one written them?"""


class UnusableChunkError(Exception):
    """A chunk that no collection can hold; the message says which."""


@dataclass(frozen=True)
class VectorCheck:
    """What the vectors turned out to be."""

    dimensions: int
    """Of the collection, as read back from it."""
    expected_dimensions: int
    """Of the model."""
    checked: int
    """Records that this pass wrote and read back; those it kept were checked by the pass that wrote them."""
    unsound: int
    """How many of them had a vector that is not finite or not of length one, or did not read back as they were."""


@dataclass(frozen=True)
class IndexReport:
    """What one pass over a course did."""

    fingerprint: CourseFingerprint
    """Of the chunks that were read: what the collection now holds."""
    stored: int
    """Documents in the collection afterwards; equals `fingerprint.chunks` unless something else wrote to it."""
    embedded: int
    """Chunks whose text was new or another."""
    updated: int
    """Chunks whose text was the same and whose metadata was not."""
    removed: int
    truncated: int
    """How many embedded texts were cut to the model's token limit."""
    tokens: int
    seconds: float
    rebuilt: bool
    """Whether a collection had to be deleted first: broken, or made with another model."""
    token_counts: Sequence[int]
    """Tokens of each embedded text."""
    sample: tuple[Record, ...]
    """The first few records of the course."""
    vectors: VectorCheck

    @property
    def kept(self) -> int:
        """Chunks that were as they should be."""
        return self.fingerprint.chunks - self.embedded - self.updated

    @property
    def complete(self) -> bool:
        """Whether the collection holds exactly the chunks of the course."""
        return self.stored == self.fingerprint.chunks

    @property
    def sound(self) -> bool:
        """Whether the vectors are right."""
        return self.vectors.unsound == 0 and self.vectors.dimensions == self.vectors.expected_dimensions


def index_course(
    course_id: str,
    pages: Iterable[Sequence[Chunk]],
    store: VectorStore,
    embedder: Embedder,
    on_page: Callable[[int], None],
    *,
    before_write: Callable[[], None] = lambda: None,
) -> IndexReport:
    """Bring the course's collection in line with its chunks.

    A collection that cannot be read any more, because Chroma was killed while it wrote, is built anew, once.

    Args:
        course_id: The course.
        pages: All of its chunks, in id order. They are read from the start again when a broken collection has to be
            built anew; an iterator can be read but once, so it leaves that to the next call.
        store: Holds the collection.
        embedder: Turns texts into vectors.
        on_page: Called after each page and each batch with the number of chunks finished so far; may raise to stop.
        before_write: Called right before every attempt to write; raises when the collection is no longer ours.

    Raises:
        EmptyCourseError: there are no chunks; the collection is left as it was.
        UnusableChunkError: a chunk has no proper id.
        EmbeddingError: the model failed.
        VectorStoreError: the vector store failed.
    """
    index = partial(_index, course_id, pages, store, embedder, on_page=on_page, before_write=before_write)
    try:
        return index()
    except VectorStoreUnreachableError:
        raise
    except VectorStoreError as error:
        if iter(pages) is pages or not store.is_broken(course_id):
            raise
        logger.warning("The collection of course %s is broken and is built anew: %s", course_id, error)
    store.delete(course_id, before_write)
    return replace(index(), rebuilt=True)


def _index(
    course_id: str,
    pages: Iterable[Sequence[Chunk]],
    store: VectorStore,
    embedder: Embedder,
    *,
    on_page: Callable[[int], None],
    before_write: Callable[[], None],
) -> IndexReport:
    started = time.perf_counter()
    rest = iter(pages)
    first = next(rest, None)
    if not first:
        raise EmptyCourseError(f"Course {course_id} has no chunks: nothing to embed until stage one writes some")
    wanted = CollectionInfo(course_id, embedder.name, embedder.signature)
    collection = store.create(wanted, before_write)
    rebuilt = collection.info != wanted
    if rebuilt:
        logger.info("Course %s was embedded with another model (%s): building it anew", course_id, collection.info)
        store.delete(course_id, before_write)
        collection = store.create(wanted, before_write)
    work = _Pass(collection, embedder, on_page)
    for page in chain([first], rest):
        work.take(page)
    work.remove_vanished()
    return work.report(rebuilt=rebuilt, seconds=time.perf_counter() - started)


class _Pass:
    """One walk over a course's chunks: what it has seen and done so far."""

    def __init__(self, collection: CourseCollection, embedder: Embedder, on_page: Callable[[int], None]) -> None:
        self._collection = collection
        self._embedder = embedder
        self._on_page = on_page
        self._fingerprint = FingerprintBuilder()
        self._seen = array("q")
        self._sample: list[Record] = []
        self._token_counts = array("I")
        self._finished = self._updated = self._removed = self._truncated = self._unsound = 0

    def take(self, page: Sequence[Chunk]) -> None:
        """Bring the records of these chunks in line."""
        records = [_record(chunk, self._fingerprint) for chunk in page]
        chunk_ids = [record.chunk_id for record in records]
        self._seen.extend(map(hash, chunk_ids))
        self._sample += records[: SAMPLE_SIZE - len(self._sample)]
        held = self._collection.hashes(chunk_ids)
        outdated = [record for record in records if _held(held, record).content != record.content_hash]
        to_update = [record for record in outdated if _held(held, record).text == record.text_hash]
        to_embed = [record for record in outdated if _held(held, record).text != record.text_hash]
        self._update(to_update)
        self._finish(len(records) - len(to_embed))
        for start in range(0, len(to_embed), EMBED_BATCH):
            batch = to_embed[start : start + EMBED_BATCH]
            self._embed(batch)
            self._finish(len(batch))

    def remove_vanished(self) -> None:
        """Remove what the collection holds beyond the chunks seen. It holds all of those, so their number tells."""
        if self._collection.count() <= self._finished - self._unsound:
            return
        seen = np.array(self._seen)
        for chunk_ids in self._collection.chunk_ids():
            is_seen = np.isin(list(map(hash, chunk_ids)), seen)
            vanished = list(compress(chunk_ids, ~is_seen))
            self._collection.remove(vanished)
            self._removed += len(vanished)

    def report(self, *, rebuilt: bool, seconds: float) -> IndexReport:
        """What was done, and what the collection holds now."""
        return IndexReport(
            fingerprint=self._fingerprint.build(self._embedder.signature),
            stored=self._collection.count(),
            embedded=len(self._token_counts),
            updated=self._updated,
            removed=self._removed,
            truncated=self._truncated,
            tokens=sum(self._token_counts),
            seconds=seconds,
            rebuilt=rebuilt,
            token_counts=self._token_counts,
            sample=tuple(self._sample),
            vectors=VectorCheck(
                dimensions=self._collection.dimensions(),
                expected_dimensions=self._embedder.dimensions,
                checked=len(self._token_counts) + self._updated,
                unsound=self._unsound,
            ),
        )

    def _finish(self, chunks: int) -> None:
        if chunks:
            self._finished += chunks
            self._on_page(self._finished)

    def _update(self, records: Sequence[Record]) -> None:
        self._collection.update(records)
        self._take_out(self._collection.differing(records))
        self._updated += len(records)

    def _embed(self, records: Sequence[Record]) -> None:
        embeddings = self._embedder.embed_documents([record.text for record in records])
        is_sound = are_sound(embeddings.vectors, self._embedder.dimensions)
        sound, vectors = list(compress(records, is_sound)), embeddings.vectors[is_sound]
        self._collection.upsert(sound, vectors)
        unsound = [record.chunk_id for record in compress(records, ~is_sound)]
        self._take_out(unsound + self._collection.differing(sound, vectors))
        self._token_counts.extend(embeddings.token_counts)
        self._truncated += embeddings.truncated

    def _take_out(self, chunk_ids: list[str]) -> None:
        """Remove records that are not right: kept, they would pass for finished the next time."""
        if chunk_ids:
            logger.error("%d records are not as they should be, the first of chunk %r", len(chunk_ids), chunk_ids[0])
            self._collection.remove(chunk_ids)
            self._unsound += len(chunk_ids)


def _record(chunk: Chunk, fingerprint: FingerprintBuilder) -> Record:
    if not chunk.id or not is_unicode(chunk.id):
        raise UnusableChunkError(f"A chunk of course {chunk.course_id} has no proper id: {chunk.id!r}")
    metadata = dict(chunk.extra or {}) | {
        "course_id": chunk.course_id,
        "lecture_id": chunk.lecture_id,
        "section_id": chunk.section_id,
        "source_type": chunk.source_type,
        "language": chunk.language,
    }
    return Record(chunk.id, chunk.text or "", metadata, fingerprint.add(chunk))  # stage one's column may allow NULL


def _held(hashes: Mapping[str, Hashes], record: Record) -> Hashes:
    return hashes.get(record.chunk_id, Hashes("", ""))

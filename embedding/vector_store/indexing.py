"""Brings a course's collection in line with its chunks, and writes only the differences.

Every record is stored with hashes of its chunk. A pass over the chunks embeds texts that are new, changed or
in a changed context, updates changed metadata, and removes records whose chunk no longer exists. After an interruption
the next pass embeds only what is missing. The cost grows with the number of changes; memory holds one page of chunks,
and two integers per chunk.

A text is embedded once: chunks with the same text and context get the same vector, and a text that this course or
another has already is not embedded again (`embedding.vector_store.embedded_texts`).

A pass reads back every record it writes, and removes records that differ. Records of a batch whose check was
interrupted are kept unchecked. Vectors of different models cannot be compared, so a collection is rebuilt if the model
has changed.
"""

import logging
import time
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, compress

import numpy as np

from embedding.interface import Embedder, Embeddings
from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.damage import find_damaged
from embedding.vector_store.embedded_texts import EmbeddedTexts
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.records import Hashes, Record
from embedding.vectors import Vectors, are_sound
from models.context import NO_CONTEXT, VECTOR_WEIGHT, ContextFields, weighted_titles
from models.fingerprint import CourseFingerprint, FingerprintBuilder, chunk_hash
from models.tables import Chunk
from models.text import is_unicode
from telemetry.traces import span

EMBED_BATCH = 64
"""Texts embedded and written together. Progress is reported per batch; an interruption loses one batch."""

logger = logging.getLogger(__name__)


class EmptyCourseError(Exception):
    """The course has no chunks, because stage one has not written any."""


class UnusableChunkError(Exception):
    """A chunk's id cannot be stored in a collection; the message contains the id."""


@dataclass(frozen=True)
class VectorCheck:
    """The result of reading back the vectors that were written."""

    dimensions: int
    """Dimensions of the collection's vectors."""
    expected_dimensions: int
    """Dimensions of the model's vectors."""
    checked: int
    """Number of records written by this pass. Kept records were checked by the pass
    that wrote them, unless it was interrupted."""
    unsound: int
    """Number of checked records whose vector is not a finite unit vector, or that differ when read back."""


@dataclass(frozen=True)
class IndexReport:
    """The result of one pass over a course."""

    fingerprint: CourseFingerprint
    """Fingerprint of the chunks that were read."""
    stored: int
    """Number of documents in the collection after the pass."""
    embedded: int
    """Number of texts that were embedded: new ones, changed ones and those in a changed context."""
    reused: int
    """Number of chunks that got the vector of an equal text, of this course or of another."""
    reused_from_other_courses: int
    """Those of them whose vector is from the collection of another course."""
    updated: int
    """Number of chunks of which only the metadata had changed."""
    removed: int
    """Number of removed records whose chunk no longer exists."""
    truncated: int
    """Number of embedded texts that were truncated to the model's token limit."""
    tokens: int
    """Tokens of all embedded texts together."""
    seconds: float
    rebuilt: bool
    """Whether the previous collection was deleted, because it was damaged or made with another model."""
    token_counts: Sequence[int]
    """Tokens of each embedded text."""
    vectors: VectorCheck

    @property
    def kept(self) -> int:
        """Number of chunks that had not changed."""
        return self.fingerprint.chunks - self.embedded - self.reused - self.updated

    @property
    def complete(self) -> bool:
        """Whether the collection holds as many documents as the course has chunks."""
        return self.stored == self.fingerprint.chunks

    @property
    def sound(self) -> bool:
        """Whether no checked vector is unsound, and the dimensions are those of the model."""
        return self.vectors.unsound == 0 and self.vectors.dimensions == self.vectors.expected_dimensions


def index_course(
    course_id: str,
    pages: Iterable[Sequence[Chunk]],
    store: VectorStore,
    embedder: Embedder,
    on_page: Callable[[int], None],
    *,
    context_fields: ContextFields = NO_CONTEXT,
    embedded_texts: EmbeddedTexts | None = None,
    before_write: Callable[[], None] = lambda: None,
) -> IndexReport:
    """Bring the course's collection in line with its chunks.

    If the collection is certainly damaged (`find_damaged`), because Chroma was killed while it wrote, it is deleted and
    built again, once.

    Args:
        course_id: The course.
        pages: All of the course's chunks, in pages, ordered by id. To rebuild a damaged collection they are iterated
            twice; if they are an iterator, which allows one iteration, the error is raised instead.
        store: The vector store.
        embedder: The embedding model.
        on_page: Called after each page and each batch with the number of finished chunks; it may raise to stop.
        context_fields: What is embedded and indexed with the texts.
        embedded_texts: Where vectors of texts are that were embedded before; None to embed all new texts.
        before_write: Called before every attempt to write; it raises if the caller no longer owns the course.

    Raises:
        EmptyCourseError: There are no chunks; the collection is unchanged.
        UnusableChunkError: A chunk's id is empty or not valid Unicode.
        EmbeddingError: The model failed.
        VectorStoreUnhealthyError: The collection cannot be read, but the server seems to be the cause.
        VectorStoreError: The vector store failed.
    """
    index = partial(
        _index,
        course_id,
        pages,
        store,
        embedder,
        context_fields,
        embedded_texts=embedded_texts,
        on_page=on_page,
        before_write=before_write,
    )
    try:
        return index()
    except VectorStoreUnreachableError:
        raise
    except VectorStoreError as error:
        if iter(pages) is pages or course_id not in find_damaged(store, [course_id]):
            raise
        logger.warning("The collection of course %s is damaged and is rebuilt: %s", course_id, error)
    store.delete(course_id, before_write)
    return replace(index(), rebuilt=True)


def _index(
    course_id: str,
    pages: Iterable[Sequence[Chunk]],
    store: VectorStore,
    embedder: Embedder,
    context_fields: ContextFields,
    *,
    embedded_texts: EmbeddedTexts | None,
    on_page: Callable[[int], None],
    before_write: Callable[[], None],
) -> IndexReport:
    started = time.perf_counter()
    remaining_pages = iter(pages)
    first_page = next(remaining_pages, None)
    if not first_page:
        raise EmptyCourseError(f"Course {course_id} has no chunks: nothing to embed until stage one writes some")
    expected_info = CollectionInfo(course_id, embedder.name, embedder.signature)
    with suppress(CollectionNotFoundError):
        store.adopt_copy(course_id)  # `course-search forget` was killed before it could
    collection = store.create(expected_info, before_write)
    info = collection.info
    rebuilt = (info.course_id, info.model_signature) != (course_id, embedder.signature)
    if rebuilt:
        logger.info("The collection of course %s is of another model (%s) and is rebuilt", course_id, info)
        store.delete(course_id, before_write)
        collection = store.create(expected_info, before_write)
    indexing = _IndexingPass(collection, embedder, context_fields, embedded_texts, on_page)
    for page in chain([first_page], remaining_pages):
        indexing.process(page)
    indexing.remove_deleted()
    return indexing.report(rebuilt=rebuilt, seconds=time.perf_counter() - started)


class _IndexingPass:
    """One pass over a course's chunks, with its results so far."""

    def __init__(
        self,
        collection: CourseCollection,
        embedder: Embedder,
        context_fields: ContextFields,
        embedded_texts: EmbeddedTexts | None,
        on_page: Callable[[int], None],
    ) -> None:
        self._collection = collection
        self._embedder = embedder
        self._context_fields = context_fields
        self._embedded_texts = embedded_texts
        self._on_page = on_page
        self._fingerprint = FingerprintBuilder()
        self._id_hashes = array("q")
        self._token_counts = array("I")
        self._finished = self._updated = self._removed = self._truncated = self._unsound = 0
        self._reused = self._reused_from_other_courses = 0

    def process(self, page: Sequence[Chunk]) -> None:
        """Write the records of new and changed chunks."""
        records = [record_of(chunk, self._context_fields.of(chunk)) for chunk in page]
        for record in records:
            self._fingerprint.add_hashed(record.chunk_id, record.content_hash, len(record.text))
        chunk_ids = [record.chunk_id for record in records]
        self._id_hashes.extend(map(hash, chunk_ids))
        stored = self._collection.hashes(chunk_ids)
        changed = [record for record in records if _stored_hashes(stored, record).content != record.content_hash]
        to_update = [record for record in changed if _stored_hashes(stored, record).text == record.text_hash]
        to_embed = [record for record in changed if _stored_hashes(stored, record).text != record.text_hash]
        self._update(to_update)
        self._finish(len(records) - len(to_embed))
        by_text: dict[tuple[str, str], list[Record]] = {}
        for record in to_embed:
            by_text.setdefault((record.text_hash, record.context), []).append(record)
        new = self._reuse(list(by_text.values()))
        for start in range(0, len(new), EMBED_BATCH):
            batch = new[start : start + EMBED_BATCH]
            with span("batch", texts=len(batch)):
                self._embed(batch)
            self._finish(sum(map(len, batch)))
        if self._embedded_texts:
            self._embedded_texts.record(records, self._embedder.signature)

    def remove_deleted(self) -> None:
        """Remove records whose chunk no longer exists.

        The collection holds every processed chunk that is not unsound, so it holds further records only if its count is
        higher.
        """
        id_hashes = np.array(self._id_hashes)

        def deleted_of(chunk_ids: Sequence[str]) -> list[str]:
            exists = np.isin(list(map(hash, chunk_ids)), id_hashes)
            return list(compress(chunk_ids, ~exists))

        if self._collection.count() > self._finished - self._unsound:
            for chunk_ids in self._collection.chunk_ids():
                deleted = deleted_of(chunk_ids)
                self._collection.remove(deleted)
                self._removed += len(deleted)
        if self._embedded_texts:
            self._embedded_texts.remove_deleted(self._finished, deleted_of)

    def report(self, *, rebuilt: bool, seconds: float) -> IndexReport:
        """The results, with the present count and dimensions of the collection."""
        return IndexReport(
            fingerprint=self._fingerprint.build(self._embedder.signature),
            stored=self._collection.count(),
            embedded=len(self._token_counts),
            reused=self._reused,
            reused_from_other_courses=self._reused_from_other_courses,
            updated=self._updated,
            removed=self._removed,
            truncated=self._truncated,
            tokens=sum(self._token_counts),
            seconds=seconds,
            rebuilt=rebuilt,
            token_counts=self._token_counts,
            vectors=VectorCheck(
                dimensions=self._collection.dimensions(),
                expected_dimensions=self._embedder.dimensions,
                checked=len(self._token_counts) + self._reused + self._updated,
                unsound=self._unsound,
            ),
        )

    def _finish(self, chunks: int) -> None:
        if chunks:
            self._finished += chunks
            self._on_page(self._finished)

    def _update(self, records: Sequence[Record]) -> None:
        self._collection.update(records)
        self._remove_unsound(self._collection.find_mismatches(records))
        self._updated += len(records)

    def _reuse(self, texts: list[list[Record]]) -> list[list[Record]]:
        """Write the records whose text was embedded before, and return the others.

        Args:
            texts: The records of each text.
        """
        if not texts or not self._embedded_texts:
            return texts
        with span("reuse", texts=len(texts)):
            found = self._embedded_texts.find(
                [records[0] for records in texts], self._embedder.signature, self._embedder.dimensions
            )
            reused = [(records, source) for records, source in zip(texts, found, strict=True) if source]
            if not reused:
                return texts
            self._write([records for records, _ in reused], np.stack([source.vector for _, source in reused]))
        own = self._collection.info.course_id
        chunks = sum(len(records) for records, _ in reused)
        self._reused += chunks
        self._reused_from_other_courses += sum(len(records) for records, source in reused if source.course_id != own)
        self._finish(chunks)
        return [records for records, source in zip(texts, found, strict=True) if not source]

    def _embed(self, texts: Sequence[Sequence[Record]]) -> None:
        """Embed texts, each with all of its records."""
        embeddings = embed_in_context([records[0] for records in texts], self._embedder)
        self._write(texts, embeddings.vectors)
        self._token_counts.extend(embeddings.token_counts)
        self._truncated += embeddings.truncated
        self._reused += sum(map(len, texts)) - len(texts)

    def _write(self, texts: Sequence[Sequence[Record]], vectors: Vectors) -> None:
        """Write the records of each text with its vector (texts, dimensions), and read them back."""
        records = list(chain.from_iterable(texts))
        vectors = np.repeat(vectors, list(map(len, texts)), axis=0)
        is_sound = are_sound(vectors, self._embedder.dimensions)
        sound, vectors = list(compress(records, is_sound)), vectors[is_sound]
        self._collection.upsert(sound, vectors)
        unsound = [record.chunk_id for record in compress(records, ~is_sound)]
        self._remove_unsound(unsound + self._collection.find_mismatches(sound, vectors))

    def _remove_unsound(self, chunk_ids: list[str]) -> None:
        """Remove records that were not stored correctly; otherwise the next pass would keep them."""
        if chunk_ids:
            logger.error("%d records were not stored correctly; the first is of chunk %r", len(chunk_ids), chunk_ids[0])
            self._collection.remove(chunk_ids)
            self._unsound += len(chunk_ids)


def embed_in_context(records: Sequence[Record], embedder: Embedder) -> Embeddings:
    """Embed texts with their contexts: the direction of the weighted sum of the vectors of a text and of its titles.

    So a title moves the vector by a fixed, small angle, whatever the lengths, and takes no tokens from the text. The
    vector of a text without a context is that of the text. Titles are not in the counts of the result.

    Raises:
        EmbeddingError: The model failed, or a vector is not finite.
    """
    embeddings = embedder.embed_documents([record.text for record in records])
    titles = [dict(weighted_titles(record.context)) for record in records]
    distinct = list(dict.fromkeys(chain.from_iterable(titles)))
    if not distinct:
        return embeddings
    title_vectors = dict(zip(distinct, embedder.embed_documents(distinct).vectors, strict=True))
    vectors = embeddings.vectors.copy()
    for row, weights in enumerate(titles):
        if weights:
            shift = sum(weight * title_vectors[title] for title, weight in weights.items())
            combined = vectors[row] + VECTOR_WEIGHT * shift
            # The length is kept, so that an unsound vector remains unsound.
            vectors[row] = combined * (np.linalg.norm(vectors[row]) / np.linalg.norm(combined))
    return replace(embeddings, vectors=vectors)


def record_of(chunk: Chunk, context: str) -> Record:
    """The record of a chunk in this context.

    Raises:
        UnusableChunkError: The chunk's id cannot be stored.
    """
    if not chunk.id or not is_unicode(chunk.id):
        raise UnusableChunkError(f"A chunk of course {chunk.course_id} has an unusable id: {chunk.id!r}")
    metadata = dict(chunk.extra or {}) | {
        "course_id": chunk.course_id,
        "lecture_id": chunk.lecture_id,
        "section_id": chunk.section_id,
        "source_type": chunk.source_type,
        "language": chunk.language,
    }
    text = chunk.text or ""  # stage one's column may allow NULL
    return Record(chunk.id, text, metadata, chunk_hash(chunk, context), context)


def _stored_hashes(hashes: Mapping[str, Hashes], record: Record) -> Hashes:
    return hashes.get(record.chunk_id, Hashes("", ""))

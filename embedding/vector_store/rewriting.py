"""Writes the collection of a course anew, with the present chunks only and without embedding them.

Chroma keeps the texts of deleted records in its log until about 1,000 further records were written to the collection,
and their vectors in its index as long as the collection exists. Nothing of them is left when the collection was
replaced, and the free pages of Chroma's database were purged (`embedding.vector_store.purge`).

The copy is written while the collection is searched, and replaces it within milliseconds. If the process is killed in
between, the next run of the course adopts the copy, so no vector is lost.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from embedding.vector_store.collections import CourseCollection, StoredVector, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError
from embedding.vector_store.indexing import record_of
from embedding.vector_store.records import Record
from embedding.vectors import are_sound
from models.context import FORGOTTEN, NO_CONTEXT, ContextFields
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk


@dataclass(frozen=True)
class CollectionCopy:
    """A copy of a collection, without the records whose text is not that of a present chunk."""

    collection: CourseCollection
    """The copy."""
    fingerprint: CourseFingerprint
    """Fingerprint of the records in the copy, and of the collection's model."""
    removed: int
    """Number of records of the collection that are not in the copy."""
    missing: int
    """Number of chunks that are not in the copy, because the collection has no vector of their text."""


def copy_present_chunks(
    course_id: str,
    pages: Iterable[Sequence[Chunk]],
    store: VectorStore,
    on_page: Callable[[int], None],
    context_fields: ContextFields = NO_CONTEXT,
) -> CollectionCopy | None:
    """Write the copy of the course's collection that `VectorStore.replace_by_copy` puts in its place.

    Ids, texts and metadata are those of the chunks; only the vectors are read from the collection. A vector that
    was made with another context than the chunk has now is kept, because its text is the same; the former context is
    not. The hashes of such a record show that its chunk must be embedded again.

    Args:
        course_id: The course.
        pages: All of the course's chunks, in pages.
        store: The vector store.
        on_page: Called after each page with its number of chunks.
        context_fields: Where the contexts of the chunks come from.

    Returns:
        None if the course has no collection.

    Raises:
        VectorStoreError: The collection cannot be read, or the copy cannot be written.
    """
    try:
        store.adopt_copy(course_id)
        collection = store.open(course_id)
    except CollectionNotFoundError:
        return None
    copy = store.create_copy(course_id, collection.info)
    try:
        return _fill(copy, collection, pages, on_page, context_fields)
    except BaseException:
        with suppress(VectorStoreError):
            store.discard_copy(course_id, copy)
        raise


def _fill(
    copy: CourseCollection,
    collection: CourseCollection,
    pages: Iterable[Sequence[Chunk]],
    on_page: Callable[[int], None],
    context_fields: ContextFields,
) -> CollectionCopy:
    content, missing = FingerprintBuilder(), 0
    for page in pages:
        stored = collection.stored_vectors([chunk.id for chunk in page])
        kept = [
            (record, stored[chunk.id].vector)
            for chunk in page
            if chunk.id in stored and (record := _record_with(stored[chunk.id], chunk, context_fields.of(chunk)))
        ]
        missing += len(page) - len(kept)
        if kept:
            records = [record for record, _ in kept]
            rows = np.stack([vector for _, vector in kept])
            copy.upsert(records, rows)
            if wrong := copy.find_mismatches(records, rows):
                raise VectorStoreError(
                    f"Chroma did not store {len(wrong)} records correctly; the first is {wrong[0]!r}"
                )
            for record in records:
                content.add_hashed(record.chunk_id, record.content_hash, len(record.text))
        on_page(len(page))
    fingerprint = content.build(collection.info.model_signature)
    return CollectionCopy(copy, fingerprint, collection.count() - fingerprint.chunks, missing)


def _record_with(stored: StoredVector, chunk: Chunk, context: str) -> Record | None:
    """The record of the chunk with the stored vector; None if that is not of the chunk's text, or unsound."""
    if record_of(chunk, stored.context).text_hash != stored.text_hash:
        return None
    if not are_sound(stored.vector[None], len(stored.vector)).all():
        return None
    return record_of(chunk, stored.context if stored.context in ("", context) else FORGOTTEN)

"""Builds the snapshot of a course from its collection."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from embedding.vector_store.collections import CollectionInfo, CourseCollection
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from retrieval.snapshots.file import Arrays
from retrieval.snapshots.snapshot import CourseSnapshot, snapshot_arrays


@dataclass(frozen=True)
class BuiltSnapshot:
    """The content of a snapshot that is not yet a file."""

    arrays: Arrays
    info: CollectionInfo
    generation: int
    fingerprint: CourseFingerprint
    """Of the chunks and the model of the collection that was read."""

    def is_of(self, published: CourseFingerprint) -> bool:
        """Whether this is the published content, embedded with the published model."""
        return (self.fingerprint.content, self.fingerprint.model) == (published.content, published.model)

    def in_memory(self) -> CourseSnapshot:
        """The snapshot without a file."""
        return CourseSnapshot(self.arrays, self.info, self.generation)


def build_snapshot(
    collection: CourseCollection, generation: int, on_page: Callable[[], object] = lambda: None
) -> BuiltSnapshot:
    """Read a whole collection and build the snapshot of its content.

    Args:
        collection: The course's collection.
        generation: The generation of the course.
        on_page: Called after each page, because reading 50,000 chunks takes many seconds.

    Raises:
        CollectionNotFoundError: The collection was deleted.
        VectorStoreError: The vector store failed.
    """
    records: list[Record] = []
    pages: list[Vectors] = []
    for page, vectors in collection.contents():
        records += page
        pages.append(vectors)
        on_page()
    fingerprint = FingerprintBuilder()
    for record in records:
        fingerprint.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    order = sorted(range(len(records)), key=lambda row: records[row].chunk_id)
    vectors = np.empty((len(records), pages[0].shape[1] if pages else 0), dtype=np.float32)
    np.concatenate(pages, out=vectors) if pages else None
    info = collection.info
    return BuiltSnapshot(
        snapshot_arrays([records[row] for row in order], vectors[order]),
        info,
        generation,
        fingerprint.build(info.model_signature),
    )

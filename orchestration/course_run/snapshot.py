"""The snapshot of a course in a run: built from the collection that was just written, and read back."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnreachableError
from models.fingerprint import CourseFingerprint
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.store import SnapshotError, SnapshotStore


@dataclass(frozen=True)
class SnapshotReport:
    """The snapshot of a course, after it was read back."""

    chunks: int
    """Number of chunks of the course."""
    stored: int
    """Number of chunks in the snapshot."""
    complete: bool
    """Whether the snapshot contains exactly the chunks of the course, and its file is not damaged."""
    terms: int
    """Number of distinct terms."""
    bytes: int
    """Size of the file."""
    seconds: float
    """Time to build, write and read the snapshot."""
    kept: bool
    """Whether an existing snapshot was kept."""


def keep_published(
    store: SnapshotStore,
    course_id: str,
    published: CourseFingerprint | None,
    vector_store: VectorStore,
    *,
    generation: int,
    on_page: Callable[[], object],
) -> None:
    """Write the snapshot of what is published, if there is none: it answers while the collection changes.

    After an upgrade that changes the files of snapshots, the search app has perhaps not yet come to this course.

    Args:
        store: The snapshots of all courses.
        course_id: The course.
        published: The published content; None if there is none.
        vector_store: The collections.
        generation: The published generation.
        on_page: Called after each page that is read.

    Raises:
        SnapshotStoreError: The file cannot be written.
        VectorStoreUnreachableError: The vector store is unavailable.
    """
    if published is None or store.find(course_id, published, generation) is not None:
        return
    try:
        collection = vector_store.open(course_id)
        if (collection.info.model_signature, collection.count()) != (published.model, published.chunks):
            return
        built = build_snapshot(collection, generation, on_page)
    except VectorStoreUnreachableError:
        raise
    except VectorStoreError:  # it is missing or damaged, and will be built again
        return
    if built.is_of(published):
        store.save(course_id, built)


def write_snapshot(
    store: SnapshotStore,
    course_id: str,
    content: CourseFingerprint,
    collection: CourseCollection,
    *,
    generation: int,
    keep: bool,
    on_page: Callable[[], object],
) -> SnapshotReport:
    """Write the snapshot of a course.

    Args:
        store: The snapshots of all courses.
        course_id: The course.
        content: The fingerprint that the collection must have.
        collection: The collection.
        generation: The generation that is going to be published.
        keep: Keep an existing snapshot with this fingerprint; false if the vectors may be others.
        on_page: Called after each page that is read.

    Raises:
        SnapshotError: The file cannot be read back.
        SnapshotStoreError: The file cannot be written.
        VectorStoreError: The collection cannot be read.
    """
    started = time.perf_counter()
    if keep:
        with suppress(SnapshotError):
            report = _read_back(store, course_id, content, generation, started, kept=True)
            if report.complete:
                return report
    built = build_snapshot(collection, generation, on_page)
    if not built.is_of(content):
        return SnapshotReport(
            content.chunks, built.fingerprint.chunks, False, 0, 0, time.perf_counter() - started, kept=False
        )
    store.save(course_id, built)
    return _read_back(store, course_id, content, generation, started, kept=False)


def _read_back(
    store: SnapshotStore, course_id: str, content: CourseFingerprint, generation: int, started: float, *, kept: bool
) -> SnapshotReport:
    snapshot = store.open(course_id, content, generation)
    path = store.find(course_id, content, generation)
    if path is None:
        raise SnapshotError(f"The snapshot of course {course_id} was deleted by another program")
    return SnapshotReport(
        chunks=content.chunks,
        stored=len(snapshot),
        complete=len(snapshot) == content.chunks and not store.is_damaged(path),
        terms=len(snapshot.bm25.vocabulary),
        bytes=path.stat().st_size,
        seconds=time.perf_counter() - started,
        kept=kept,
    )

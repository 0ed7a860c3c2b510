"""Forgets the texts of a course that are no longer in its chunks: in the collection, the snapshots and Chroma's files.

An ordinary embedding removes a deleted text from every search, but Chroma keeps it on disk. Here the collection is
replaced by a copy of what is still in the catalogue. Nothing is embedded, and the course is searchable all the time:

1. The copy and its snapshot are made (`prepare`). The course is not claimed, because nothing that a search or a run
   uses changes.
2. The course is claimed, the collection replaced, and the new content published (`complete`). That is a few short
   requests at every size, because `course_status_sensor` takes the course from an owner that is no run of Dagster.
3. The former collection and the older snapshots are deleted.

A process that is killed has changed nothing in step 1. In step 2, the sensor has the course embedded again, which
completes this step: the run finds all vectors in the collection or in its copy. A repetition completes step 3.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError
from embedding.vector_store.rewriting import CollectionCopy, copy_present_chunks
from maintenance.ownership import compare_collections
from maintenance.progress import progress
from maintenance.rebuild import CourseRefusedError
from models import course_state
from models.chunks import chunk_page, each_page
from models.context import NO_CONTEXT, ContextFields
from models.course_state import FORGETTING, Retry
from models.courses import get_course
from models.database import Engine, Session, transaction
from models.embedded_texts import delete_texts
from models.fingerprint import CourseFingerprint
from models.messages import running_message
from models.questions import delete_questions
from models.tables import Chunk, Course, EmbeddingStatus
from retrieval.snapshots.build import BuiltSnapshot, build_snapshot
from retrieval.snapshots.store import SnapshotStore

NO_CHUNKS = "The course has no chunks: nothing is searchable until stage one writes some."


class ChangedMeanwhileError(Exception):
    """The course was published or claimed since the copy was written, so nothing was changed."""


@dataclass(frozen=True)
class Forgetting:
    """What is to be forgotten of a course."""

    course_id: str
    row: Course | None
    """The row before the copy was written; None if the course is not in the catalogue."""
    copy: CollectionCopy | None
    """The copy that replaces the collection; None if the course has no collection or no row."""
    records: int
    """Number of records to be forgotten."""
    snapshot: BuiltSnapshot | None = None
    """The snapshot of the copy."""
    objection: str = ""
    """Why the catalogue may be the wrong one, if the course is not in it."""


def prepare(
    engine: Engine,
    store: VectorStore,
    course_id: str,
    context_fields: ContextFields = NO_CONTEXT,
    *,
    is_stopped: bool = False,
) -> Forgetting:
    """Compare the collection with the chunks, and write the copy that is to replace it. Changes nothing else.

    Args:
        engine: The catalogue.
        store: The vector store.
        course_id: The course.
        context_fields: Where the contexts of the chunks come from. A context that is another one now is forgotten.
        is_stopped: No other process can use the vector store, so the owner of a course that was claimed here is dead.

    Raises:
        CourseRefusedError: The course is being embedded, or its collection is missing.
        VectorStoreError: The collection cannot be read, or the copy cannot be written.
        DatabaseUnavailableError: The catalogue is unavailable.
    """
    with transaction(engine) as session:
        row = get_course(session, course_id)
    if row is None:
        try:
            records = store.open(course_id).count()
        except CollectionNotFoundError:
            return Forgetting(course_id, None, None, 0)
        return Forgetting(course_id, None, None, records, objection=compare_collections(engine, store, 1).objection(1))
    if row.embedding_status == EmbeddingStatus.RUNNING:
        if not (row.embedding_run_id or "").startswith(FORGETTING):
            raise CourseRefusedError(running_message(course_id))
        if not is_stopped:
            raise CourseRefusedError(
                f"Course {course_id} was claimed by `course-search forget`, which still runs or was killed. In the "
                "second case the running product frees the course within a minute"
            )
    published = CourseFingerprint.parse(row.embedding_fingerprint)
    with progress(f"Copying {course_id}", published.chunks if published else 0) as advance:
        copy = copy_present_chunks(
            course_id, each_page(partial(_page, engine, course_id)), store, advance, context_fields
        )
    if copy is None:
        if published:
            raise CourseRefusedError(
                f"Course {course_id} has no collection. The pipeline embeds it, as `course-search embed` does"
            )
        return Forgetting(course_id, row, None, 0)
    try:
        snapshot = build_snapshot(copy.collection, row.embedding_generation + 1)
        if not snapshot.is_of(copy.fingerprint):
            raise VectorStoreError(f"The copy of course {course_id} was changed by another program")
    except BaseException:
        discard(store, course_id, copy)
        raise
    return Forgetting(course_id, row, copy, copy.removed, snapshot)


def discard(store: VectorStore, course_id: str, copy: CollectionCopy) -> None:
    """Delete the copy, because it is not used. If that fails, the next one or the doctor deletes it."""
    with suppress(VectorStoreError):
        store.discard_copy(course_id, copy.collection)


def complete(engine: Engine, store: VectorStore, snapshots: SnapshotStore, forgetting: Forgetting) -> bool:
    """Replace the collection by the copy, publish it, and delete the former collection and the other snapshots.

    Of a course that is not in the catalogue, everything is deleted, with what was asked about it.

    Returns:
        Whether the course is `done`. If not, the pipeline embeds it, unless it has no chunks.

    Raises:
        ChangedMeanwhileError: The course was published or claimed since `prepare`; prepare again.
        VectorStoreError: The vector store failed.
        SnapshotStoreError: A snapshot cannot be written or deleted.
        DatabaseUnavailableError: The catalogue is unavailable.
    """
    course_id, row, copy, snapshot = forgetting.course_id, forgetting.row, forgetting.copy, forgetting.snapshot
    with transaction(engine) as session:
        # A digest may show that a text was there. The next run records the present texts.
        delete_texts(session, course_id)
    if row is None:
        with transaction(engine) as session:
            if get_course(session, course_id) is not None:
                raise ChangedMeanwhileError(f"Course {course_id} was added to the catalogue meanwhile")
        store.delete(course_id)
        delete_questions(engine, course_id=course_id)
    if row is None or copy is None or snapshot is None:
        snapshots.delete(course_id)
        return False
    owner = f"{FORGETTING}{uuid4()}"

    def check_ownership() -> None:
        with transaction(engine) as session:
            if not course_state.owns_course(session, course_id, owner):
                raise VectorStoreError(f"Course {course_id} was claimed by a run")

    try:
        if copy.fingerprint.chunks:
            snapshots.save(course_id, snapshot)
        _check_copy(store, course_id, copy)
        with transaction(engine) as session:
            _claim(session, row, owner)
    except BaseException:
        discard(store, course_id, copy)
        raise
    try:
        store.replace_by_copy(course_id, check_ownership)
        if store.open(course_id).id != copy.collection.id:
            raise VectorStoreError(f"The copy of course {course_id} was replaced by another one")
        with transaction(engine) as session:
            is_done = _publish(session, row, copy, owner)
    except BaseException as error:
        reason = f"`course-search forget` was interrupted ({str(error) or type(error).__name__}). A run completes it."
        with transaction(engine) as session:
            course_state.fail_course(session, course_id, owner, reason, retry=Retry.LATER)
        raise
    store.delete_copies(course_id)
    if copy.fingerprint.chunks:
        snapshots.keep_only(course_id, copy.fingerprint, snapshot.generation)
    else:
        snapshots.delete(course_id)
    return is_done


def _check_copy(store: VectorStore, course_id: str, copy: CollectionCopy) -> None:
    """Another `course-search forget` may have replaced the copy by its own, which it still writes."""
    try:
        is_same = store.open_copy(course_id).id == copy.collection.id
    except CollectionNotFoundError:
        is_same = False
    if not is_same:
        raise ChangedMeanwhileError(f"The copy of course {course_id} was deleted meanwhile")


def _publish(session: Session, row: Course, copy: CollectionCopy, owner: str) -> bool:
    """Publish the copy if the course was published before. A course that was not `done` is embedded again."""
    if not copy.fingerprint.chunks:
        course_state.withdraw(session, row.id, owner)
        course_state.fail_course(session, row.id, owner, NO_CHUNKS)
        return False
    if row.embedding_fingerprint is not None:
        if not course_state.publish(
            session, row.id, owner, str(copy.fingerprint), calibration=row.embedding_calibration
        ):
            raise VectorStoreError(f"Course {row.id} was claimed by a run")
        if row.embedding_status == EmbeddingStatus.DONE:
            return True
    else:
        course_state.fail_course(session, row.id, owner, "Texts of the course were forgotten.")
    course_state.request_embedding(session, row.id, datetime.now(UTC), rebuild=row.embedding_rebuild)
    return False


def _claim(session: Session, row: Course, owner: str) -> None:
    # A row that was running in `prepare` belongs to a dead process.
    dead = row.embedding_run_id if row.embedding_status == EmbeddingStatus.RUNNING else None
    claimed = course_state.claim_course(session, row.id, owner, dead)
    now = get_course(session, row.id)  # a claim changes neither the generation nor the fingerprint
    if not claimed or now is None or _publication(now) != _publication(row):
        raise ChangedMeanwhileError(f"Course {row.id} was embedded meanwhile")  # rolls the claim back


def _publication(course: Course) -> tuple[int, str | None]:
    return course.embedding_generation, course.embedding_fingerprint


def _page(engine: Engine, course_id: str, after: str | None) -> list[Chunk]:
    """A page in a transaction of its own, because copying a large course takes a minute."""
    with transaction(engine) as session:
        return chunk_page(session, course_id, after)

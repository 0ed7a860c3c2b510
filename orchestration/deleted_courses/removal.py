"""Removes the collections, snapshots, questions and entries of texts of courses that were deleted from the catalogue.

Embedding a course can take hours, so a wrong deletion is expensive. A course is removed only if two consecutive ticks
did not find it, because an operator may be replacing the catalogue. Nothing is removed unless the published courses of
the catalogue show that it and the vector store belong together (`maintenance.ownership`).
"""

import json
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

from embedding.vector_store.collections import VectorStore
from maintenance.ownership import MAX_DELETIONS, compare_collections
from models.courses import get_course
from models.database import Engine, transaction
from models.embedded_texts import delete_texts
from models.questions import delete_questions
from models.text import counted
from retrieval.snapshots.store import SnapshotStore, directory_name


class NothingRemovedError(Exception):
    """Courses are missing, but there is not enough evidence that they were deleted from this catalogue."""


@dataclass(frozen=True)
class DeletedCourses:
    """Courses that have a partition and no row."""

    deleted: Sequence[str]
    """Ids of the courses that were missing in this tick and in the previous one."""
    message: str
    """Shown in a tick that removes nothing."""
    cursor: str
    """The cursor for the next tick."""


def find_deleted(
    missing: Sequence[str], existing: Collection[str], with_run: Set[str], cursor: str | None
) -> DeletedCourses:
    """Decide which of the missing courses to remove now.

    Args:
        missing: Ids of the courses that have a partition and no row.
        existing: Ids of the courses that have a row.
        with_run: Ids of the courses of unfinished runs. They are not removed.
        cursor: The cursor that the previous call returned.
    """
    if missing and not existing:
        return DeletedCourses([], "The catalogue has no courses, so nothing is removed. Check DATABASE_URL.", "[]")
    missing_before = set(json.loads(cursor)) if cursor else set()
    deleted = [course_id for course_id in missing if course_id in missing_before and course_id not in with_run]
    message = f"{len(missing)} partitions have no course" if missing else "Every partition has a course"
    return DeletedCourses(deleted, message, json.dumps(missing, ensure_ascii=False))


def remove_courses(
    engine: Engine, store: VectorStore, snapshots: SnapshotStore, deleted: Sequence[str]
) -> Sequence[str]:
    """Delete the courses' collections, snapshots, recorded questions and entries in the index of embedded texts.

    Args:
        engine: The catalogue.
        store: The vector store.
        snapshots: The snapshots.
        deleted: Ids of the courses to remove.

    Returns:
        Ids of the removed courses. At most `MAX_DELETIONS` of them had a collection or a snapshot; the next ticks
        remove the others.

    Raises:
        NothingRemovedError: The catalogue may be the wrong one. Nothing was removed.
        VectorStoreError: A collection could not be deleted.
        SnapshotStoreError: A snapshot could not be deleted.
        DatabaseUnavailableError: The catalogue is unavailable.
    """
    collections = {collection.info.course_id for collection in store.collections()}
    directories = set(snapshots.directories())
    stored = [
        course_id for course_id in deleted if course_id in collections or directory_name(course_id) in directories
    ]
    if stored and (objection := compare_collections(engine, store, len(stored)).objection(len(stored))):
        raise NothingRemovedError(
            f"{counted(len(stored), 'course')} with a collection or snapshot are missing from the catalogue, but "
            f"nothing is removed, because {objection}. Check DATABASE_URL and CHROMA_URL; `course-search doctor` says "
            f"what to do. Missing: {', '.join(stored[:MAX_DELETIONS])}"
        )
    postponed = set(stored[MAX_DELETIONS:])
    removed = []
    for course_id in deleted:
        if course_id in postponed:
            continue
        with transaction(engine) as session:
            if get_course(session, course_id) is not None:  # it was added again meanwhile
                continue
        if course_id in collections:
            store.delete(course_id)
        snapshots.delete(course_id)
        delete_questions(engine, course_id=course_id)
        with transaction(engine) as session:
            delete_texts(session, course_id)
        removed.append(course_id)
    return removed

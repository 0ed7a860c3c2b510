"""Removes the collections and keyword indexes of courses that were deleted from the catalogue.

Embedding a course can take hours, so a wrong deletion is expensive. A course is removed only if two consecutive ticks
did not find it, because an operator may be replacing the catalogue. Nothing is removed if the catalogue is probably the
wrong one: it has no courses, or none of its courses has a collection. If most courses are missing at once, an operator
must run `course-search doctor --repair`.
"""

import json
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

from embedding.vector_store.collections import VectorStore
from retrieval.keywords.store import KeywordStore

MAX_REMOVALS = 50
"""Maximum number of collections removed per tick."""
SMALL_REMOVAL = 3
"""Up to this many courses may be removed at once even if fewer courses remain. At least one course with a
collection must remain."""


class TooManyDeletedError(Exception):
    """So many courses are missing at once that DATABASE_URL is probably wrong."""


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
    store: VectorStore, keywords: KeywordStore, deleted: Sequence[str], existing: Collection[str]
) -> Sequence[str]:
    """Delete the courses' collections and keyword indexes.

    Args:
        store: The vector store.
        keywords: The keyword indexes.
        deleted: Ids of the courses to remove.
        existing: Ids of the courses that have a row.

    Returns:
        Ids of the removed courses. At most `MAX_REMOVALS` of them had a collection; the next ticks remove the others.

    Raises:
        TooManyDeletedError: The catalogue is probably the wrong one. Nothing was removed.
        VectorStoreError: A collection could not be deleted.
        KeywordStoreError: A keyword index could not be deleted.
    """
    collections = {collection.info.course_id for collection in store.collections()}
    with_collection = [course_id for course_id in deleted if course_id in collections]
    remaining = len(collections.intersection(existing))
    if with_collection and (not remaining or len(with_collection) > max(SMALL_REMOVAL, remaining)):
        raise TooManyDeletedError(
            f"{len(with_collection)} courses with a collection are missing from the catalogue, and only "
            f"{remaining} remain, so nothing is removed. Check DATABASE_URL. If the courses were deleted on purpose, "
            "`course-search doctor --repair` removes their collections."
        )
    for course_id in with_collection[:MAX_REMOVALS]:
        store.delete(course_id)
    postponed = set(with_collection[MAX_REMOVALS:])
    removed = [course_id for course_id in deleted if course_id not in postponed]
    for course_id in removed:
        keywords.delete(course_id)
    return removed

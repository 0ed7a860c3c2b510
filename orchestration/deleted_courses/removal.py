"""Removes the collections and keyword indexes of courses that were deleted from the catalogue.

A collection takes hours to make and a moment to delete. So a course must be missing in two consecutive looks, because a
catalogue may be in the middle of being replaced. Nothing is removed if the catalogue looks like the wrong one: it has
no course at all, or none that has a collection here. If most courses are missing at once, an operator decides with
`course-search doctor --repair`.
"""

import json
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

from embedding.vector_store.collections import VectorStore
from retrieval.keywords.store import KeywordStore

MAX_REMOVALS = 50
"""Collections removed per tick."""
FEW = 3
"""This many courses may be removed at once in any case; more only if at least as many remain."""


class TooManyDeletedError(Exception):
    """So many courses are missing at once that a mistake is more likely."""


@dataclass(frozen=True)
class DeletedCourses:
    """Courses that have a partition and no row."""

    deleted: Sequence[str]
    """Missing now and in the previous look."""
    message: str
    cursor: str
    """Passed to the next look."""


def find_deleted(
    missing: Sequence[str], existing: Collection[str], with_run: Set[str], cursor: str | None
) -> DeletedCourses:
    """Which of the missing courses to remove now.

    Args:
        missing: Courses that have a partition and no row.
        existing: Courses that have a row.
        with_run: Courses of unfinished runs; they are left alone.
        cursor: As returned by the previous call.
    """
    if missing and not existing:
        return DeletedCourses(
            [], "The catalogue holds no course at all: nothing is removed. Is DATABASE_URL right?", "[]"
        )
    before = set(json.loads(cursor)) if cursor else set()
    deleted = [course_id for course_id in missing if course_id in before and course_id not in with_run]
    message = f"{len(missing)} courses are missing" if missing else "Every partition has its course"
    return DeletedCourses(deleted, message, json.dumps(missing, ensure_ascii=False))


def remove_courses(
    store: VectorStore, keywords: KeywordStore, deleted: Sequence[str], existing: Collection[str]
) -> Sequence[str]:
    """Delete the courses' collections and keyword indexes.

    Args:
        store: The collections.
        keywords: The keyword indexes.
        deleted: The courses to remove.
        existing: Courses that have a row.

    Returns:
        The courses that were removed completely; at most `MAX_REMOVALS` of them had a collection.

    Raises:
        TooManyDeletedError: A mistake is likely; nothing was removed.
        VectorStoreError: A collection could not be deleted.
        KeywordStoreError: A keyword index could not be deleted.
    """
    collections = {collection.info.course_id for collection in store.collections()}
    with_collection = [course_id for course_id in deleted if course_id in collections]
    remaining = len(collections.intersection(existing))
    if with_collection and (not remaining or len(with_collection) > max(FEW, remaining)):
        raise TooManyDeletedError(
            f"{len(with_collection)} courses are gone from the catalogue at once, and {remaining} with a collection "
            "are there: nothing is removed. Is DATABASE_URL right? If they are to be gone, "
            "`course-search doctor --repair` removes their collections."
        )
    for course_id in with_collection[:MAX_REMOVALS]:
        store.delete(course_id)
    postponed = set(with_collection[MAX_REMOVALS:])
    removed = [course_id for course_id in deleted if course_id not in postponed]
    for course_id in removed:
        keywords.delete(course_id)
    return removed

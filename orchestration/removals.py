"""Courses that are gone from the catalogue: their collections, keyword indexes and partitions go too.

A collection costs hours to make and a moment to delete, so nothing is removed on one look (a catalogue may be in the
middle of being replaced), nor from what looks like another catalogue (a wrong DATABASE_URL): one without any course, or
without any course that has a collection here. When most courses are gone at once, an operator decides, by
`course-search doctor --repair`.
"""

import json
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

from embedding.vector_store import VectorStore
from retrieval.keyword_store import KeywordStore

MAX_REMOVALS = 50
"""A tick."""
FEW = 3
"""So many may go at once in any case; more only while at least as many stay."""


class TooManyGoneError(Exception):
    """More courses are gone at once than anybody would delete."""


@dataclass(frozen=True)
class Found:
    """Courses whose partition stands and whose row does not."""

    gone: Sequence[str]
    """Missing at this look and at the last one."""
    message: str
    cursor: str
    """What to remember until the next look."""


def find(missing: Sequence[str], there: Collection[str], busy: Set[str], cursor: str | None) -> Found:
    """Which of the missing courses to remove now.

    Args:
        missing: Courses that have a partition and no row.
        there: Courses that have a row.
        busy: Courses that a run holds.
        cursor: As the last look returned it.
    """
    if missing and not there:
        return Found([], "The catalogue holds no course at all: nothing is removed. Is DATABASE_URL right?", "[]")
    before = set(json.loads(cursor)) if cursor else set()
    gone = [course_id for course_id in missing if course_id in before and course_id not in busy]
    message = f"{len(missing)} courses are missing" if missing else "Every partition has its course"
    return Found(gone, message, json.dumps(missing, ensure_ascii=False))


def remove(store: VectorStore, keywords: KeywordStore, gone: Sequence[str], there: Collection[str]) -> Sequence[str]:
    """Delete the courses' collections and keyword indexes.

    Args:
        store: Where the collections are.
        keywords: Where the indexes are.
        gone: The courses.
        there: Courses that have a row.

    Returns:
        The courses of which nothing is left now, `MAX_REMOVALS` of them with a collection at most.

    Raises:
        TooManyGoneError: it must be a mistake; nothing has been deleted.
        VectorStoreError, KeywordStoreError: a part failed.
    """
    collections = {collection.info.course_id for collection in store.collections()}
    with_collection = [course_id for course_id in gone if course_id in collections]
    stay = len(collections.intersection(there))
    if with_collection and (not stay or len(with_collection) > max(FEW, stay)):
        raise TooManyGoneError(
            f"{len(with_collection)} courses are gone from the catalogue at once, and {stay} with a collection are "
            "there: nothing is removed. Is DATABASE_URL right? If they are to be gone, "
            "`course-search doctor --repair` removes their collections."
        )
    for course_id in with_collection[:MAX_REMOVALS]:
        store.delete(course_id)
    kept = set(with_collection[MAX_REMOVALS:])
    removed = [course_id for course_id in gone if course_id not in kept]
    for course_id in removed:
        keywords.delete(course_id)
    return removed

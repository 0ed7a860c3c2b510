"""Which deleted courses are removed, and when an operator must decide."""

import pytest

from embedding.vector_store.collections import CollectionInfo, VectorStore
from orchestration.deleted_courses import removal
from orchestration.deleted_courses.removal import SMALL_REMOVAL, TooManyDeletedError, find_deleted, remove_courses
from retrieval.keywords.index import KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.support.servers.chroma import has_collection

NO_RUNS: frozenset[str] = frozenset()


def test_a_course_is_deleted_if_two_consecutive_ticks_miss_it() -> None:
    first = find_deleted(["1"], {"2"}, NO_RUNS, None)
    assert first.deleted == []
    assert find_deleted(["1", "3"], {"2"}, NO_RUNS, first.cursor).deleted == ["1"]
    restored = find_deleted([], {"1", "2"}, NO_RUNS, first.cursor)
    assert find_deleted(["1"], {"2"}, NO_RUNS, restored.cursor).deleted == []


def test_a_course_of_an_unfinished_run_is_not_deleted() -> None:
    first = find_deleted(["1"], {"2"}, {"1"}, None)
    assert find_deleted(["1"], {"2"}, {"1"}, first.cursor).deleted == []
    assert find_deleted(["1"], {"2"}, NO_RUNS, first.cursor).deleted == ["1"]


def test_nothing_is_deleted_if_the_catalogue_is_empty() -> None:
    first = find_deleted(["1"], [], NO_RUNS, None)
    second = find_deleted(["1"], [], NO_RUNS, first.cursor)
    assert second.deleted == []
    assert "Check DATABASE_URL" in second.message
    third = find_deleted(["1"], ["2"], NO_RUNS, second.cursor)
    assert third.deleted == [], "a tick with an empty catalogue does not count"


@pytest.fixture
def keywords() -> KeywordStore:
    return KeywordStore(KeywordSettings())


def create(store: VectorStore, keywords: KeywordStore, *course_ids: str) -> None:
    for course_id in course_ids:
        store.create(CollectionInfo(course_id, "model", "signature"))
        keywords.save(course_id, "0" * 64, KeywordIndexBuilder().build())


def test_the_number_of_collections_removed_at_once_is_limited(
    vector_store: VectorStore, keywords: KeywordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    create(vector_store, keywords, "deleted-1", "deleted-2", "kept")
    monkeypatch.setattr(removal, "MAX_REMOVALS", 1)
    deleted = ["never-embedded", "deleted-1", "deleted-2"]
    assert remove_courses(vector_store, keywords, deleted, ["kept"]) == ["never-embedded", "deleted-1"]
    assert keywords.directories() == [directory_name(name) for name in ("deleted-2", "kept")]
    assert [has_collection(vector_store, name) for name in ("deleted-1", "deleted-2", "kept")] == [False, True, True]
    assert remove_courses(vector_store, keywords, ["deleted-2"], ["kept"]) == ["deleted-2"]
    assert not has_collection(vector_store, "deleted-2")
    assert keywords.directories() == [directory_name("kept")]


def test_nothing_is_removed_if_most_courses_are_missing(vector_store: VectorStore, keywords: KeywordStore) -> None:
    deleted = [f"deleted-{number}" for number in range(SMALL_REMOVAL + 1)]
    kept = [f"kept-{number}" for number in range(SMALL_REMOVAL + 1)]
    create(vector_store, keywords, *deleted, *kept)
    with pytest.raises(TooManyDeletedError, match="4 courses with a collection are missing"):
        remove_courses(vector_store, keywords, deleted, kept[1:])
    assert all(has_collection(vector_store, name) for name in deleted)
    assert len(keywords.directories()) == len(deleted + kept)
    assert remove_courses(vector_store, keywords, deleted, kept) == deleted


def test_nothing_is_removed_if_no_existing_course_has_a_collection(
    vector_store: VectorStore, keywords: KeywordStore
) -> None:
    create(vector_store, keywords, "embedded")
    with pytest.raises(TooManyDeletedError, match="Check DATABASE_URL"):
        remove_courses(vector_store, keywords, ["embedded"], ["of another catalogue"])
    assert has_collection(vector_store, "embedded")
    assert keywords.directories() == [directory_name("embedded")]
    assert remove_courses(vector_store, keywords, ["never-embedded"], ["another"]) == ["never-embedded"]

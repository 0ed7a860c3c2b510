"""Which courses are cleared up after, and when it is left to an operator."""

import pytest

from embedding.vector_store.collections import CollectionInfo, VectorStore
from orchestration.deleted_courses import removal
from orchestration.deleted_courses.removal import FEW, TooManyDeletedError, find_deleted, remove_courses
from retrieval.keywords.index import KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.support.chroma import has_collection

NOBODY: frozenset[str] = frozenset()


def test_a_course_is_gone_when_two_looks_in_a_row_miss_it() -> None:
    first = find_deleted(["1"], {"2"}, NOBODY, None)
    assert first.deleted == []
    assert find_deleted(["1", "3"], {"2"}, NOBODY, first.cursor).deleted == ["1"]
    back = find_deleted([], {"1", "2"}, NOBODY, first.cursor)
    assert find_deleted(["1"], {"2"}, NOBODY, back.cursor).deleted == []


def test_a_course_that_a_run_holds_is_not_gone_yet() -> None:
    first = find_deleted(["1"], {"2"}, {"1"}, None)
    assert find_deleted(["1"], {"2"}, {"1"}, first.cursor).deleted == []
    assert find_deleted(["1"], {"2"}, NOBODY, first.cursor).deleted == ["1"]


def test_an_empty_catalogue_removes_nothing() -> None:
    first = find_deleted(["1"], [], NOBODY, None)
    second = find_deleted(["1"], [], NOBODY, first.cursor)
    assert second.deleted == []
    assert "Is DATABASE_URL right?" in second.message
    assert find_deleted(["1"], ["2"], NOBODY, second.cursor).deleted == [], "only looks at a real catalogue count"


@pytest.fixture
def keywords() -> KeywordStore:
    return KeywordStore(KeywordSettings())


def make(store: VectorStore, keywords: KeywordStore, *course_ids: str) -> None:
    for course_id in course_ids:
        store.create(CollectionInfo(course_id, "model", "signature"))
        keywords.save(course_id, "0" * 64, KeywordIndexBuilder().build())


def test_collections_of_gone_courses_are_deleted_a_few_at_a_time(
    vector_store: VectorStore, keywords: KeywordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(vector_store, keywords, "gone-1", "gone-2", "stays")
    monkeypatch.setattr(removal, "MAX_REMOVALS", 1)
    gone = ["never-embedded", "gone-1", "gone-2"]
    assert remove_courses(vector_store, keywords, gone, ["stays"]) == ["never-embedded", "gone-1"]
    assert keywords.directories() == [directory_name(name) for name in ("gone-2", "stays")]
    assert [has_collection(vector_store, name) for name in ("gone-1", "gone-2", "stays")] == [False, True, True]
    assert remove_courses(vector_store, keywords, ["gone-2"], ["stays"]) == ["gone-2"]
    assert not has_collection(vector_store, "gone-2")
    assert keywords.directories() == [directory_name("stays")]


def test_most_courses_gone_at_once_are_left_to_an_operator(vector_store: VectorStore, keywords: KeywordStore) -> None:
    names = [f"many-{number}" for number in range(FEW + 1)]
    others = [f"other-{number}" for number in range(FEW + 1)]
    make(vector_store, keywords, *names, *others)
    with pytest.raises(TooManyDeletedError, match="4 courses are gone"):
        remove_courses(vector_store, keywords, names, others[1:])
    assert all(has_collection(vector_store, name) for name in names)
    assert len(keywords.directories()) == len(names + others)
    assert remove_courses(vector_store, keywords, names, others) == names


def test_from_another_catalogue_nothing_is_removed(vector_store: VectorStore, keywords: KeywordStore) -> None:
    make(vector_store, keywords, "the-only-one")
    with pytest.raises(TooManyDeletedError, match="Is DATABASE_URL right"):
        remove_courses(vector_store, keywords, ["the-only-one"], ["of another catalogue, without a collection"])
    assert has_collection(vector_store, "the-only-one")
    assert keywords.directories() == [directory_name("the-only-one")]
    assert remove_courses(vector_store, keywords, ["never-embedded"], ["another"]) == ["never-embedded"]

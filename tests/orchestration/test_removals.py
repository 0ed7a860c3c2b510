"""Which courses are cleared up after, and when it is left to an operator."""

import pytest

from embedding.vector_store import CollectionInfo, VectorStore
from orchestration import removals
from orchestration.removals import FEW, TooManyGoneError, find, remove
from retrieval.keyword_index import KeywordIndexBuilder
from retrieval.keyword_store import KeywordStore, directory_name
from retrieval.settings import KeywordSettings
from tests.support.chroma import has_collection

NOBODY: frozenset[str] = frozenset()


def test_a_course_is_gone_when_two_looks_in_a_row_miss_it() -> None:
    first = find(["1"], {"2"}, NOBODY, None)
    assert first.gone == []
    assert find(["1", "3"], {"2"}, NOBODY, first.cursor).gone == ["1"]
    back = find([], {"1", "2"}, NOBODY, first.cursor)
    assert find(["1"], {"2"}, NOBODY, back.cursor).gone == []


def test_a_course_that_a_run_holds_is_not_gone_yet() -> None:
    first = find(["1"], {"2"}, {"1"}, None)
    assert find(["1"], {"2"}, {"1"}, first.cursor).gone == []
    assert find(["1"], {"2"}, NOBODY, first.cursor).gone == ["1"]


def test_an_empty_catalogue_removes_nothing() -> None:
    first = find(["1"], [], NOBODY, None)
    second = find(["1"], [], NOBODY, first.cursor)
    assert second.gone == []
    assert "Is DATABASE_URL right?" in second.message
    assert find(["1"], ["2"], NOBODY, second.cursor).gone == [], "only looks at a real catalogue count"


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
    monkeypatch.setattr(removals, "MAX_REMOVALS", 1)
    gone = ["never-embedded", "gone-1", "gone-2"]
    assert remove(vector_store, keywords, gone, ["stays"]) == ["never-embedded", "gone-1"]
    assert keywords.directories() == [directory_name(name) for name in ("gone-2", "stays")]
    assert [has_collection(vector_store, name) for name in ("gone-1", "gone-2", "stays")] == [False, True, True]
    assert remove(vector_store, keywords, ["gone-2"], ["stays"]) == ["gone-2"]
    assert not has_collection(vector_store, "gone-2")
    assert keywords.directories() == [directory_name("stays")]


def test_most_courses_gone_at_once_are_left_to_an_operator(vector_store: VectorStore, keywords: KeywordStore) -> None:
    names = [f"many-{number}" for number in range(FEW + 1)]
    others = [f"other-{number}" for number in range(FEW + 1)]
    make(vector_store, keywords, *names, *others)
    with pytest.raises(TooManyGoneError, match="4 courses are gone"):
        remove(vector_store, keywords, names, others[1:])
    assert all(has_collection(vector_store, name) for name in names)
    assert len(keywords.directories()) == len(names + others)
    assert remove(vector_store, keywords, names, others) == names


def test_from_another_catalogue_nothing_is_removed(vector_store: VectorStore, keywords: KeywordStore) -> None:
    make(vector_store, keywords, "the-only-one")
    with pytest.raises(TooManyGoneError, match="Is DATABASE_URL right"):
        remove(vector_store, keywords, ["the-only-one"], ["of another catalogue, without a collection"])
    assert has_collection(vector_store, "the-only-one")
    assert keywords.directories() == [directory_name("the-only-one")]
    assert remove(vector_store, keywords, ["never-embedded"], ["another"]) == ["never-embedded"]

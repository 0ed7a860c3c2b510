"""The keyword index is made of one whole pass over the chunks, however many were begun."""

import pytest

from embedding.vector_store.collections import CourseCollection
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk
from orchestration.course_run.keyword_index import CourseKeywords
from retrieval.keywords.store import KeywordSettings, KeywordStore

PAGES = [[Chunk(id=f"{page}{number}", course_id="1", text="copper") for number in range(2)] for page in ("a", "b", "c")]
PAGES[0][0].text = None  # type: ignore[assignment]  # stage one's column may allow NULL
CONTENT = FingerprintBuilder().add_all(PAGES).build("model")


@pytest.fixture
def store() -> KeywordStore:
    return KeywordStore(KeywordSettings())


def no_collection() -> CourseCollection:
    raise AssertionError("the collection is not needed")


def whole_pass(store: KeywordStore, expected: CourseFingerprint = CONTENT) -> CourseKeywords:
    keywords = CourseKeywords(store, "1", PAGES, expected)
    assert list(keywords) == PAGES
    return keywords


def test_a_pass_that_was_given_up_leaves_nothing_in_the_index(store: KeywordStore) -> None:
    """A broken collection is built anew: the chunks are read again from the start."""
    keywords = CourseKeywords(store, "1", PAGES, CONTENT)
    next(iter(keywords))
    assert list(keywords) == PAGES
    report = keywords.write(CONTENT, no_collection)
    assert (report.chunks, report.indexed, report.terms, report.complete, report.kept) == (6, 6, 1, True, False)
    assert store.load("1", CONTENT.content).scores({"copper": 1}).astype(bool).tolist() == [False] + [True] * 5


def test_the_same_content_is_kept_whichever_model_embeds_it(
    store: KeywordStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole_pass(store).write(CONTENT, no_collection)
    monkeypatch.setattr(KeywordStore, "save", None)
    other_model = FingerprintBuilder().add_all(PAGES).build("another")
    report = whole_pass(store, other_model).write(other_model, no_collection)
    assert (report.complete, report.kept) == (True, True)


def test_two_runs_that_make_the_same_do_not_disturb_each_other(store: KeywordStore) -> None:
    """One that lost its course to the other does not know it yet."""
    one, other = whole_pass(store), whole_pass(store)
    assert one.write(CONTENT, no_collection).complete
    assert other.write(CONTENT, no_collection).complete
    store.keep_only("1", CONTENT.content)
    assert len(store.load("1", CONTENT.content).chunk_ids) == 6

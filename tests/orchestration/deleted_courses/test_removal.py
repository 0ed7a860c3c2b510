"""Which deleted courses are removed, and when an operator must decide."""

import pytest
from sqlalchemy import Engine

from embedding.vector_store.collections import CollectionInfo, VectorStore
from maintenance.ownership import SMALL_REMOVAL
from orchestration.deleted_courses import removal
from orchestration.deleted_courses.removal import NothingRemovedError, find_deleted, remove_courses
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore, directory_name
from tests.support.published import add_courses, publish
from tests.support.questions import ask, judge, recorded_courses
from tests.support.servers.chroma import has_collection
from tests.support.snapshots import build

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
def snapshots() -> SnapshotStore:
    return SnapshotStore(SnapshotSettings())


def create(store: VectorStore, snapshots: SnapshotStore, *course_ids: str) -> None:
    """Write what is left of a deleted course."""
    for course_id in course_ids:
        store.create(CollectionInfo(course_id, "model", "signature"))
        snapshots.save(course_id, build({"1": "text"}, course_id=course_id))


@pytest.fixture
def kept(catalogue: Engine, vector_store: VectorStore, course_id: str) -> list[str]:
    """Four published courses."""
    kept = [f"{course_id}-kept-{number}" for number in range(SMALL_REMOVAL + 1)]
    add_courses(catalogue, *kept)
    for published in kept:
        publish(catalogue, vector_store, published, ["copper", "tin"])
    return kept


def test_the_number_of_courses_removed_at_once_is_limited(
    catalogue: Engine,
    vector_store: VectorStore,
    snapshots: SnapshotStore,
    kept: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    create(vector_store, snapshots, "deleted-1", "deleted-2")
    monkeypatch.setattr(removal, "MAX_DELETIONS", 1)
    deleted = ["never-embedded", "deleted-1", "deleted-2"]
    for course_id in ("deleted-1", "deleted-2", kept[0]):
        ask(catalogue, course_id, "What was asked")
        judge(catalogue, course_id, "What was asked", helpful=True)
    assert remove_courses(catalogue, vector_store, snapshots, deleted) == ["never-embedded", "deleted-1"]
    assert snapshots.directories() == [directory_name("deleted-2")]
    assert recorded_courses(catalogue) == {"deleted-2", kept[0]}, "the questions go with the course"
    assert [has_collection(vector_store, name) for name in ("deleted-1", "deleted-2", kept[0])] == [False, True, True]
    assert remove_courses(catalogue, vector_store, snapshots, ["deleted-2"]) == ["deleted-2"]
    assert not has_collection(vector_store, "deleted-2")
    assert snapshots.directories() == []


def test_nothing_is_removed_if_most_courses_are_missing(
    catalogue: Engine, vector_store: VectorStore, snapshots: SnapshotStore, kept: list[str]
) -> None:
    deleted = [f"deleted-{number}" for number in range(len(kept) + 1)]
    create(vector_store, snapshots, *deleted)
    with pytest.raises(NothingRemovedError, match="5 courses would be removed, and only 4 would remain"):
        remove_courses(catalogue, vector_store, snapshots, deleted)
    assert all(has_collection(vector_store, name) for name in deleted)
    assert len(snapshots.directories()) == len(deleted)
    assert remove_courses(catalogue, vector_store, snapshots, deleted[1:]) == deleted[1:]
    vector_store.delete(deleted[0])


def test_nothing_is_removed_if_a_published_course_has_another_collection(
    catalogue: Engine, vector_store: VectorStore, snapshots: SnapshotStore, kept: list[str]
) -> None:
    """The catalogue of a test system has copies of some courses."""
    create(vector_store, snapshots, "embedded")
    vector_store.open(kept[1]).remove([f"{kept[1]}-0"])
    with pytest.raises(NothingRemovedError, match=f"published course {kept[1]} has another collection here"):
        remove_courses(catalogue, vector_store, snapshots, ["embedded"])
    vector_store.delete(kept[1])
    with pytest.raises(NothingRemovedError, match=kept[1]):
        remove_courses(catalogue, vector_store, snapshots, ["embedded"])
    create(vector_store, snapshots, kept[1])  # of another model
    with pytest.raises(NothingRemovedError, match=kept[1]):
        remove_courses(catalogue, vector_store, snapshots, ["embedded"])
    assert has_collection(vector_store, "embedded")
    assert directory_name("embedded") in snapshots.directories()
    vector_store.delete("embedded")


def test_nothing_is_removed_if_no_course_is_published(
    catalogue: Engine, vector_store: VectorStore, snapshots: SnapshotStore, course_id: str
) -> None:
    create(vector_store, snapshots, "embedded", course_id)
    add_courses(catalogue, course_id)
    with pytest.raises(NothingRemovedError, match="Check DATABASE_URL"):
        remove_courses(catalogue, vector_store, snapshots, ["embedded"])
    assert has_collection(vector_store, "embedded")
    assert directory_name("embedded") in snapshots.directories()
    assert remove_courses(catalogue, vector_store, snapshots, ["never-embedded"]) == ["never-embedded"]
    vector_store.delete("embedded")


def test_a_course_that_was_added_again_is_kept(
    catalogue: Engine, vector_store: VectorStore, snapshots: SnapshotStore, kept: list[str]
) -> None:
    assert remove_courses(catalogue, vector_store, snapshots, [kept[0]]) == []
    assert has_collection(vector_store, kept[0])

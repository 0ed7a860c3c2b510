"""Every content of a course has a file of its own, and nothing but our files is ever deleted."""

from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from embedding.vector_store.collections import CollectionInfo, VectorStore
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder, KeywordIndexError
from retrieval.keywords.store import (
    LONGEST_NAME,
    KeywordSettings,
    KeywordStore,
    KeywordStoreError,
    directory_name,
    index_from_collection,
)
from tests.support.published import records_of

OLD, NEW = "0" * 64, "f" * 64
AWKWARD = ("1", "a/b", "..", "课程", "x" * 300, "/" * 80, "x" * 600)
"""Ids of courses; the long ones are too long for a directory or even for a collection."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "keywords"


@pytest.fixture
def store(root: Path) -> KeywordStore:
    return KeywordStore(KeywordSettings(keyword_index_dir=root))


def index(*texts: str) -> KeywordIndex:
    return KeywordIndexBuilder().add_all(enumerate_ids(texts)).build()


def enumerate_ids(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    return [(str(number), text) for number, text in enumerate(texts)]


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("course_id", AWKWARD)
def test_what_is_saved_is_found_whatever_the_course_is_called(store: KeywordStore, root: Path, course_id: str) -> None:
    store.save(course_id, OLD, index("copper"))
    store.save("another", OLD, index("solder"))
    assert store.load(course_id, OLD).scores({"copper": 1}).tolist() > [0]
    assert directory_name(course_id) in store.directories()
    assert files(root) == {f"{directory_name(name)}/{OLD}.npz" for name in (course_id, "another")}
    store.delete(course_id)
    assert store.directories() == ["course_another"]


def test_no_two_courses_share_a_directory() -> None:
    assert len({directory_name(course_id) for course_id in AWKWARD}) == len(AWKWARD)


def test_contents_do_not_touch_each_other(store: KeywordStore, root: Path) -> None:
    store.save("1", OLD, index("copper"))
    before = (root / "course_1" / f"{OLD}.npz").read_bytes()
    store.save("1", NEW, index("copper", "solder"))
    assert (root / "course_1" / f"{OLD}.npz").read_bytes() == before
    assert [len(store.load("1", content).chunk_ids) for content in (OLD, NEW)] == [1, 2]


def test_one_that_is_not_there_is_told(store: KeywordStore) -> None:
    with pytest.raises(KeywordIndexError, match="No such file"):
        store.load("1", OLD)


def test_only_the_content_that_is_kept_stays(store: KeywordStore, root: Path) -> None:
    """The others go, and so does what killed writers left; another course and a stranger's file stay."""
    for course_id, content in (("1", OLD), ("1", NEW), ("2", OLD)):
        store.save(course_id, content, index("copper"))
    for leftover in (f".{OLD}.npz.0a1b", f".{NEW}.npz.17"):
        (root / "course_1" / leftover).touch()
    (root / "course_1" / "notes.txt").touch()
    store.keep_only("1", NEW)
    assert files(root) == {f"course_1/{NEW}.npz", "course_1/notes.txt", f"course_2/{OLD}.npz"}
    store.keep_only("never seen", NEW)


def test_a_course_is_deleted_with_all_its_files(store: KeywordStore, root: Path) -> None:
    store.save("1", OLD, index("copper"))
    store.save("2", OLD, index("copper"))
    (root / "course_1" / f".{OLD}.npz.0a1b").touch()
    store.delete("1")
    store.delete("1")
    assert [path.name for path in root.iterdir()] == ["course_2"]


def test_what_something_else_put_there_is_neither_ours_nor_deleted(store: KeywordStore, root: Path) -> None:
    for name in ("course_of_study/film.mp4", "pictures/a.png", f"stray/{OLD}.npz"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    (root / "course_file").touch()
    (root / "course_left empty").mkdir()
    before = files(root)
    assert store.directories() == ["course_left empty"]
    store.delete("of_study")
    assert files(root) == before


def test_without_a_directory_there_is_nothing(store: KeywordStore) -> None:
    assert store.directories() == []
    store.delete("1")


def test_failures_say_what_to_look_at(store: KeywordStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("1", OLD, index("copper"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError("Permission denied")))
    with pytest.raises(KeywordStoreError, match="cannot be deleted: Permission denied"):
        store.delete("1")
    monkeypatch.undo()
    (root / "course_2").touch()
    with pytest.raises(KeywordStoreError, match=r"cannot be written.*KEYWORD_INDEX_DIR"):
        store.save("2", OLD, index("copper"))


@pytest.mark.integration
class TestIndexOf:
    """A missing index is made from the collection, and from nothing but what was published."""

    @pytest.fixture
    def course_id(self) -> str:
        return f"{uuid4()}"

    def test_it_is_the_one_the_chunks_give(self, vector_store: VectorStore, course_id: str) -> None:
        texts = ["copper wire", "solder", "", "快速排序"]
        records, vectors, fingerprint = records_of(course_id, texts)
        collection = vector_store.create(CollectionInfo(course_id, "model", "signature"))
        collection.upsert(records, vectors)
        made = index_from_collection(collection, fingerprint.content)
        expected = KeywordIndexBuilder().add_all((record.chunk_id, record.text) for record in records).build()
        assert made.chunk_ids == expected.chunk_ids
        for term in ("copper", "solder", "排序"):
            np.testing.assert_array_equal(made.scores({term: 1}), expected.scores({term: 1}))

    def test_a_collection_that_is_being_written_is_refused(self, vector_store: VectorStore, course_id: str) -> None:
        """What is made now would pass for the index of what was published."""
        records, vectors, fingerprint = records_of(course_id, ["copper", "solder"])
        collection = vector_store.create(CollectionInfo(course_id, "model", "signature"))
        collection.upsert(records[:1], vectors[:1])
        with pytest.raises(KeywordIndexError, match="other chunks by now"):
            index_from_collection(collection, fingerprint.content)


def test_a_course_that_fits_keeps_its_readable_name() -> None:
    longest = "x" * (LONGEST_NAME - len("course_"))
    assert directory_name(longest) == f"course_{longest}"
    assert directory_name(f"{longest}x").startswith("course_.h")

"""The files of keyword indexes: saving, loading, deleting, and building from a collection."""

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
UNUSUAL_IDS = ("1", "a/b", "..", "课程", "x" * 300, "/" * 80, "x" * 600)
"""Course ids; the long ones exceed the maximum length of a directory name, or even of a collection name."""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "keywords"


@pytest.fixture
def store(root: Path) -> KeywordStore:
    return KeywordStore(KeywordSettings(keyword_index_dir=root))


def build_index(*texts: str) -> KeywordIndex:
    return KeywordIndexBuilder().add_all((str(number), text) for number, text in enumerate(texts)).build()


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("course_id", UNUSUAL_IDS)
def test_saved_index_is_loaded_for_any_course_id(store: KeywordStore, root: Path, course_id: str) -> None:
    store.save(course_id, OLD, build_index("copper"))
    store.save("another", OLD, build_index("solder"))
    assert store.load(course_id, OLD).scores({"copper": 1}).tolist() > [0]
    assert directory_name(course_id) in store.directories()
    assert files(root) == {f"{directory_name(name)}/{OLD}.npz" for name in (course_id, "another")}
    store.delete(course_id)
    assert store.directories() == ["course_another"]


def test_directory_names_are_unique() -> None:
    assert len({directory_name(course_id) for course_id in UNUSUAL_IDS}) == len(UNUSUAL_IDS)


def test_each_content_has_a_separate_file(store: KeywordStore, root: Path) -> None:
    store.save("1", OLD, build_index("copper"))
    before = (root / "course_1" / f"{OLD}.npz").read_bytes()
    store.save("1", NEW, build_index("copper", "solder"))
    assert (root / "course_1" / f"{OLD}.npz").read_bytes() == before
    assert [len(store.load("1", content).chunk_ids) for content in (OLD, NEW)] == [1, 2]


def test_load_raises_for_a_missing_index(store: KeywordStore) -> None:
    with pytest.raises(KeywordIndexError, match="No such file"):
        store.load("1", OLD)


def test_keep_only_deletes_other_indexes_and_temporary_files(store: KeywordStore, root: Path) -> None:
    """Other courses and foreign files are kept."""
    for course_id, content in (("1", OLD), ("1", NEW), ("2", OLD)):
        store.save(course_id, content, build_index("copper"))
    for leftover in (f".{OLD}.npz.0a1b", f".{NEW}.npz.17"):
        (root / "course_1" / leftover).touch()
    (root / "course_1" / "notes.txt").touch()
    store.keep_only("1", NEW)
    assert files(root) == {f"course_1/{NEW}.npz", "course_1/notes.txt", f"course_2/{OLD}.npz"}
    store.keep_only("unknown", NEW)


def test_delete_removes_all_files_of_a_course(store: KeywordStore, root: Path) -> None:
    store.save("1", OLD, build_index("copper"))
    store.save("2", OLD, build_index("copper"))
    (root / "course_1" / f".{OLD}.npz.0a1b").touch()
    store.delete("1")
    store.delete("1")
    assert [path.name for path in root.iterdir()] == ["course_2"]


def test_foreign_files_are_neither_listed_nor_deleted(store: KeywordStore, root: Path) -> None:
    for name in ("course_of_study/film.mp4", "pictures/a.png", f"stray/{OLD}.npz"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    (root / "course_file").touch()
    (root / "course_left empty").mkdir()
    before = files(root)
    assert store.directories() == ["course_left empty"]
    store.delete("of_study")
    assert files(root) == before


def test_store_without_directory_is_empty(store: KeywordStore) -> None:
    assert store.directories() == []
    store.delete("1")


def test_errors_name_the_cause(store: KeywordStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("1", OLD, build_index("copper"))
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError("Permission denied")))
    with pytest.raises(KeywordStoreError, match="cannot be deleted: Permission denied"):
        store.delete("1")
    monkeypatch.undo()
    (root / "course_2").touch()
    with pytest.raises(KeywordStoreError, match=r"cannot be written.*KEYWORD_INDEX_DIR"):
        store.save("2", OLD, build_index("copper"))


@pytest.mark.integration
class TestIndexFromCollection:
    """A missing index is built from the collection, if the collection has the published content."""

    @pytest.fixture
    def course_id(self) -> str:
        return f"{uuid4()}"

    def test_index_equals_the_index_of_the_chunks(self, vector_store: VectorStore, course_id: str) -> None:
        texts = ["copper wire", "solder", "", "快速排序"]
        records, vectors, fingerprint = records_of(course_id, texts)
        collection = vector_store.create(CollectionInfo(course_id, "model", "signature"))
        collection.upsert(records, vectors)
        rebuilt = index_from_collection(collection, fingerprint.content)
        expected = KeywordIndexBuilder().add_all((record.chunk_id, record.text) for record in records).build()
        assert rebuilt.chunk_ids == expected.chunk_ids
        for term in ("copper", "solder", "排序"):
            np.testing.assert_array_equal(rebuilt.scores({term: 1}), expected.scores({term: 1}))

    def test_partly_written_collection_is_rejected(self, vector_store: VectorStore, course_id: str) -> None:
        records, vectors, fingerprint = records_of(course_id, ["copper", "solder"])
        collection = vector_store.create(CollectionInfo(course_id, "model", "signature"))
        collection.upsert(records[:1], vectors[:1])
        with pytest.raises(KeywordIndexError, match="now contains other chunks"):
            index_from_collection(collection, fingerprint.content)


def test_directory_name_is_hashed_only_if_too_long() -> None:
    longest = "x" * (LONGEST_NAME - len("course_"))
    assert directory_name(longest) == f"course_{longest}"
    assert directory_name(f"{longest}x").startswith("course_.h")

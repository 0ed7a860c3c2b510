"""The course index: reading from the collection, cosines, filters, neighbours."""

from pathlib import Path

import numpy as np
import pytest
from threadpoolctl import ThreadpoolController

from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from retrieval import course_index
from retrieval.course_index import (
    CourseIndex,
    CourseTooLargeError,
    make_course_index,
    one_thread_per_product,
    read_course,
)
from retrieval.keywords.index import KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore
from tests.support.course_index import QUERY_VECTOR, make_index
from tests.support.published import MODEL, SIGNATURE, records_of

TEXTS = [f"Copper number {number}." for number in range(7)]


def load(collection: CourseCollection, store: KeywordStore, course_id: str) -> CourseIndex:
    return make_course_index(read_course(collection), course_id, store)


@pytest.mark.integration
def test_index_contains_what_the_collection_contains(vector_store: VectorStore, tmp_path: Path) -> None:
    records, vectors, fingerprint = records_of("c", TEXTS)
    collection = vector_store.create(CollectionInfo("c", MODEL, SIGNATURE))
    collection.upsert(records[::-1], vectors[::-1])
    store = KeywordStore(KeywordSettings(keyword_index_dir=tmp_path / "keywords"))
    store.save("c", "0" * 64, KeywordIndexBuilder().build())  # as a run does before it publishes
    index = load(collection, store, "c")
    assert store.exists("c", "0" * 64), "a search deletes nothing"
    assert read_course(collection).digest == fingerprint.content
    assert index.info == collection.info
    assert [(record.chunk_id, record.text, dict(record.metadata)["标题"]) for record in index.records] == [
        (record.chunk_id, record.text, record.metadata["标题"]) for record in records
    ]
    for row, vector in enumerate(vectors):
        assert index.cosines(vector).argmax() == row
        assert index.cosines(vector)[row] == pytest.approx(1, abs=1e-6)
    assert index.bytes > vectors.nbytes
    saved = store.load("c", fingerprint.content)
    assert saved.chunk_ids == index.keywords.chunk_ids == tuple(record.chunk_id for record in records)


@pytest.mark.integration
def test_too_large_course_is_rejected_after_the_first_page(vector_store: VectorStore) -> None:
    records, vectors, _ = records_of("large", TEXTS)
    collection = vector_store.create(CollectionInfo("large", MODEL, SIGNATURE))
    collection.upsert(records, vectors)
    size = make_index({"a": TEXTS[0]}).bytes * len(TEXTS)
    assert len(read_course(collection, max_bytes=2 * size).records) == len(TEXTS)
    with pytest.raises(CourseTooLargeError):
        read_course(collection, max_bytes=size // 2)


@pytest.mark.integration
def test_empty_collection_gives_an_empty_index(vector_store: VectorStore, tmp_path: Path) -> None:
    collection = vector_store.create(CollectionInfo("empty", MODEL, SIGNATURE))
    store = KeywordStore(KeywordSettings(keyword_index_dir=tmp_path / "keywords"))
    assert len(load(collection, store, "empty")) == 0


@pytest.mark.integration
@pytest.mark.parametrize("damage", ["missing", "broken", "unwritable"])
def test_unusable_keyword_index_is_rebuilt(vector_store: VectorStore, tmp_path: Path, damage: str) -> None:
    records, vectors, fingerprint = records_of("c", TEXTS)
    collection = vector_store.create(CollectionInfo("c", MODEL, SIGNATURE))
    collection.upsert(records, vectors)
    directory = tmp_path / "keywords"
    store = KeywordStore(KeywordSettings(keyword_index_dir=directory))
    if damage == "broken":
        load(collection, store, "c")
        (path,) = directory.rglob("*.npz")
        path.write_bytes(path.read_bytes()[:100])
    if damage == "unwritable":
        directory.write_text("a file, where a directory should be")
    index = load(collection, store, "c")
    assert index.keywords.scores({"copper": 1}).all()
    if damage != "unwritable":
        assert store.load("c", fingerprint.content).terms == index.keywords.terms


def test_cosines_are_clipped_to_minus_1_and_1() -> None:
    index = make_index({"a": "x", "b": "y"}, [1.0, -1.0])
    cosines = index.cosines(QUERY_VECTOR * np.float32(1.0001))
    assert cosines.tolist() == [1.0, -1.0]


@pytest.mark.parametrize("selected", [None, 1, 50, 100])
def test_parallel_cosines_equal_sequential_ones(monkeypatch: pytest.MonkeyPatch, selected: int | None) -> None:
    cosines = np.linspace(-1, 1, 100).tolist()
    index = make_index({f"{number:03}": "x" for number in range(100)}, cosines)
    mask = None if selected is None else np.arange(100) < selected
    sequential = index.cosines(QUERY_VECTOR, mask)
    monkeypatch.setattr(course_index, "PARALLEL_FROM", 1)
    parallel = index.cosines(QUERY_VECTOR, mask)
    np.testing.assert_allclose(parallel[mask], sequential[mask], atol=1e-6)


def test_one_thread_per_product_limits_blas_threads_and_restores_them() -> None:
    def threads() -> set[int]:
        return {
            library.num_threads for library in ThreadpoolController().select(internal_api="openblas").lib_controllers
        }

    before = threads()
    with one_thread_per_product():
        assert threads() <= {1}
    assert threads() == before


def test_mask_selects_chunks_with_accepted_values() -> None:
    metadata: dict[str, dict[str, object]] = {
        "a": {"section_id": "1"},
        "b": {"section_id": "2"},
        "c": {"section_id": 2},
        "d": {},
    }
    index = make_index(dict.fromkeys("abcd", "x"), metadata=metadata)
    assert index.mask({}) is None
    for accepted, expected in ((["1"], "a"), (["2"], "bc"), (["1", "2"], "abc"), (["3"], ""), (["None"], "")):
        mask = index.mask({"section_id": accepted})
        assert mask is not None
        assert (
            "".join(record.chunk_id for record, selected in zip(index.records, mask, strict=True) if selected)
            == expected
        )
    both = index.mask({"section_id": ["1"], "lecture_id": ["1"]})
    assert both is not None
    assert not both.any()


def test_neighbours_are_in_the_same_section_in_reading_order() -> None:
    def at(lecture: str, section: str | None, order: object) -> dict[str, object]:
        return {"lecture_id": lecture, "section_id": section, "order_in_section": order}

    metadata: dict[str, dict[str, object]] = {
        "z": at("1", "1", 0),
        "y": at("1", "1", 1.5),
        "x": at("1", "1", "2"),
        "12": at("1", "1", None),
        "9": at("1", "1", 10**400),
        "v": at("1", "2", 0),
        "u": at("2", "1", 0),
        "t": {},
    }
    index = make_index(dict.fromkeys(metadata, "text"), metadata=metadata)
    row = {record.chunk_id: number for number, record in enumerate(index.records)}

    def around(chunk_id: str, distance: int) -> tuple[str, str]:
        before, after = index.neighbours(row[chunk_id], distance)
        return "".join(index.records[n].chunk_id for n in before), "".join(index.records[n].chunk_id for n in after)

    assert around("y", 1) == ("z", "x")
    assert around("x", 5) == ("zy", "912")
    assert around("z", 2) == ("", "yx")
    assert around("v", 3) == around("u", 3) == around("t", 3) == ("", "")

"""Building the snapshot of a collection."""

from dataclasses import replace
from uuid import uuid4

import numpy as np
import pytest

from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from models.context import FORGOTTEN
from models.fingerprint import FingerprintBuilder
from retrieval.bm25 import Bm25, postings_as_arrays
from retrieval.search import Method, Query, SearchOptions, search_snapshot
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.store import SnapshotStore
from tests.support.published import ANY_GENERATION, MODEL, SIGNATURE, records_of

TEXTS = ["copper wire", "solder", "", "快速排序", "Copper number 5.", "solder", "drill"]


@pytest.fixture
def course_id() -> str:
    return f"{uuid4()}"


@pytest.mark.integration
def test_snapshot_contains_what_the_collection_contains(
    vector_store: VectorStore, course_id: str, store: SnapshotStore
) -> None:
    records, vectors, fingerprint = records_of(course_id, TEXTS)
    collection = vector_store.create(CollectionInfo(course_id, MODEL, SIGNATURE))
    collection.upsert(records[::-1], vectors[::-1])
    built = build_snapshot(collection, 7)
    assert built.fingerprint == fingerprint
    assert built.is_of(fingerprint)
    store.save(course_id, built)
    for snapshot in (built.in_memory(), store.open(course_id, fingerprint, ANY_GENERATION)):
        assert (snapshot.info, snapshot.generation) == (collection.info, 7)
        assert list(snapshot.chunk_ids) == [record.chunk_id for record in records]
        assert list(snapshot.texts) == TEXTS
        assert [snapshot.metadata(row)["标题"] for row in range(len(snapshot))] == [[text, None] for text in TEXTS]
        for row, vector in enumerate(vectors):
            cosines = snapshot.cosines.exact(vector, np.arange(len(TEXTS)))
            assert cosines[row] == pytest.approx(1, abs=1e-6)
            np.testing.assert_allclose(cosines, vectors @ vector, atol=1e-6)
        expected = Bm25(postings_as_arrays(TEXTS), len(TEXTS))
        for term in ("copper", "solder", "排序"):
            np.testing.assert_array_equal(snapshot.bm25.scores({term: 1})[0], expected.scores({term: 1})[0])


@pytest.mark.integration
def test_titles_are_found_and_not_shown(vector_store: VectorStore, course_id: str) -> None:
    """The contexts come from the collection, so a process needs no setting. Copies are found by the first one's."""
    records, vectors, _ = records_of(course_id, TEXTS)
    titles = ["Heaps", "Queues", "", "Heaps", FORGOTTEN, "Stacks", ""]
    records = [replace(record, context=title) for record, title in zip(records, titles, strict=True)]
    collection = vector_store.create(CollectionInfo(course_id, MODEL, SIGNATURE))
    collection.upsert(records, vectors)
    assert collection.find_mismatches(records, vectors) == []
    snapshot = build_snapshot(collection, 1).in_memory()
    assert list(snapshot.texts) == TEXTS
    assert "context" not in snapshot.metadata(0)

    def found(text: str) -> list[tuple[int, list[int]]]:
        hits = search_snapshot(snapshot, [Query(text, None)], SearchOptions(method=Method.KEYWORD), 9).hits
        return [(hit.row, hit.copies.tolist()) for hit in hits]

    assert sorted(found("heaps")) == [(0, []), (3, [])]
    assert found("queues") == [(1, [5])]
    assert found("stacks") == []


@pytest.mark.integration
def test_snapshot_that_is_built_again_is_the_same_file(
    vector_store: VectorStore, course_id: str, store: SnapshotStore
) -> None:
    records, vectors, fingerprint = records_of(course_id, TEXTS)
    collection = vector_store.create(CollectionInfo(course_id, MODEL, SIGNATURE))
    collection.upsert(records, vectors)
    store.save(course_id, build_snapshot(collection, 1))
    first = store.find(course_id, fingerprint, ANY_GENERATION)
    store.delete(course_id)
    collection.upsert(records[::-1], vectors[::-1])
    store.save(course_id, build_snapshot(collection, 1))
    assert store.find(course_id, fingerprint, ANY_GENERATION) == first


@pytest.mark.integration
def test_partly_written_collection_is_not_that_published(vector_store: VectorStore, course_id: str) -> None:
    records, vectors, fingerprint = records_of(course_id, TEXTS)
    collection = vector_store.create(CollectionInfo(course_id, MODEL, SIGNATURE))
    collection.upsert(records[:1], vectors[:1])
    assert not build_snapshot(collection, 1).is_of(fingerprint)
    collection.upsert(records[1:], vectors[1:])
    assert build_snapshot(collection, 1).is_of(fingerprint)


@pytest.mark.integration
def test_collection_of_another_model_is_not_that_published(vector_store: VectorStore, course_id: str) -> None:
    records, vectors, fingerprint = records_of(course_id, TEXTS)
    collection = vector_store.create(CollectionInfo(course_id, MODEL, "another signature"))
    collection.upsert(records, vectors)
    assert not build_snapshot(collection, 1).is_of(fingerprint)


@pytest.mark.integration
def test_empty_collection_gives_an_empty_snapshot(vector_store: VectorStore, course_id: str) -> None:
    collection = vector_store.create(CollectionInfo(course_id, MODEL, SIGNATURE))
    built = build_snapshot(collection, 1)
    assert built.is_of(FingerprintBuilder().build(SIGNATURE))
    assert len(built.in_memory()) == 0


@pytest.mark.integration
def test_each_page_is_reported(vector_store: VectorStore, course_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    records, vectors, fingerprint = records_of(course_id, TEXTS)
    collection = vector_store.create(CollectionInfo(course_id, MODEL, SIGNATURE))
    collection.upsert(records, vectors)
    pages: list[None] = []
    contents = collection.contents
    monkeypatch.setattr(collection, "contents", lambda: contents(3))
    assert build_snapshot(collection, 1, lambda: pages.append(None)).is_of(fingerprint)
    assert len(pages) == 3


@pytest.mark.integration
def test_deleted_collection_is_reported(vector_store: VectorStore, course_id: str) -> None:
    collection = vector_store.create(CollectionInfo(course_id, MODEL, SIGNATURE))
    vector_store.delete(course_id)
    with pytest.raises(CollectionNotFoundError):
        build_snapshot(collection, 1)

"""The vector store on a real Chroma server: what is written is read back, and its failures have one type."""

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest

from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from tests.support.chroma import chroma_server

pytestmark = pytest.mark.integration

AXES = np.eye(4, dtype=np.float32)
METADATA = {"lecture_id": "l1", "section_id": "s1", "source_type": "pdf", "language": "en", "order_in_section": 0}


@pytest.fixture
def collection(vector_store: VectorStore) -> CourseCollection:
    return vector_store.create(CollectionInfo(f"课程 {uuid4()}", "model", "signature"))


def record(chunk_id: str, **metadata: object) -> Record:
    return Record(chunk_id, f"text of {chunk_id}", {"course_id": "c", **METADATA, **metadata}, f"hash of {chunk_id}")


def test_a_collection_remembers_what_it_was_made_with(vector_store: VectorStore, collection: CourseCollection) -> None:
    info = collection.info
    assert vector_store.open(info.course_id).info == info
    assert (info.model_name, info.model_signature) == ("model", "signature")


def test_texts_scores_and_metadata_come_back(collection: CourseCollection) -> None:
    nested = {"heading_path": ["A", "B"], "page": 3, "lecture_title": "讲座", "null": None}
    collection.upsert([record("a", **nested), record("b")], AXES[:2])
    (best, cosine), (other, other_cosine) = collection.query(AXES[0], 5, {})
    assert (best.chunk_id, best.text) == ("a", "text of a")
    assert cosine == pytest.approx(1.0)
    assert best.metadata == {"course_id": "c", **METADATA, **nested}
    assert other.chunk_id == "b"
    assert other_cosine == pytest.approx(0.0, abs=1e-6)


def test_of_every_filter_one_value_must_match(collection: CourseCollection) -> None:
    collection.upsert([record("a"), record("b", section_id="s2"), record("c", section_id=None)], AXES[:3])
    assert [found.chunk_id for found, _ in collection.query(AXES[0], 5, {"section_id": ["s1", "s2"]})] == ["a", "b"]
    assert [found.chunk_id for found, _ in collection.query(AXES[0], 5, {"section_id": ["s2"]})] == ["b"]
    assert [
        found.chunk_id for found, _ in collection.query(AXES[0], 5, {"section_id": ["s2"], "lecture_id": ["l1"]})
    ] == ["b"]
    assert collection.query(AXES[0], 5, {"section_id": ["s2"], "lecture_id": ["l2"]}) == []


def test_equal_scores_are_ordered_by_chunk_id(collection: CourseCollection) -> None:
    collection.upsert([record(name) for name in "cab"], np.repeat(AXES[:1], 3, axis=0))
    assert [found.chunk_id for found, _ in collection.query(AXES[0], 3, {})] == ["a", "b", "c"]


def test_an_upsert_leaves_nothing_of_the_old_metadata(collection: CourseCollection) -> None:
    collection.upsert([record("a", page=3)], AXES[:1])
    collection.upsert([record("a", section_id=None)], AXES[1:2])
    [(found, cosine)] = collection.query(AXES[1], 5, {})
    assert cosine == pytest.approx(1.0)
    assert found.metadata["section_id"] is None
    assert "page" not in found.metadata
    assert collection.query(AXES[1], 5, {"section_id": ["s1"]}) == []


def test_an_update_replaces_the_metadata_alone(collection: CourseCollection) -> None:
    collection.upsert([record("a", page=3), record("b")], AXES[:2])
    collection.update([record("a", section_id=None, heading="A")])
    (best, cosine), (other, _) = collection.query(AXES[0], 5, {})
    assert (best.chunk_id, best.text, other.chunk_id) == ("a", "text of a", "b")
    assert cosine == pytest.approx(1.0)
    assert best.metadata == {"course_id": "c", **METADATA, "section_id": None, "heading": "A"}


def test_hashes_tell_texts_from_records(collection: CourseCollection) -> None:
    collection.upsert([record("a"), record("b")], AXES[:2])
    held = collection.hashes(["a", "b", "not there"])
    assert {chunk_id: hashes.content for chunk_id, hashes in held.items()} == {"a": "hash of a", "b": "hash of b"}
    assert held["a"].text == record("a", page=3).text_hash != held["b"].text
    assert collection.hashes([]) == {}


def test_more_than_one_request_lists_reads_and_removes_all(collection: CourseCollection) -> None:
    ids = [f"chunk-{number:05}" for number in range(2600)]
    collection.upsert([record(chunk_id) for chunk_id in ids], np.resize(AXES, (len(ids), 4)))
    assert len(collection.hashes(ids)) == 2600
    pages = []
    for page in collection.chunk_ids():
        pages.append(page)
        collection.remove([chunk_id for chunk_id in page if chunk_id != ids[0]])
    assert [len(page) for page in pages] == [100, 2500]
    assert sorted(chunk_id for page in pages for chunk_id in page) == ids
    assert list(collection.chunk_ids()) == [ids[:1]]


def test_what_reads_back_otherwise_is_named(collection: CourseCollection) -> None:
    records = [record(chunk_id) for chunk_id in "abc"]
    assert collection.differing(records, AXES[:3]) == ["a", "b", "c"]
    collection.upsert(records, AXES[:3])
    assert collection.differing(records, AXES[:3]) == []
    assert collection.differing(records, AXES[[0, 1, 3]]) == ["c"]
    assert collection.differing([record("a", page=3), *records[1:]]) == ["a"]
    assert collection.differing([records[0], Record("b", "other", records[1].metadata, "hash of b")]) == ["b"]


def test_dimensions_are_those_of_the_vectors(collection: CourseCollection) -> None:
    assert collection.dimensions() == 0
    collection.upsert([record("a")], AXES[:1])
    assert collection.dimensions() == 4


def test_creating_what_is_there_changes_nothing(vector_store: VectorStore, collection: CourseCollection) -> None:
    """As it happens when the answer to the first attempt got lost."""
    collection.upsert([record("a")], AXES[:1])
    again = vector_store.create(CollectionInfo(collection.info.course_id, "other model", "other signature"))
    assert again.info == collection.info
    assert again.count() == 1


def test_a_course_without_a_collection(vector_store: VectorStore) -> None:
    with pytest.raises(CollectionNotFoundError):
        vector_store.open("never embedded")
    vector_store.delete("never embedded")


def test_a_collection_deleted_meanwhile(vector_store: VectorStore, collection: CourseCollection) -> None:
    vector_store.delete(collection.info.course_id)
    with pytest.raises(CollectionNotFoundError):
        collection.query(AXES[0], 1, {})


def test_vectors_of_another_size_are_refused(collection: CourseCollection) -> None:
    collection.upsert([record("a")], AXES[:1])
    with pytest.raises(VectorStoreError, match="dimension"):
        collection.query(np.ones(5, dtype=np.float32), 1, {})


def test_a_server_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    port = free_port()
    store = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{port}", chroma_timeout_seconds=5))
    with pytest.raises(VectorStoreError, match="cannot be reached"):
        store.check()
    with chroma_server(tmp_path / "chroma", port):
        store.create(CollectionInfo("c", "m", "s")).upsert([record("a")], AXES[:1])
    with pytest.raises(VectorStoreError, match="cannot be reached"):
        store.open("c")
    with chroma_server(tmp_path / "chroma", port):
        store.check()
        assert store.open("c").count() == 1
    store.close()


def test_patience_outlasts_a_restart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It starts with a server that has not been started yet; the waiting is told of once an operation."""
    port = free_port()
    settings = VectorStoreSettings(chroma_url=f"http://127.0.0.1:{port}")
    with ExitStack() as server, closing(VectorStore(settings, patience_seconds=60)) as store:
        start = threading.Timer(1, lambda: server.enter_context(chroma_server(tmp_path / "chroma", port)))
        start.start()
        collection = store.create(CollectionInfo("c", "m", "s"))
        start.join()
        collection.upsert([record("a")], AXES[:1])
        server.close()
        start = threading.Timer(1, lambda: server.enter_context(chroma_server(tmp_path / "chroma", port)))
        start.start()
        assert collection.count() == 1
        start.join()
    assert caplog.text.count("Waiting for it, 60 s at most") == 2


def test_patience_has_an_end_and_every_attempt_is_allowed_first() -> None:
    attempts = []
    url = f"http://127.0.0.1:{free_port()}"
    store = VectorStore(VectorStoreSettings(chroma_url=url), patience_seconds=0.2)
    with pytest.raises(VectorStoreUnreachableError, match="cannot be reached"):
        store.create(CollectionInfo("c", "m", "s"), before_write=lambda: attempts.append(1))
    assert len(attempts) > 1


def test_other_failures_are_not_waited_for(vector_store: VectorStore, chroma_url: str) -> None:
    attempts = []
    with closing(VectorStore(VectorStoreSettings(chroma_url=chroma_url), patience_seconds=60)) as store:
        with pytest.raises(CollectionNotFoundError):
            store.open("never embedded")
        collection = store.create(CollectionInfo(str(uuid4()), "m", "s"), before_write=lambda: attempts.append(1))
        attempts.clear()
        with pytest.raises(VectorStoreError, match="Chunk '' cannot be stored"):
            collection.upsert([record("")], AXES[:1])
    assert attempts == [1]


@pytest.fixture
def silent_server() -> Iterator[str]:
    """Accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def test_a_server_that_never_answers_is_given_up_in_time(silent_server: str) -> None:
    store = VectorStore(VectorStoreSettings(chroma_url=silent_server, chroma_timeout_seconds=0.2))
    with pytest.raises(VectorStoreError, match=r"did not answer within 0\.2 s"):
        store.check()


def test_a_server_that_stops_answering_is_given_up_in_time(chroma_url: str, silent_server: str) -> None:
    """The time-out holds for every call, not only for the first."""
    store = VectorStore(VectorStoreSettings(chroma_url=chroma_url, chroma_timeout_seconds=0.2))
    store.check()
    store._client._server._api_url = f"{silent_server}/api/v2"  # type: ignore[union-attr]
    with pytest.raises(VectorStoreError, match=r"did not answer within 0\.2 s"):
        store.open("c")
    store.close()


def test_threads_share_one_store(vector_store: VectorStore, collection: CourseCollection) -> None:
    collection.upsert([record("a"), record("b")], AXES[:2])
    course_id, errors = collection.info.course_id, []

    def search() -> None:
        try:
            for _ in range(10):
                assert len(vector_store.open(course_id).query(AXES[0], 2, {})) == 2
        except Exception as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=search) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors

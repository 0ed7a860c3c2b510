"""The vector store on a real Chroma server: reading, writing, errors and retries."""

import socket
import threading
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest

from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from embedding.vectors import Vectors
from tests.support.product import wait_until
from tests.support.servers.chroma import chroma_server

pytestmark = pytest.mark.integration

AXES = np.eye(4, dtype=np.float32)
METADATA = {"lecture_id": "l1", "section_id": "s1", "source_type": "pdf", "language": "en", "order_in_section": 0}


@pytest.fixture
def collection(vector_store: VectorStore) -> CourseCollection:
    return vector_store.create(CollectionInfo(f"课程 {uuid4()}", "model", "signature"))


def record(chunk_id: str, **metadata: object) -> Record:
    return Record(chunk_id, f"text of {chunk_id}", {"course_id": "c", **METADATA, **metadata}, f"hash of {chunk_id}")


def test_info_returns_course_and_model(vector_store: VectorStore, collection: CourseCollection) -> None:
    info = collection.info
    assert vector_store.open(info.course_id).info == info
    assert (info.model_name, info.model_signature) == ("model", "signature")


def test_invalid_url_is_an_error_of_the_store() -> None:
    with closing(VectorStore(VectorStoreSettings(chroma_url="http://127.0.0.1:port"))) as store:
        assert not store.answers()
        with pytest.raises(VectorStoreError):
            store.check()


def read(collection: CourseCollection) -> tuple[dict[str, Record], Vectors]:
    """The records by chunk id, and their vectors in the order of the ids."""
    [(records, vectors)] = collection.contents()
    order = sorted(range(len(records)), key=lambda row: records[row].chunk_id)
    return {records[row].chunk_id: records[row] for row in order}, vectors[order]


def test_contents_returns_texts_vectors_hashes_and_metadata(collection: CourseCollection) -> None:
    nested = {"heading_path": ["A", "B"], "page": 3, "lecture_title": "讲座", "null": None}
    collection.upsert([record("b"), record("a", **nested)], AXES[:2])
    records, vectors = read(collection)
    assert records == {"a": record("a", **nested), "b": record("b")}
    np.testing.assert_allclose(vectors, AXES[[1, 0]])
    assert vectors.dtype == np.float32


def test_contents_are_read_in_pages(collection: CourseCollection) -> None:
    assert list(collection.contents()) == []
    collection.upsert([record(name) for name in "abc"], AXES[:3])
    pages = list(collection.contents(page_size=2))
    assert [(len(records), vectors.shape) for records, vectors in pages] == [(2, (2, 4)), (1, (1, 4))]
    assert sorted(each.chunk_id for records, _ in pages for each in records) == ["a", "b", "c"]


def test_upsert_replaces_all_metadata(collection: CourseCollection) -> None:
    collection.upsert([record("a", page=3)], AXES[:1])
    collection.upsert([record("a", section_id=None)], AXES[1:2])
    records, vectors = read(collection)
    assert records == {"a": record("a", section_id=None)}
    np.testing.assert_allclose(vectors, AXES[1:2])


def test_update_replaces_only_metadata(collection: CourseCollection) -> None:
    collection.upsert([record("a", page=3), record("b")], AXES[:2])
    collection.update([record("a", section_id=None, heading="A")])
    records, vectors = read(collection)
    assert records == {"a": record("a", section_id=None, heading="A"), "b": record("b")}
    np.testing.assert_allclose(vectors, AXES[:2])


def test_hashes_returns_text_and_content_hashes_of_stored_chunks(collection: CourseCollection) -> None:
    collection.upsert([record("a"), record("b")], AXES[:2])
    stored = collection.hashes(["a", "b", "not there"])
    assert {chunk_id: hashes.content for chunk_id, hashes in stored.items()} == {"a": "hash of a", "b": "hash of b"}
    assert stored["a"].text == record("a", page=3).text_hash != stored["b"].text
    assert collection.hashes([]) == {}


def test_collection_larger_than_one_request(collection: CourseCollection) -> None:
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


def test_find_mismatches_returns_ids_of_differing_records(collection: CourseCollection) -> None:
    records = [record(chunk_id) for chunk_id in "abc"]
    assert collection.find_mismatches(records, AXES[:3]) == ["a", "b", "c"]
    collection.upsert(records, AXES[:3])
    assert collection.find_mismatches(records, AXES[:3]) == []
    assert collection.find_mismatches(records, AXES[[0, 1, 3]]) == ["c"]
    assert collection.find_mismatches([record("a", page=3), *records[1:]]) == ["a"]
    assert collection.find_mismatches([records[0], Record("b", "other", records[1].metadata, "hash of b")]) == ["b"]


def test_dimensions_of_empty_and_filled_collection(collection: CourseCollection) -> None:
    assert collection.dimensions() == 0
    collection.upsert([record("a")], AXES[:1])
    assert collection.dimensions() == 4


def test_create_returns_existing_collection_unchanged(vector_store: VectorStore, collection: CourseCollection) -> None:
    """A retry creates the collection twice if the response to the first attempt was lost."""
    collection.upsert([record("a")], AXES[:1])
    again = vector_store.create(CollectionInfo(collection.info.course_id, "other model", "other signature"))
    assert again.info == collection.info
    assert again.count() == 1


def test_course_without_collection_cannot_be_opened_but_deleted(vector_store: VectorStore) -> None:
    with pytest.raises(CollectionNotFoundError):
        vector_store.open("never embedded")
    vector_store.delete("never embedded")


def test_reading_a_deleted_collection_raises_not_found(vector_store: VectorStore, collection: CourseCollection) -> None:
    vector_store.delete(collection.info.course_id)
    with pytest.raises(CollectionNotFoundError):
        next(collection.contents())


def test_upsert_rejects_vectors_of_other_dimensions(collection: CourseCollection) -> None:
    collection.upsert([record("a")], AXES[:1])
    with pytest.raises(VectorStoreError, match="dimension"):
        collection.upsert([record("b")], np.ones((1, 5), dtype=np.float32))


def test_store_reconnects_after_an_outage(tmp_path: Path) -> None:
    port = free_port()
    store = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{port}"))
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


def test_calls_are_retried_until_the_server_runs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The server starts before the second attempt. The retries are logged once per call."""
    port = free_port()
    settings = VectorStoreSettings(chroma_url=f"http://127.0.0.1:{port}")
    attempts = 0
    with ExitStack() as server, closing(VectorStore(settings, patience_seconds=60)) as store:

        def start_server_at_second_attempt() -> None:
            nonlocal attempts
            attempts += 1
            if attempts == 2:
                server.enter_context(chroma_server(tmp_path / "chroma", port))

        collection = store.create(CollectionInfo("c", "m", "s"), start_server_at_second_attempt)
        server.close()
        attempts = 0
        collection.upsert([record("a")], AXES[:1])
        assert collection.count() == 1
    assert caplog.text.count("Retrying for up to 60 s") == 2


def test_retries_end_and_before_write_precedes_every_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the pauses between the attempts take time, on a fake clock: 0.1 + 0.2 + 0.4 + 0.8 s."""
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=lambda: sum(pauses))
    monkeypatch.setattr("tenacity.time", clock)
    monkeypatch.setattr("tenacity.nap.time", clock)
    attempts = []
    store = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{free_port()}"), patience_seconds=1)
    with pytest.raises(VectorStoreUnreachableError, match="cannot be reached"):
        store.create(CollectionInfo("c", "m", "s"), before_write=lambda: attempts.append(1))
    assert len(attempts) == len(pauses) + 1 == 5


def test_other_errors_are_not_retried(vector_store: VectorStore, chroma_url: str) -> None:
    attempts = []
    with closing(VectorStore(VectorStoreSettings(chroma_url=chroma_url), patience_seconds=60)) as store:
        with pytest.raises(CollectionNotFoundError):
            store.open("never embedded")
        collection = store.create(CollectionInfo(str(uuid4()), "m", "s"), before_write=lambda: attempts.append(1))
        attempts.clear()
        with pytest.raises(VectorStoreError, match="Chunk '' cannot be stored"):
            collection.upsert([record("")], AXES[:1])
    assert attempts == [1]


def test_first_call_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_server:
        url = f"http://127.0.0.1:{silent_server.getsockname()[1]}"
        store = VectorStore(VectorStoreSettings(chroma_url=url, chroma_timeout_seconds=0.2))
        with pytest.raises(VectorStoreUnreachableError, match=r"did not answer within 0\.2 s"):
            store.check()


def test_later_calls_time_out(tmp_path: Path) -> None:
    port = free_port()
    settings = VectorStoreSettings(chroma_url=f"http://127.0.0.1:{port}", chroma_timeout_seconds=2)
    with closing(VectorStore(settings)) as store:

        def is_connected() -> bool:
            try:
                store.check()
            except VectorStoreUnreachableError:  # a slow machine may need more than 2 s
                return False
            return True

        with chroma_server(tmp_path / "chroma", port):
            wait_until(is_connected, seconds=60, state=lambda: "no answer within 2 s")
        with (
            socket.create_server(("127.0.0.1", port)),  # accepts connections and never answers
            pytest.raises(VectorStoreUnreachableError, match="did not answer within 2 s"),
        ):
            store.open("c")


def test_threads_can_share_a_store(vector_store: VectorStore, collection: CourseCollection) -> None:
    collection.upsert([record("a"), record("b")], AXES[:2])
    course_id, errors = collection.info.course_id, []

    def read_contents() -> None:
        try:
            for _ in range(10):
                assert set(read(vector_store.open(course_id))[0]) == {"a", "b"}
        except Exception as error:  # noqa: BLE001 - reported below
            errors.append(error)

    threads = [threading.Thread(target=read_contents) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors

"""Indexing while a real Chroma server fails: damaged files, a full disk, restarts."""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.damage import MAX_DAMAGED, find_damaged
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnhealthyError, VectorStoreUnreachableError
from embedding.vector_store.indexing import EMBED_BATCH, index_course
from embedding.vector_store.server import VectorStoreSettings
from tests.support.indexed_course import IndexedCourse, StubEmbedder
from tests.support.servers.chroma import chroma_process

pytestmark = pytest.mark.integration


@pytest.fixture
def embedder() -> StubEmbedder:
    return StubEmbedder()


class Server:
    """A Chroma server that can be stopped, started and damaged."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._running = ExitStack()

    def start(self) -> None:
        _, self.process = self._running.enter_context(chroma_process(self.directory, self.port))

    def stop(self) -> None:
        self._running.close()

    def execute(self, statement: str, *parameters: str | bytes) -> list[Any]:
        with closing(sqlite3.connect(self.directory / "chroma.sqlite3")) as database, database:
            return database.execute(statement, parameters).fetchall()

    @contextmanager
    def no_file_handles(self) -> Iterator[None]:
        """Let the server open almost no more files: a few handles are left for its connections."""
        before = self.process.rlimit(psutil.RLIMIT_NOFILE)
        self.process.rlimit(psutil.RLIMIT_NOFILE, (self.process.num_fds() + 3, before[1]))
        try:
            yield
        finally:
            self.process.rlimit(psutil.RLIMIT_NOFILE, before)

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """Let every write of records fail."""
        self.execute(
            "CREATE TRIGGER full BEFORE INSERT ON embeddings_queue BEGIN "
            "SELECT RAISE(ABORT, 'database or disk is full'); END"
        )
        try:
            yield
        finally:
            self.execute("DROP TRIGGER full")

    def store(self, patience_seconds: float = 0.0) -> VectorStore:
        return VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{self.port}"), patience_seconds)

    def damage_log(self, course: IndexedCourse) -> None:
        """Damage the queue of writes that Chroma has not applied yet; its error is "Failed to pull logs"."""
        [[collection_id]] = self.execute("SELECT id FROM collections WHERE name = ?", f"course_{course.id}")
        self.execute("UPDATE embeddings_queue SET vector = x'00' WHERE topic LIKE ?", f"%{collection_id}")

    def damage_index(self, course: IndexedCourse) -> None:
        """Empty a file of the vector index, as a kill during a write may; its error is "Error loading hnsw index"."""
        [[segment]] = self.execute(
            "SELECT s.id FROM segments s JOIN collections c ON s.collection = c.id "
            "WHERE c.name = ? AND s.scope = 'VECTOR'",
            f"course_{course.id}",
        )
        (self.directory / segment / "header.bin").write_bytes(b"")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    server = Server(tmp_path / "chroma")
    server.start()
    yield server
    server.stop()


class TestDamagedCollection:
    @pytest.mark.parametrize(("damage", "chunks"), [(Server.damage_log, 20), (Server.damage_index, 1100)])
    def test_damaged_collection_is_rebuilt_and_others_are_unchanged(
        self,
        server: Server,
        embedder: StubEmbedder,
        caplog: pytest.LogCaptureFixture,
        damage: Callable[[Server, IndexedCourse], None],
        chunks: int,
    ) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=[f"text {number}" for number in range(chunks)])
            other_course = IndexedCourse(store, embedder, texts=["other"])
            course.index(page_size=500)
            other_course.index()
            server.stop()
            damage(server, course)
            server.start()
            with pytest.raises(VectorStoreError, match="failed"):
                next(course.collection.contents())
            assert find_damaged(store, [course.id, other_course.id]) == [course.id]
            assert {collection.info.course_id for collection in store.collections()} == {course.id, other_course.id}
            iterator = iter(course.pages())  # cannot be read again, so the collection cannot be rebuilt
            with pytest.raises(VectorStoreError, match="failed"):
                index_course(course.id, iterator, store, embedder, lambda _: None)

            with caplog.at_level(logging.WARNING, "embedding"):
                report = course.index(page_size=500)
            assert (report.rebuilt, report.embedded, report.complete, report.sound) == (True, chunks, True, True)
            assert "is damaged and is rebuilt" in caplog.text
            assert course.stored() == course.expected()
            assert other_course.stored() == other_course.expected()
            assert other_course.index().kept == 1

    def test_collection_damaged_during_the_pass_is_rebuilt(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=[f"text {number}" for number in range(200)])

            def damage_once(finished: int) -> None:
                if not progress:
                    server.stop()
                    server.damage_log(course)
                    server.start()
                progress.append(finished)

            progress: list[int] = []
            report = course.index(on_page=damage_once)
            assert (report.rebuilt, report.embedded, report.complete) == (True, 200, True)
            assert course.stored() == course.expected()

    def test_full_disk_is_an_error_that_names_a_chunk(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=["text 0", "text 1"])
            course.index()
            server.execute(
                "CREATE TRIGGER full BEFORE INSERT ON embeddings_queue BEGIN "
                "SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
            before = course.stored()
            course.chunks["chunk-0001"].text = "changed"
            with pytest.raises(VectorStoreError, match="'chunk-0001' cannot be stored"):
                course.index()
            assert course.stored() == before

    def test_rejected_chunk_is_named(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=["text 0"])
            course.index()
            server.execute(
                "CREATE TRIGGER refuse BEFORE INSERT ON embeddings_queue WHEN NEW.id = 'chunk-0002' BEGIN "
                "SELECT RAISE(ABORT, 'refused'); END"
            )
            course.chunks |= {
                chunk_id: course.chunk(chunk_id, "new") for chunk_id in ("chunk-0001", "chunk-0002", "chunk-0003")
            }
            with pytest.raises(VectorStoreError, match="'chunk-0002' cannot be stored"):
                course.index()

    def test_unreachable_server_is_not_a_damaged_collection(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=["text 0"])
            course.index()
            server.stop()
            with pytest.raises(VectorStoreUnreachableError):
                course.index()
            with pytest.raises(VectorStoreUnreachableError):
                find_damaged(store, [course.id])
            server.start()
            assert course.index().kept == 1


class TestSickServer:
    """A server that cannot read or write is no reason to delete a collection."""

    def test_collections_are_kept_while_there_are_no_file_handles(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=[f"text {number}" for number in range(1100)])
            other_course = IndexedCourse(store, embedder, texts=["other"])
            course.index(page_size=500)
            other_course.index()
            server.stop()
            server.start()  # with an empty cache, so that reading the large course opens its files
            assert other_course.collection.dimensions()
            with server.no_file_handles():
                with pytest.raises(VectorStoreError, match="failed"):
                    course.collection.dimensions()
                with pytest.raises(VectorStoreUnhealthyError, match="Nothing is deleted"):
                    find_damaged(store, [course.id])
                with pytest.raises(VectorStoreUnhealthyError, match="Nothing is deleted"):
                    course.index(page_size=500)
            report = course.index(page_size=500)
            assert (report.rebuilt, report.kept) == (False, 1100)

    def test_damaged_collection_is_kept_while_the_disk_is_full(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=["text 0"])
            course.index()
            server.stop()
            server.damage_log(course)
            server.start()
            with server.full_disk(), pytest.raises(VectorStoreUnhealthyError, match="disk is full"):
                course.index()
            assert course.index().rebuilt, "it is damaged indeed"

    def test_many_collections_that_cannot_be_read_are_kept(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            courses = [IndexedCourse(store, embedder, texts=["text 0"]) for _ in range(2 * MAX_DAMAGED + 2)]
            for course in courses:
                course.index()
            server.stop()
            for course in courses[: MAX_DAMAGED + 2]:
                server.damage_log(course)
            server.start()
            with pytest.raises(VectorStoreUnhealthyError, match=f"{MAX_DAMAGED + 2} collections cannot be read"):
                find_damaged(store, [courses[0].id])
            for course in courses[:2]:
                store.delete(course.id)
            assert find_damaged(store, [courses[2].id]) == [courses[2].id], "as many of them can be read now"

    def test_collection_that_can_be_read_again_is_kept(
        self, server: Server, embedder: StubEmbedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=["text 0"])
            course.index()
            [[vector]] = server.execute("SELECT vector FROM embeddings_queue")
            server.stop()
            server.damage_log(course)
            server.start()
            monkeypatch.setattr(
                "time.sleep", lambda _: server.execute("UPDATE embeddings_queue SET vector = ?", vector)
            )
            assert find_damaged(store, [course.id]) == []


def test_indexing_continues_after_a_restart_of_the_server(
    server: Server, embedder: StubEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    """The server stops after the second batch, and starts again before the second attempt to write the third."""
    is_stopped = False
    failed_attempts = 0

    def stop_server(finished: int) -> None:
        nonlocal is_stopped
        if finished == 2 * EMBED_BATCH:
            server.stop()
            is_stopped = True

    def start_server_at_second_attempt() -> None:
        nonlocal is_stopped, failed_attempts
        if is_stopped and failed_attempts == 1:
            server.start()
            is_stopped = False
        failed_attempts += is_stopped

    with closing(server.store(patience_seconds=60)) as store:
        course = IndexedCourse(store, embedder, texts=[f"text {number}" for number in range(200)])
        report = course.index(page_size=200, on_page=stop_server, before_write=start_server_at_second_attempt)
        assert (report.embedded, report.complete, report.sound, report.rebuilt) == (200, True, True, False)
        assert course.stored() == course.expected()
    assert failed_attempts == 1
    assert caplog.text.count("cannot be reached") == 1
    assert "Retrying for up to 60 s" in caplog.text

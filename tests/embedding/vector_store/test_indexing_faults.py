"""Indexing while Chroma fails in earnest: damaged files, a full disk, restarts."""

import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Timer
from typing import Any

import pytest

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnreachableError
from embedding.vector_store.indexing import index_course
from embedding.vector_store.server import VectorStoreSettings
from tests.support.chroma import chroma_server
from tests.support.indexed_course import IndexedCourse, StubEmbedder, vector_of

pytestmark = pytest.mark.integration


@pytest.fixture
def embedder() -> StubEmbedder:
    return StubEmbedder()


class Server:
    """A Chroma server whose files may be damaged while it is stopped."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self._running = ExitStack()

    def start(self) -> None:
        self._running.enter_context(chroma_server(self.directory, self.port))

    def stop(self) -> None:
        self._running.close()

    def execute(self, statement: str, *parameters: str) -> list[Any]:
        with closing(sqlite3.connect(self.directory / "chroma.sqlite3")) as database, database:
            return database.execute(statement, parameters).fetchall()

    def store(self, patience_seconds: float = 0.0) -> VectorStore:
        return VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{self.port}"), patience_seconds)

    def damage_log(self, course: IndexedCourse) -> None:
        """What Chroma has yet to apply can't be read: "Failed to pull logs"."""
        [[collection_id]] = self.execute("SELECT id FROM collections WHERE name = ?", f"course_{course.id}")
        self.execute("UPDATE embeddings_queue SET vector = x'00' WHERE topic LIKE ?", f"%{collection_id}")

    def damage_index(self, course: IndexedCourse) -> None:
        """The file of its vectors is empty, as after a kill while it is written: "Error loading hnsw index"."""
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


class TestABrokenCollection:
    @pytest.mark.parametrize(("damage", "chunks"), [(Server.damage_log, 20), (Server.damage_index, 1100)])
    def test_is_built_anew_and_its_neighbour_left_alone(
        self,
        server: Server,
        embedder: StubEmbedder,
        caplog: pytest.LogCaptureFixture,
        damage: Callable[[Server, IndexedCourse], None],
        chunks: int,
    ) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=[f"text {number}" for number in range(chunks)])
            neighbour = IndexedCourse(store, embedder, texts=["neighbour"])
            course.index(page_size=500)
            neighbour.index()
            server.stop()
            damage(server, course)
            server.start()
            with pytest.raises(VectorStoreError, match="failed"):
                course.collection.query(vector_of("text 1"), 1, {})
            assert store.is_broken(course.id)
            assert not store.is_broken(neighbour.id)
            once = iter(course.pages())
            with pytest.raises(VectorStoreError, match="failed"):
                index_course(course.id, once, store, embedder, lambda _: None)

            with caplog.at_level(logging.WARNING, "embedding"):
                report = course.index(page_size=500)
            assert (report.rebuilt, report.embedded, report.complete, report.sound) == (True, chunks, True, True)
            assert "is broken and is built anew" in caplog.text
            assert course.held() == course.written()
            assert neighbour.held() == neighbour.written()
            assert neighbour.index().kept == 1

    def test_breaks_during_the_pass(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=[f"text {number}" for number in range(200)])

            def break_once(finished: int) -> None:
                if not reached:
                    server.stop()
                    server.damage_log(course)
                    server.start()
                reached.append(finished)

            reached: list[int] = []
            report = course.index(on_page=break_once)
            assert (report.rebuilt, report.embedded, report.complete) == (True, 200, True)
            assert course.held() == course.written()

    def test_is_not_one_that_cannot_be_written(self, server: Server, embedder: StubEmbedder) -> None:
        """A full disk. The error names a chunk that could not be stored."""
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=["text 0", "text 1"])
            course.index()
            server.execute(
                "CREATE TRIGGER full BEFORE INSERT ON embeddings_queue BEGIN "
                "SELECT RAISE(ABORT, 'database or disk is full'); END"
            )
            before = course.held()
            course.chunks["chunk-0001"].text = "changed"
            with pytest.raises(VectorStoreError, match="'chunk-0001' cannot be stored"):
                course.index()
            assert course.held() == before

    def test_a_chunk_that_chroma_refuses_is_named(self, server: Server, embedder: StubEmbedder) -> None:
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

    def test_is_not_one_that_cannot_be_reached(self, server: Server, embedder: StubEmbedder) -> None:
        with closing(server.store()) as store:
            course = IndexedCourse(store, embedder, texts=["text 0"])
            course.index()
            server.stop()
            with pytest.raises(VectorStoreUnreachableError):
                course.index()
            with pytest.raises(VectorStoreUnreachableError):
                store.is_broken(course.id)
            server.start()
            assert course.index().kept == 1


def test_a_server_that_restarts_in_the_middle_is_waited_for(
    server: Server, embedder: StubEmbedder, caplog: pytest.LogCaptureFixture
) -> None:
    restart = Timer(1, server.start)

    def stop(finished: int) -> None:
        if finished == 100:
            server.stop()
            restart.start()

    with closing(server.store(patience_seconds=60)) as store:
        course = IndexedCourse(store, embedder, texts=[f"text {number}" for number in range(200)])
        report = course.index(on_page=stop)
        restart.join()
        assert (report.embedded, report.complete, report.sound, report.rebuilt) == (200, True, True, False)
        assert course.held() == course.written()
    assert caplog.text.count("cannot be reached") == 1
    assert "Waiting for it, 60 s at most" in caplog.text

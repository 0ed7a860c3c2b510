"""The Chroma server away, hanging, and back: the app says so in time, goes on with the rest and needs no restart."""

import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from starlette.testclient import TestClient

from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from tests.search_api.backstage import Backstage
from tests.support.chroma import chroma_server

pytestmark = pytest.mark.integration


@pytest.fixture
def hanging_url() -> Iterator[str]:
    """A server that takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen(256)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


def search(client: TestClient) -> tuple[int, str]:
    response = client.post("/courses/c/search", json={"query": "copper"})
    return response.status_code, response.json().get("error", {}).get("code", "")


def test_hanging(backstage: Backstage, hanging_url: str) -> None:
    """Callers wait for the time-out side by side, not one after the other."""
    backstage.vector_store = VectorStore(VectorStoreSettings(chroma_url=hanging_url, chroma_timeout_seconds=0.5))
    backstage.add_course("c")
    with backstage.client() as client, ThreadPoolExecutor(20) as pool:
        search(client)  # imports Chroma's client
        started = time.perf_counter()
        assert set(pool.map(lambda _: search(client), range(20))) == {(503, "vector_store_error")}
        assert time.perf_counter() - started < 2.5
        assert client.get("/readyz").json()["components"]["vector_store"]["ok"] is False


def test_alive_while_every_thread_hangs(backstage: Backstage, hanging_url: str) -> None:
    backstage.vector_store = VectorStore(VectorStoreSettings(chroma_url=hanging_url, chroma_timeout_seconds=4))
    backstage.add_course("c")
    with backstage.client(embedding_queue_limit=0) as client, ThreadPoolExecutor(42) as pool:
        searches = [pool.submit(search, client) for _ in range(42)]
        time.sleep(0.5)
        assert client.get("/healthz").status_code == 200
        assert not any(future.done() for future in searches), "the threads must be busy for this to say something"


def test_away_and_back(backstage: Backstage, tmp_path: Path) -> None:
    port = free_port()
    backstage.vector_store = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{port}"))
    backstage.add_course("c")
    record = Record("1", "copper", {"course_id": "c"}, "hash")
    vector = np.array([[1, 0, 0]], dtype=np.float32)
    with backstage.client() as client:
        assert search(client) == (503, "vector_store_error")
        assert client.get("/courses/c/embedding_status").status_code == 200
        with chroma_server(tmp_path / "chroma", port):
            assert search(client) == (400, "embedding_not_ready")
            info = CollectionInfo("c", backstage.embedder.name, backstage.embedder.signature)
            backstage.vector_store.create(info).upsert([record], vector)
            assert search(client) == (200, "")
        assert search(client) == (200, ""), "the course is in memory"
        backstage.opened.caches["courses"].clear_cache()
        assert search(client) == (503, "vector_store_error")
        with chroma_server(tmp_path / "chroma", port):
            assert search(client) == (200, "")
    backstage.vector_store.close()

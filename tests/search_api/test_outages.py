"""Outages of the Chroma server: searches get an error in time, everything else works, and no restart is needed."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import numpy as np
import pytest
from anyio.to_thread import current_default_thread_limiter
from starlette.testclient import TestClient

from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.product import wait_until
from tests.support.servers.chroma import chroma_server

pytestmark = pytest.mark.integration


class HangingServer:
    """Accepts connections and never answers. Closing it ends them."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        with suppress(OSError):  # if it is closed already
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        for connection in (self._listener, *self.connections):
            connection.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                self.connections.append(self._listener.accept()[0])


@pytest.fixture
def hanging_server() -> Iterator[HangingServer]:
    with closing(HangingServer()) as server:
        yield server


def search(client: TestClient) -> tuple[int, str]:
    response = client.post("/courses/c/search", json={"query": "copper"})
    return response.status_code, response.json().get("error", {}).get("code", "")


def free_threads(client: TestClient) -> float:
    """Number of threads that the app can still use for requests."""
    assert client.portal is not None
    return client.portal.call(lambda: current_default_thread_limiter().available_tokens)


def test_searches_time_out_together_if_chroma_hangs(harness: AppHarness, hanging_server: HangingServer) -> None:
    harness.vector_store = VectorStore(VectorStoreSettings(chroma_url=hanging_server.url, chroma_timeout_seconds=0.5))
    harness.add_course("c")
    with harness.client() as client, ThreadPoolExecutor(20) as pool:
        search(client)  # imports Chroma's client
        connections = len(hanging_server.connections)
        assert set(pool.map(lambda _: search(client), range(20))) == {(503, "vector_store_error")}
        assert len(hanging_server.connections) - connections < 20, "one search after the other waits for a timeout"
        assert client.get("/readyz").json()["components"]["vector_store"]["ok"] is False


def test_liveness_probe_answers_while_all_threads_wait_for_chroma(
    harness: AppHarness, hanging_server: HangingServer
) -> None:
    harness.vector_store = VectorStore(
        VectorStoreSettings(chroma_url=hanging_server.url, chroma_timeout_seconds=LIMIT_SECONDS)
    )
    harness.add_course("c")
    with harness.client(embedding_queue_limit=0) as client, ThreadPoolExecutor(60) as pool:
        searches = [pool.submit(search, client) for _ in range(60)]
        wait_until(lambda: not free_threads(client), LIMIT_SECONDS, lambda: "there are free threads", every=0.01)
        assert client.get("/healthz").status_code == 200
        assert not free_threads(client)
        hanging_server.close()
        assert {future.result() for future in searches} == {(503, "vector_store_error")}


def test_search_works_again_after_an_outage(harness: AppHarness, tmp_path: Path) -> None:
    port = free_port()
    harness.vector_store = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{port}"))
    harness.add_course("c")
    record = Record("1", "copper", {"course_id": "c"}, "hash")
    vector = np.array([[1, 0, 0]], dtype=np.float32)
    with harness.client() as client:
        assert search(client) == (503, "vector_store_error")
        assert client.get("/courses/c/embedding_status").status_code == 200
        with chroma_server(tmp_path / "chroma", port):
            assert search(client) == (400, "embedding_not_ready")
            info = CollectionInfo("c", harness.embedder.name, harness.embedder.signature)
            harness.vector_store.create(info).upsert([record], vector)
            assert search(client) == (200, "")
        assert search(client) == (200, ""), "the course is in memory"
        harness.app_services.caches["courses"].clear_cache()
        assert search(client) == (503, "vector_store_error")
        with chroma_server(tmp_path / "chroma", port):
            assert search(client) == (200, "")
    harness.vector_store.close()

"""Outages of the Chroma server: searches get an error in time, everything else works, and no restart is needed."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pytest
from starlette.testclient import TestClient

from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.search.snapshots import MAX_WAITING
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.search_api.search.test_serving import publish
from tests.support.servers.asgi import serving
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


def search(client: httpx.Client | TestClient, course_id: str = "c", query: str = "copper") -> tuple[int, str]:
    response = client.post(f"/courses/{course_id}/search", json={"query": query})
    return response.status_code, response.json().get("error", {}).get("code", "")


def test_searches_time_out_together_if_chroma_hangs(harness: AppHarness, hanging_server: HangingServer) -> None:
    harness.vector_store = VectorStore(VectorStoreSettings(chroma_url=hanging_server.url, chroma_timeout_seconds=0.5))
    harness.add_course("c")
    with harness.client() as client, ThreadPoolExecutor(20) as pool:
        search(client)  # imports Chroma's client
        connections = len(hanging_server.connections)
        assert set(pool.map(lambda _: search(client), range(20))) == {(503, "vector_store_error")}
        assert len(hanging_server.connections) - connections < 20, "one search after the other waits for a timeout"
        assert client.get("/readyz").json()["components"]["vector_store"]["ok"] is False


def test_other_requests_are_answered_while_chroma_hangs(harness: AppHarness, hanging_server: HangingServer) -> None:
    """Searches that wait for Chroma have places of their own; the threads of the others stay free."""
    harness.add_searchable_course("at hand")
    publish(harness, "copper", course_id="at hand")
    with harness.client() as client:
        assert search(client, "at hand") == (200, "")  # writes the snapshot
    searches = [f"needs Chroma {number}" for number in range(60)]
    for course_id in searches:
        harness.add_course(course_id)
    harness.vector_store = VectorStore(
        VectorStoreSettings(chroma_url=hanging_server.url, chroma_timeout_seconds=LIMIT_SECONDS)
    )
    # The app has the fewest threads, and none of them is needed for the snapshot that is here.
    app = create_app(SearchSettings(embedding_queue_limit=0), harness.services)
    with serving(app) as url, httpx.Client(base_url=url, timeout=LIMIT_SECONDS) as client:
        with ThreadPoolExecutor(60) as pool:
            waiting = [pool.submit(search, client, course_id) for course_id in searches]
            refused = [search.result() for search in islice(as_completed(waiting, LIMIT_SECONDS), 60 - MAX_WAITING)]
            assert set(refused) == {(503, "overloaded")}
            assert search(client, "at hand") == (200, "")
            assert search(client, "at hand", "another query") == (200, "")
            for path in ("/healthz", "/courses/at%20hand/embedding_status", f"/courses/{searches[0]}/embedding_status"):
                assert client.get(path).status_code == 200
            assert client.post("/embed", json={"texts": ["x"]}).status_code == 200
            assert sum(not search.done() for search in waiting) == MAX_WAITING
            hanging_server.close()
        assert {search.result() for search in waiting} == {(503, "overloaded"), (503, "vector_store_error")}
    harness.vector_store.close()


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

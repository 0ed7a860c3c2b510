"""Calls whose callers have gone leave the queue of the model, and are not computed."""

import json
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from embedding.interface import Embeddings
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.embeddings.model_queue import ModelQueue
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness, StubEmbedder
from tests.support.product import wait_until
from tests.support.servers.asgi import serving

pytestmark = pytest.mark.integration

SEARCH = "/courses/c/search"
REQUESTS: dict[str, tuple[str, Any]] = {
    "search": (SEARCH, lambda text: {"query": [text, f"{text} again"]}),
    "documents": ("/embed", lambda text: {"texts": [text]}),
    "queries": ("/v1/embeddings", lambda text: {"input": [text], "input_type": "query"}),
}


@pytest.fixture
def url(harness: AppHarness) -> Iterator[str]:
    harness.add_searchable_course("c", "copper")
    with serving(create_app(SearchSettings(), harness.services)) as url:
        yield url


def queue(harness: AppHarness) -> ModelQueue:
    return harness.app_services.embedding._queue


def waits(harness: AppHarness, number: int) -> None:
    """Wait until so many texts, or bulk calls, are in the queue."""

    def state() -> tuple[int, int]:
        return queue(harness).waiting_queries, queue(harness).waiting_bulk_calls

    wait_until(lambda: sum(state()) == number, LIMIT_SECONDS, lambda: str(state()), every=0.001)


def send(url: str, path: str, body: Any) -> socket.socket:
    """Send a request; closing the connection is what a client does that gives up."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS)
    content = json.dumps(body).encode()
    lines = ("Host: localhost", "Content-Type: application/json", f"Content-Length: {len(content)}", "\r\n")
    head = "\r\n".join((f"POST {path} HTTP/1.1", *lines))
    connection.sendall(head.encode() + content)
    return connection


@pytest.mark.parametrize("kind", REQUESTS)
def test_waiting_call_leaves_with_its_caller(
    harness: AppHarness, url: str, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, body = REQUESTS[kind]
    texts = harness.embedder.embedded_texts
    with ThreadPoolExecutor() as pool, httpx.Client(base_url=url, timeout=LIMIT_SECONDS) as client:
        with harness.embedder.blocked():
            first = pool.submit(client.post, path, json=body("first"))
            wait_until(lambda: "first" in texts, LIMIT_SECONDS, lambda: str(texts), every=0.001)
            with closing(send(url, path, body("gone"))):
                waits(harness, 2 if kind == "search" else 1)
            waits(harness, 0)
        assert first.result().status_code == 200
        assert client.post(path, json=body("next")).status_code == 200
    assert not {"gone", "gone again"} & {*texts}
    assert "Traceback" not in caplog.text


class Endless(StubEmbedder):
    """Computes layers of certain documents for ever."""

    def embed_documents(self, texts: Sequence[str], on_progress: Any = None, pause: Any = None) -> Embeddings:
        if "endless" in texts:
            self.embedded_texts += texts
            end = time.monotonic() + LIMIT_SECONDS
            while time.monotonic() < end:
                pause()
                time.sleep(0.001)
        return super().embed_documents(texts)


def test_running_bulk_call_stops_with_its_caller(harness: AppHarness) -> None:
    harness.embedder = Endless()
    with serving(create_app(SearchSettings(), harness.services)) as url:
        texts = harness.embedder.embedded_texts
        with closing(send(url, "/embed", {"texts": ["endless"]})):
            wait_until(lambda: texts == ["endless"], LIMIT_SECONDS, lambda: str(texts), every=0.001)
        assert httpx.post(f"{url}/embed", json={"texts": ["next"]}, timeout=LIMIT_SECONDS).status_code == 200
    assert texts == ["endless", "next"]


def test_caller_that_leaves_does_not_take_the_answer_of_another(harness: AppHarness, url: str) -> None:
    texts = harness.embedder.embedded_texts
    with ThreadPoolExecutor() as pool, httpx.Client(base_url=url, timeout=LIMIT_SECONDS) as client:
        with harness.embedder.blocked():
            first = pool.submit(client.post, SEARCH, json={"query": "first"})
            wait_until(lambda: texts == ["first"], LIMIT_SECONDS, lambda: str(texts), every=0.001)
            with closing(send(url, SEARCH, {"query": ["shared", "not shared"]})):
                waits(harness, 2)
                other = pool.submit(client.post, SEARCH, json={"query": ["shared", "more"]})
                waits(harness, 3)
            waits(harness, 2)
        assert [answer.result().status_code for answer in (first, other)] == [200, 200]
    assert texts == ["first", "shared", "more"]

"""POST /embed: vectors of texts, and limits on texts and waiting requests."""

from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest
from starlette.testclient import TestClient

from embedding.errors import ModelUnavailableError
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness


def test_embed_returns_vectors_and_model(client: TestClient) -> None:
    response = client.post("/embed", json={"texts": ["copper", "nine words are one more than eight of them"]})
    assert response.status_code == 200
    assert response.json() == {
        "embeddings": [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
        "model": "stub-model",
        "dimensions": 3,
        "truncated": 1,
    }


def test_embed_accepts_64_texts_by_default(client: TestClient) -> None:
    assert len(client.post("/embed", json={"texts": ["x"] * 64}).json()["embeddings"]) == 64
    response = client.post("/embed", json={"texts": ["x"] * 65})
    assert (response.status_code, response.json()["error"]["message"]) == (422, "texts: at most 64")


def test_embed_max_texts_limits_the_texts(harness: AppHarness) -> None:
    with harness.client(embed_max_texts=2) as client:
        assert client.post("/embed", json={"texts": ["x"] * 3}).status_code == 422


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "texts"),
        ({"texts": []}, "texts"),
        ({"texts": "x"}, "texts"),
        ({"texts": ["x", ""]}, "texts.1"),
        ({"texts": ["x", " \n"]}, "texts.1"),
        ({"texts": ["x", 5]}, "texts.1"),
        ({"texts": ["x", None]}, "texts.1"),
        ({"texts": ["x"], "model": "other"}, "body"),
    ],
)
def test_invalid_request_names_the_field(harness: AppHarness, client: TestClient, body: Any, field: str) -> None:
    response = client.post("/embed", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith(f"{field}: ")
    assert harness.embedder.embedded_texts == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"texts": [' + b'"",' * 1_000_000 + b'""]}', "texts.0: must not be blank"),
        (
            b"{" + b",".join(b'"%x": 1' % number for number in range(300_000)) + b"}",
            "body: unknown field '0'; the known fields are texts",
        ),
    ],
    ids=["blank texts", "unknown fields"],
)
def test_only_the_first_of_many_errors_is_reported(client: TestClient, content: bytes, message: str) -> None:
    """Validation runs on the event loop: collecting a million errors would block all other requests."""
    response = client.post("/embed", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"]["message"] == message


def test_model_computes_one_request_at_a_time(harness: AppHarness, client: TestClient) -> None:
    """Concurrent forward passes would only slow each other down."""
    harness.embedder.delay_seconds = 0.005
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda n: client.post("/embed", json={"texts": [str(n)]}), range(24)))
    assert {response.status_code for response in responses} == {200}
    assert sorted(harness.embedder.embedded_texts, key=int) == [str(n) for n in range(24)]
    assert harness.embedder.max_concurrent_calls == 1


def test_full_queue_refuses_requests_and_recovers(harness: AppHarness) -> None:
    """One request uses the model, two wait, and the fourth is refused."""
    with harness.client(embedding_queue_limit=2) as client, ThreadPoolExecutor(4) as pool:
        with harness.embedder.blocked():
            requests = {pool.submit(client.post, "/embed", json={"texts": [str(n)]}) for n in range(4)}
            refused, accepted = wait(requests, timeout=LIMIT_SECONDS, return_when=FIRST_COMPLETED)
            assert [request.result().json()["error"]["code"] for request in refused] == ["overloaded"]
            assert client.get("/courses").status_code == 200, "requests that need no model are answered"
        assert [request.result().status_code for request in accepted] == [200] * 3
        assert client.post("/embed", json={"texts": ["x"]}).status_code == 200


def test_waiting_requests_leave_threads_for_others(harness: AppHarness) -> None:
    """Even if more requests may wait than the server has threads by default (40)."""
    with (
        harness.client(embedding_queue_limit=60) as client,
        ThreadPoolExecutor(62) as pool,
        harness.embedder.blocked(),
    ):
        requests = {pool.submit(client.post, "/embed", json={"texts": ["x"]}) for _ in range(62)}
        refused, _ = wait(requests, timeout=LIMIT_SECONDS, return_when=FIRST_COMPLETED)
        assert len(refused) == 1, "61 requests use the model or wait for it"
        assert client.get("/courses").status_code == 200


def test_failed_request_leaves_the_queue(harness: AppHarness) -> None:
    harness.embedder.error = RuntimeError("unexpected")
    with harness.client(embedding_queue_limit=0) as client:
        assert [client.post("/embed", json={"texts": ["x"]}).status_code for _ in range(3)] == [500] * 3
        harness.embedder.error = None
        assert client.post("/embed", json={"texts": ["x"]}).status_code == 200


def test_missing_model_is_logged_once_at_start(harness: AppHarness, caplog: pytest.LogCaptureFixture) -> None:
    harness.load_error = ModelUnavailableError(harness.database, "there are no weights")
    with harness.client() as client:
        assert [record.levelname for record in caplog.records].count("ERROR") == 1
        assert "there are no weights" in caplog.text
        assert "course-search fetch-model" in client.post("/embed", json={"texts": ["x"]}).json()["error"]["message"]

"""POST /embed: texts in, vectors out, never more of them at once than the machine can take."""

import time
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from typing import Any

import pytest
from starlette.testclient import TestClient

from embedding.errors import ModelUnavailableError
from tests.search_api.backstage import Backstage


def test_answer(client: TestClient) -> None:
    response = client.post("/embed", json={"texts": ["copper", "nine words are one more than eight of them"]})
    assert response.status_code == 200
    assert response.json() == {
        "embeddings": [[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]],
        "model": "stub-model",
        "dimensions": 3,
        "truncated": 1,
    }


def test_at_most_64_texts(client: TestClient) -> None:
    assert len(client.post("/embed", json={"texts": ["x"] * 64}).json()["embeddings"]) == 64
    response = client.post("/embed", json={"texts": ["x"] * 65})
    assert (response.status_code, response.json()["error"]["message"]) == (422, "texts: at most 64")


def test_the_limit_is_a_setting(backstage: Backstage) -> None:
    with backstage.client(embed_max_texts=2) as client:
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
def test_invalid_request(backstage: Backstage, client: TestClient, body: Any, field: str) -> None:
    response = client.post("/embed", json=body)
    assert response.status_code == 422
    assert response.json()["error"]["message"].startswith(f"{field}: ")
    assert backstage.embedder.asked == []


@pytest.mark.parametrize(
    "content",
    [
        b'{"texts": [' + b'"",' * 1_000_000 + b'""]}',
        b"{" + b",".join(b'"%x": 1' % number for number in range(300_000)) + b"}",
    ],
    ids=["blank texts", "unknown fields"],
)
def test_many_faults_cost_no_more_than_one(client: TestClient, content: bytes) -> None:
    """Validation runs between all other requests: a body of nothing but faults must not hold them up."""
    started = time.perf_counter()
    response = client.post("/embed", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert time.perf_counter() - started < 1


def test_calls_take_turns(backstage: Backstage, client: TestClient) -> None:
    """Two forward passes at a time would only slow each other down."""
    backstage.embedder.seconds = 0.005
    with ThreadPoolExecutor(8) as pool:
        responses = list(pool.map(lambda n: client.post("/embed", json={"texts": [str(n)]}), range(24)))
    assert {response.status_code for response in responses} == {200}
    assert sorted(backstage.embedder.asked, key=int) == [str(n) for n in range(24)]
    assert backstage.embedder.most_at_once == 1


def test_the_queue_has_an_end_and_recovers(backstage: Backstage) -> None:
    """One call has the model, two wait, the fourth is turned away at once; afterwards all is as before."""
    with backstage.client(embedding_queue_limit=2) as client, ThreadPoolExecutor(4) as pool:
        with backstage.embedder.held():
            calls = {pool.submit(client.post, "/embed", json={"texts": [str(n)]}) for n in range(4)}
            answered, accepted = wait(calls, timeout=5, return_when=FIRST_COMPLETED)
            assert [call.result().json()["error"]["code"] for call in answered] == ["overloaded"]
            assert client.get("/courses").status_code == 200, "what needs no model goes on"
        assert [call.result().status_code for call in accepted] == [200] * 3
        assert client.post("/embed", json={"texts": ["x"]}).status_code == 200


def test_waiting_calls_leave_threads_for_the_others(backstage: Backstage) -> None:
    """Also when more may wait than the server has threads by default (40)."""
    with (
        backstage.client(embedding_queue_limit=60) as client,
        ThreadPoolExecutor(62) as pool,
        backstage.embedder.held(),
    ):
        calls = {pool.submit(client.post, "/embed", json={"texts": ["x"]}) for _ in range(62)}
        answered, _ = wait(calls, timeout=5, return_when=FIRST_COMPLETED)
        assert len(answered) == 1, "61 calls have the model or wait for it"
        assert client.get("/courses").status_code == 200


def test_a_failed_call_gives_its_place_back(backstage: Backstage) -> None:
    backstage.embedder.error = RuntimeError("unexpected")
    with backstage.client(embedding_queue_limit=0) as client:
        assert [client.post("/embed", json={"texts": ["x"]}).status_code for _ in range(3)] == [500] * 3
        backstage.embedder.error = None
        assert client.post("/embed", json={"texts": ["x"]}).status_code == 200


def test_missing_model_is_logged_once_at_start(backstage: Backstage, caplog: pytest.LogCaptureFixture) -> None:
    backstage.load_error = ModelUnavailableError(backstage.database, "there are no weights")
    with backstage.client() as client:
        assert [record.levelname for record in caplog.records].count("ERROR") == 1
        assert "there are no weights" in caplog.text
        assert "course-search fetch-model" in client.post("/embed", json={"texts": ["x"]}).json()["error"]["message"]

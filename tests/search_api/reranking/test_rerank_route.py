"""POST /v1/rerank: requests and answers have the form of Cohere, Jina and vLLM, and what was scored in time counts."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from retrieval.reranker import Reranker, RerankerSettings
from search_api.http.errors import InvalidRequestError, OverloadedError
from search_api.reranking.service import Reranking, RerankService
from tests.search_api.app_harness import AppHarness
from tests.support.tiny_models import make_tiny_reranker

TOKEN = "s3cret"
DOCUMENTS = ["short", "much longer", "middle"]


@pytest.fixture
def client(harness: AppHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("RERANKER_MODEL_PATH", "models/Tiny-Reranker")
    with harness.client() as client:
        yield client


class Stub:
    """Scores a document by its length; can be limited to the first documents."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []
        self.limit = 100
        self.reranking: Reranking | None = None

    def rerank(self, query: str, documents: list[str]) -> Reranking:
        self.calls.append((query, documents))
        scores = tuple(len(document) / 100 for document in documents[: self.limit])
        return self.reranking or Reranking(scores, "" if len(scores) == len(documents) else "timeout after 2.0 s")


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(RerankService, "rerank", stub.rerank)
    monkeypatch.setattr(RerankService, "count_tokens", lambda _, query, documents: len([query, *documents]))
    return stub


def post(client: TestClient, **body: Any) -> Any:
    content = json.dumps({"query": "copper", "documents": DOCUMENTS} | body)
    response = client.post("/v1/rerank", content=content, headers={"Content-Type": "application/json"})
    return response.json() if response.status_code == 200 else (response.status_code, response.json()["error"])


def indexes(answer: Any) -> list[int]:
    return [result["index"] for result in answer["results"]]


def test_answer_has_the_scores_best_first(client: TestClient, stub: Stub) -> None:
    answer = post(client, model="publisher/tiny-reranker", user="somebody")
    assert answer.pop("id").startswith("rerank-")
    assert answer == {
        "object": "list",
        "model": "Tiny-Reranker",
        "results": [
            {"index": 1, "relevance_score": 0.11, "document": None},
            {"index": 2, "relevance_score": 0.06, "document": None},
            {"index": 0, "relevance_score": 0.05, "document": None},
        ],
        "usage": {"prompt_tokens": 4, "total_tokens": 4},
        "degraded": None,
    }
    assert stub.calls == [("copper", DOCUMENTS)]


def test_documents_may_be_objects_and_are_returned_on_request(client: TestClient, stub: Stub) -> None:
    answer = post(client, documents=[{"text": "via", "title": "not read"}, "plate"], return_documents=True)
    assert [result["document"] for result in answer["results"]] == [{"text": "plate"}, {"text": "via"}]


@pytest.mark.parametrize(("top_n", "expected"), [(1, [1]), (2.0, [1, 2]), (5, [1, 2, 0]), (None, [1, 2, 0])])
def test_top_n_limits_the_results(client: TestClient, stub: Stub, top_n: Any, expected: list[int]) -> None:
    assert indexes(post(client, top_n=top_n)) == expected


def test_equal_documents_are_scored_once_and_keep_their_order(client: TestClient, stub: Stub) -> None:
    assert indexes(post(client, documents=["a", "bb", "a", "bb", ""])) == [1, 3, 0, 2, 4]
    assert stub.calls == [("copper", ["a", "bb", ""])]


def test_partial_scores_are_kept(client: TestClient, stub: Stub) -> None:
    """An answer must not rank what was not scored below what was: it may be the best."""
    stub.limit = 2
    answer = post(client)
    assert indexes(answer) == [1, 0]
    assert answer["degraded"] == "only 2 of 3 documents were scored: timeout after 2.0 s"


@pytest.mark.parametrize(
    ("reranking", "status", "code"),
    [
        (Reranking((), "timeout after 2.0 s"), 503, "rerank_model_unavailable"),
        (Reranking((), "too many calls wait", OverloadedError), 503, "overloaded"),
        (Reranking((), "the query is too long", InvalidRequestError), 422, "invalid_request"),
    ],
)
def test_answer_without_scores_is_an_error(
    client: TestClient, stub: Stub, reranking: Reranking, status: int, code: str
) -> None:
    stub.reranking = reranking
    answer_status, error = post(client)
    assert (answer_status, error["code"]) == (status, code)
    assert error["message"] == f"No document was scored: {reranking.reason}"


def test_missing_model_is_an_error_that_says_what_to_do(client: TestClient) -> None:
    status, error = post(client)
    assert (status, error["code"]) == (503, "rerank_model_unavailable")
    assert "course-search fetch-model --reranker" in error["message"]


def test_unknown_model_is_not_found(client: TestClient, stub: Stub) -> None:
    status, error = post(client, model="rerank-v3.5")
    assert (status, error["code"]) == (404, "model_not_found")
    assert "the available model is Tiny-Reranker" in error["message"]
    assert stub.calls == []


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"query": " "}, "query: must not be blank"),
        ({"query": ["a"]}, "query: "),
        ({"documents": []}, "documents: "),
        ({"documents": "text"}, "documents: "),
        ({"documents": ["x", 5]}, "documents.1: must be a text, or an object with a text"),
        ({"documents": [{"image": "x"}]}, 'documents.0: must be a text, or an object with a text: {"text": "…"}'),
        ({"documents": ["\ud83d"]}, "documents.0: must be valid Unicode"),
        ({"documents": ["x"] * 2049}, "documents: at most 2048"),
        ({"top_n": 0}, "top_n: "),
        ({"top_n": "1"}, "top_n: "),
        ({"return_documents": "yes"}, "return_documents: "),
        ({"max_tokens_per_doc": 100}, "max_tokens_per_doc: "),
        ({"topn": 1}, "body: unknown field 'topn'"),
    ],
)
def test_invalid_request_names_the_field(client: TestClient, stub: Stub, body: Any, message: str) -> None:
    status, error = post(client, **body)
    assert (status, error["code"]) == (422, "invalid_request")
    assert error["message"].startswith(message)
    assert stub.calls == []


def test_null_means_absent(client: TestClient, stub: Stub) -> None:
    """Cohere's client sends null for arguments that are None."""
    unused = ("max_tokens_per_doc", "max_chunks_per_doc", "rank_fields")
    nulls = dict.fromkeys(("model", "top_n", "return_documents", "user", *unused))
    assert post(client, **nulls)["results"] == post(client)["results"]


def test_token_is_required_and_may_be_a_bearer_token(harness: AppHarness, stub: Stub) -> None:
    body = {"query": "x", "documents": ["x"]}
    with harness.client(internal_token=TOKEN) as client:
        assert client.post("/v1/rerank", json=body).status_code == 401
        assert client.post("/v1/rerank", json=body, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_scores_and_usage_are_those_of_the_model(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = make_tiny_reranker(tmp_path / "tiny-reranker")
    monkeypatch.setenv("RERANKER_MODEL_PATH", str(path))
    monkeypatch.setenv("RERANKER_DEVICE", "cpu")
    monkeypatch.setenv("RERANKER_TIMEOUT_SECONDS", "120")
    model = Reranker.load(RerankerSettings())
    with harness.client() as client:
        answer = post(client)
        assert post(client, query="copper " * 2000)[1]["message"].endswith("raise RERANKER_MAX_TOKENS")
    scores = {result["index"]: result["relevance_score"] for result in answer["results"]}
    assert [scores[index] for index in range(3)] == pytest.approx(model.scores("copper", DOCUMENTS), abs=1e-5)
    assert answer["usage"]["total_tokens"] == sum(model.token_counts("copper", DOCUMENTS))

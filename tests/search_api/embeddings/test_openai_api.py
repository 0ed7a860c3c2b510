"""POST /v1/embeddings and GET /v1/models: what OpenAI's own client sends works, what it cannot mean is refused."""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from openai import OpenAI
from starlette.testclient import TestClient

from embedding.embedder import LocalEmbedder
from embedding.model_settings import EmbeddingSettings
from search_api.app import create_embedding_app
from search_api.app_settings import SearchSettings
from tests.search_api.backstage import Backstage
from tests.support.server import serving
from tests.support.tiny_models import make_tiny_qwen3

TOKEN = "s3cret"
MODEL = "qwen3-embedding-0.6b"
TEXTS = ["A via connects layers.", "过孔连接各层。", " ", ""]


def post(client: TestClient, **body: Any) -> Any:
    response = client.post("/v1/embeddings", json=body)
    return response.json() if response.status_code == 200 else (response.status_code, response.json()["error"])


class TestForm:
    """Of requests and answers, with a stand-in for the model."""

    def test_answer(self, client: TestClient) -> None:
        assert post(client, input=["copper", "via"], model="stub-model", user="somebody") == {
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": [1.0, 0.0, 0.0]},
                {"object": "embedding", "index": 1, "embedding": [1.0, 0.0, 0.0]},
            ],
            "model": "stub-model",
            "usage": {"prompt_tokens": 2, "total_tokens": 2},
            "signature": "stub-signature",
            "token_counts": [1, 1],
            "truncated": 0,
            "legibility": None,
        }

    def test_one_text(self, backstage: Backstage, client: TestClient) -> None:
        assert len(post(client, input="copper")["data"]) == 1
        assert backstage.embedder.asked == ["copper"]

    def test_base64_is_little_endian_float32(self, client: TestClient) -> None:
        (item,) = post(client, input="x", encoding_format="base64")["data"]
        assert base64.b64decode(item["embedding"]) == b"\x00\x00\x80\x3f" + b"\x00" * 8

    def test_queries_are_told_how_legible_they_are(self, backstage: Backstage, client: TestClient) -> None:
        backstage.embedder.legible = 0.25
        assert post(client, input=["x", "y"], input_type="query")["legibility"] == [0.25, 0.25]

    def test_models(self, client: TestClient) -> None:
        assert client.get("/v1/models").json() == {
            "object": "list",
            "data": [
                {
                    "id": "stub-model",
                    "object": "model",
                    "created": 0,
                    "owned_by": "course-search",
                    "signature": "stub-signature",
                    "dimensions": 3,
                    "max_tokens": 8,
                }
            ],
        }

    def test_another_model_is_not_there(self, client: TestClient) -> None:
        status, error = post(client, input="x", model="text-embedding-3-small")
        assert (status, error["code"]) == (404, "model_not_found")
        assert "'text-embedding-3-small' here; there is stub-model" in error["message"]

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({}, "input: "),
            ({"input": []}, "input: "),
            ({"input": 5}, "input: "),
            ({"input": None}, "input: "),
            ({"input": ["x", 5]}, "input.1: "),
            ({"input": [1, 2, 3]}, "input: must be a text or a list of texts; token ids"),
            ({"input": [[1, 2], [3]]}, "input: must be a text or a list of texts; token ids"),
            ({"input": "x", "encoding_format": "int8"}, "encoding_format: "),
            ({"input": "x", "dimensions": 4}, "dimensions: 3 to 3"),
            ({"input": "x", "dimensions": "3"}, "dimensions: "),
            ({"input": "x", "input_type": "passage"}, "input_type: "),
            ({"input": "x", "truncate": True}, "body: unknown field 'truncate'"),
            ({"input": ["x"] * 65}, "input: at most 64"),
        ],
    )
    def test_invalid_request(self, backstage: Backstage, client: TestClient, body: Any, message: str) -> None:
        status, error = post(client, **body)
        assert (status, error["code"]) == (422, "invalid_request")
        assert error["message"].startswith(message)
        assert backstage.embedder.asked == []


def test_the_token_may_come_as_a_key_under_v1_alone(backstage: Backstage) -> None:
    with backstage.client(internal_token=TOKEN) as client:
        for scheme in ("Bearer", "bearer"):
            assert client.get("/v1/models", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200
        assert client.get("/v1/models", headers={"X-Internal-Token": TOKEN}).status_code == 200
        for given in ("", "Bearer", "Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN} {TOKEN}"):
            assert client.get("/v1/models", headers={"Authorization": given}).status_code == 401
        for path in ("/courses", "/embed", "/v1", "/metrics"):
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 401


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def url(model_path: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EMBEDDING_MODEL_PATH", str(model_path))
        environment.setenv("EMBEDDING_DEVICE", "cpu")
        with serving(create_embedding_app(SearchSettings(internal_token=TOKEN))) as url:
            yield url


@pytest.fixture(scope="module")
def official(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def vectors(model_path: Path) -> Any:
    settings = EmbeddingSettings(embedding_model_path=model_path, embedding_device="cpu")
    return LocalEmbedder.load(settings).embed_documents(TEXTS).vectors


@pytest.mark.integration
class TestClientOfOpenAI:
    """The real client against the embedding service alone, behind a real server, with a real model."""

    def test_vectors(self, official: OpenAI, vectors: Any) -> None:
        """The client asks for base64 by itself."""
        answer = official.embeddings.create(model=MODEL, input=TEXTS)
        assert [item.index for item in answer.data] == [0, 1, 2, 3]
        np.testing.assert_allclose([item.embedding for item in answer.data], vectors, atol=1e-6)
        assert answer.model == MODEL
        assert answer.usage.total_tokens == answer.usage.prompt_tokens > len(TEXTS)

    def test_floats(self, official: OpenAI, vectors: Any) -> None:
        answer = official.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")
        np.testing.assert_allclose([item.embedding for item in answer.data], vectors[:1], atol=1e-6)

    def test_fewer_dimensions(self, official: OpenAI, vectors: Any) -> None:
        answer = official.embeddings.create(model=MODEL, input=TEXTS, dimensions=32)
        short = vectors[:, :32] / np.linalg.norm(vectors[:, :32], axis=1, keepdims=True)
        np.testing.assert_allclose([item.embedding for item in answer.data], short, atol=1e-6)
        for dimensions in (31, vectors.shape[1] + 1):
            with pytest.raises(openai.UnprocessableEntityError, match=f"dimensions: 32 to {vectors.shape[1]}"):
                official.embeddings.create(model=MODEL, input=TEXTS, dimensions=dimensions)

    def test_errors_are_the_clients_own(self, official: OpenAI, url: str) -> None:
        with pytest.raises(openai.NotFoundError, match=f"there is {MODEL}") as raised:
            official.embeddings.create(model="text-embedding-3-small", input="x")
        assert raised.value.code == "model_not_found"
        with pytest.raises(openai.UnprocessableEntityError, match="token ids are not taken"):
            official.embeddings.create(model=MODEL, input=[[1, 2]])
        with OpenAI(base_url=f"{url}/v1", api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
            stranger.embeddings.create(model=MODEL, input="x")

    def test_models(self, official: OpenAI, vectors: Any) -> None:
        (model,) = official.models.list().data
        assert (model.id, model.owned_by) == (MODEL, "course-search")
        assert model.model_extra is not None
        assert model.model_extra["dimensions"] == vectors.shape[1]

"""POST /v1/embeddings and GET /v1/models: they work with OpenAI's client and reject unsupported values."""

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
from tests.search_api.app_harness import AppHarness
from tests.support.servers.asgi import serving
from tests.support.tiny_models import make_tiny_qwen3

TOKEN = "s3cret"
MODEL = "qwen3-embedding-0.6b"
TEXTS = ["A via connects layers.", "过孔连接各层。", " ", ""]


def post(client: TestClient, **body: Any) -> Any:
    response = client.post("/v1/embeddings", json=body)
    return response.json() if response.status_code == 200 else (response.status_code, response.json()["error"])


class TestBodies:
    """Request and response bodies, with a stub model."""

    def test_response_has_openai_format(self, client: TestClient) -> None:
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
            "whole_token_counts": [1, 1],
            "truncated": 0,
            "legibility": None,
        }

    def test_input_may_be_a_single_text(self, harness: AppHarness, client: TestClient) -> None:
        assert len(post(client, input="copper")["data"]) == 1
        assert harness.embedder.embedded_texts == ["copper"]

    def test_base64_is_little_endian_float32(self, client: TestClient) -> None:
        (item,) = post(client, input="x", encoding_format="base64")["data"]
        assert base64.b64decode(item["embedding"]) == b"\x00\x00\x80\x3f" + b"\x00" * 8

    def test_query_response_contains_legibility(self, harness: AppHarness, client: TestClient) -> None:
        harness.embedder.legibility_of_queries = 0.25
        assert post(client, input=["x", "y"], input_type="query")["legibility"] == [0.25, 0.25]

    def test_models_lists_the_model(self, client: TestClient) -> None:
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

    def test_unknown_model_is_not_found(self, client: TestClient) -> None:
        status, error = post(client, input="x", model="text-embedding-3-small")
        assert (status, error["code"]) == (404, "model_not_found")
        assert "'text-embedding-3-small'; the available model is stub-model" in error["message"]

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
    def test_invalid_request_names_the_field(
        self, harness: AppHarness, client: TestClient, body: Any, message: str
    ) -> None:
        status, error = post(client, **body)
        assert (status, error["code"]) == (422, "invalid_request")
        assert error["message"].startswith(message)
        assert harness.embedder.embedded_texts == []


def test_bearer_token_is_accepted_only_under_v1(harness: AppHarness) -> None:
    with harness.client(internal_token=TOKEN) as client:
        for scheme in ("Bearer", "bearer"):
            assert client.get("/v1/models", headers={"Authorization": f"{scheme} {TOKEN}"}).status_code == 200
        assert client.get("/v1/models", headers={"X-Internal-Token": TOKEN}).status_code == 200
        for value in ("", "Bearer", "Bearer wrong", TOKEN, f"Basic {TOKEN}", f"Bearer {TOKEN} {TOKEN}"):
            assert client.get("/v1/models", headers={"Authorization": value}).status_code == 401
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
def openai_client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key=TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def vectors(model_path: Path) -> Any:
    settings = EmbeddingSettings(embedding_model_path=model_path, embedding_device="cpu")
    return LocalEmbedder.load(settings).embed_documents(TEXTS).vectors


@pytest.mark.integration
class TestOpenAIClient:
    """OpenAI's client with the embedding app, a real server and a real model."""

    def test_vectors_in_base64(self, openai_client: OpenAI, vectors: Any) -> None:
        """The client requests base64 by default."""
        answer = openai_client.embeddings.create(model=MODEL, input=TEXTS)
        assert [item.index for item in answer.data] == [0, 1, 2, 3]
        np.testing.assert_allclose([item.embedding for item in answer.data], vectors, atol=1e-6)
        assert answer.model == MODEL
        assert answer.usage.total_tokens == answer.usage.prompt_tokens > len(TEXTS)

    def test_vectors_as_floats(self, openai_client: OpenAI, vectors: Any) -> None:
        answer = openai_client.embeddings.create(model=MODEL, input=TEXTS[0], encoding_format="float")
        np.testing.assert_allclose([item.embedding for item in answer.data], vectors[:1], atol=1e-6)

    def test_dimensions_shorten_the_vectors(self, openai_client: OpenAI, vectors: Any) -> None:
        answer = openai_client.embeddings.create(model=MODEL, input=TEXTS, dimensions=32)
        short = vectors[:, :32] / np.linalg.norm(vectors[:, :32], axis=1, keepdims=True)
        np.testing.assert_allclose([item.embedding for item in answer.data], short, atol=1e-6)
        for dimensions in (31, vectors.shape[1] + 1):
            with pytest.raises(openai.UnprocessableEntityError, match=f"dimensions: 32 to {vectors.shape[1]}"):
                openai_client.embeddings.create(model=MODEL, input=TEXTS, dimensions=dimensions)

    def test_errors_raise_the_clients_exceptions(self, openai_client: OpenAI, url: str) -> None:
        with pytest.raises(openai.NotFoundError, match=f"the available model is {MODEL}") as raised:
            openai_client.embeddings.create(model="text-embedding-3-small", input="x")
        assert raised.value.code == "model_not_found"
        with pytest.raises(openai.UnprocessableEntityError, match="token ids are not supported"):
            openai_client.embeddings.create(model=MODEL, input=[[1, 2]])
        with (
            OpenAI(base_url=f"{url}/v1", api_key="wrong") as wrong_key_client,
            pytest.raises(openai.AuthenticationError),
        ):
            wrong_key_client.embeddings.create(model=MODEL, input="x")

    def test_models_lists_the_model(self, openai_client: OpenAI, vectors: Any) -> None:
        (model,) = openai_client.models.list().data
        assert (model.id, model.owned_by) == (MODEL, "course-search")
        assert model.model_extra is not None
        assert model.model_extra["dimensions"] == vectors.shape[1]

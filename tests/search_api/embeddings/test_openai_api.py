"""POST /v1/embeddings and GET /v1/models: they work with OpenAI's client and reject unsupported values."""

import base64
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
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

    def test_null_means_absent(self, client: TestClient) -> None:
        """Clients that write all fields of their request classes send null for those that are not set."""
        nulls = dict.fromkeys(("model", "encoding_format", "dimensions", "input_type", "user"))
        assert post(client, input=["x"], **nulls) == post(client, input=["x"])

    def test_whole_number_may_have_a_decimal_point(self, client: TestClient) -> None:
        assert len(post(client, input="x", dimensions=3.0)["data"][0]["embedding"]) == 3

    def test_model_may_have_a_prefix_and_capitals(self, client: TestClient) -> None:
        (entry,) = client.get("/v1/models").json()["data"]
        for name in ("stub-model", "Stub-Model", "publisher/stub-model", "hub%2Fpublisher/STUB-MODEL"):
            assert client.get(f"/v1/models/{name}").json() == entry
        assert post(client, input="x", model="Publisher/Stub-Model")["model"] == "stub-model"

    @pytest.mark.parametrize("name", ["other", "stub-model/other", "", "stub%2Dmode"])
    def test_details_of_an_unknown_model_are_not_found(self, client: TestClient, name: str) -> None:
        response = client.get(f"/v1/models/{name}")
        assert (response.status_code, response.json()["error"]["code"]) == (404, "model_not_found")

    def test_limit_of_texts_is_not_that_of_embed(self, harness: AppHarness) -> None:
        with harness.client(embed_max_texts=1, openai_max_texts=3) as client:
            assert len(post(client, input=["x"] * 3)["data"]) == 3
            assert post(client, input=["x"] * 4)[1]["message"] == "input: at most 3"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            ({}, "input: "),
            ({"input": []}, "input: "),
            ({"input": 5}, "input: "),
            ({"input": None}, "input: "),
            ({"input": ["x", 5]}, "input.1: "),
            ({"input": [1, 2, 3]}, "input: must be a text or a list of texts; token ids are not supported"),
            ({"input": [[1, 2], [3]]}, "input: must be a text or a list of texts; token ids"),
            ({"input": "x", "encoding_format": "int8"}, "encoding_format: "),
            ({"input": "x", "dimensions": 4}, "dimensions: 3 to 3"),
            ({"input": "x", "dimensions": "3"}, "dimensions: "),
            ({"input": "x", "input_type": "passage"}, "input_type: "),
            ({"input": "x", "truncate": True}, "body: unknown field 'truncate'"),
            ({"input": "x", "dimensions": 3.5}, "dimensions: "),
            ({"input": ["x"] * 2049}, "input: at most 2048"),
        ],
    )
    def test_invalid_request_names_the_field(
        self, harness: AppHarness, client: TestClient, body: Any, message: str
    ) -> None:
        status, error = post(client, **body)
        assert (status, error["code"]) == (422, "invalid_request")
        assert error["message"].startswith(message)
        assert harness.embedder.embedded_texts == []


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

    def test_model_by_its_published_name(self, openai_client: OpenAI) -> None:
        name = "Qwen/Qwen3-Embedding-0.6B"
        assert openai_client.models.retrieve(name).id == MODEL
        assert openai_client.embeddings.create(model=name, input="x").model == MODEL
        with pytest.raises(openai.NotFoundError):
            openai_client.models.retrieve("text-embedding-3-small")


MANY_TEXTS = [f"Text {number} explains copper." for number in range(1001)]


@pytest.fixture(scope="module")
def expected(openai_client: OpenAI) -> Any:
    """The vectors of every 100th of the many texts."""
    answer = openai_client.embeddings.create(model=MODEL, input=MANY_TEXTS[::100])
    return [item.embedding for item in answer.data]


@pytest.mark.integration
class TestFrameworks:
    """The embedding classes of LangChain and LlamaIndex, with their own batch sizes."""

    @pytest.fixture
    def http(self) -> Iterator[httpx.Client]:
        """The classes cannot be closed."""
        with httpx.Client() as client:
            yield client

    def test_langchain(self, url: str, http: httpx.Client, expected: Any) -> None:
        """It sends 1000 texts at a time."""
        embeddings = self.langchain(url, http_client=http, check_embedding_ctx_length=False)
        np.testing.assert_allclose(embeddings.embed_documents(MANY_TEXTS)[::100], expected, atol=1e-6)
        np.testing.assert_allclose(embeddings.embed_query(MANY_TEXTS[0]), expected[0], atol=1e-6)

    def test_langchain_is_told_to_send_texts(
        self, url: str, http: httpx.Client, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """By default it sends token ids of an OpenAI model; with another vocabulary they would be other words."""
        words = SimpleNamespace(encode_ordinary=lambda text: [*map(len, text.split())])
        monkeypatch.setattr("tiktoken.encoding_for_model", lambda _: words)  # would download its vocabulary
        with pytest.raises(openai.UnprocessableEntityError, match="with check_embedding_ctx_length=False"):
            self.langchain(url, http_client=http).embed_documents(["copper plate"])

    def test_llama_index(self, url: str, http: httpx.Client, expected: Any) -> None:
        """It sends 100 texts at a time."""
        from llama_index.embeddings.openai import OpenAIEmbedding  # type: ignore[import-untyped]

        embedding = OpenAIEmbedding(api_base=f"{url}/v1", api_key=TOKEN, model_name=MODEL, http_client=http)
        vectors = embedding.get_text_embedding_batch(MANY_TEXTS[:201])
        np.testing.assert_allclose(vectors[::100], expected[:3], atol=1e-6)
        np.testing.assert_allclose(embedding.get_query_embedding(MANY_TEXTS[0]), expected[0], atol=1e-6)

    @staticmethod
    def langchain(url: str, **options: Any) -> Any:
        from langchain_openai import OpenAIEmbeddings

        return OpenAIEmbeddings(**{"base_url": f"{url}/v1", "api_key": TOKEN, "model": MODEL} | options)

"""The embedding app, and remote embedders that use it: same vectors as a local model, and recovery after outages."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from embedding.embedder import LocalEmbedder
from embedding.errors import EmbeddingError, EmbeddingServiceError
from embedding.factory import open_embedder
from embedding.interface import Embedder
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder
from search_api.app import create_embedding_app
from search_api.app_settings import SearchSettings
from search_api.embeddings import circuit_breaker
from tests.search_api.app_harness import AppHarness
from tests.support.servers.asgi import serving
from tests.support.tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.integration

TOKEN = "s3cret"
TEXTS = ["A via connects layers.", "过孔连接各层。", "", " \n", "half \ud83d", *(f"text {n} " * n for n in range(70))]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "tiny")


@contextmanager
def embedding_app(model_path: Path, port: int = 0) -> Iterator[str]:
    """Serve the embedding app, configured by the environment, during the block."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("EMBEDDING_MODEL_PATH", str(model_path))
        environment.setenv("EMBEDDING_DEVICE", "cpu")
        environment.setenv("EMBEDDING_MAX_TOKENS", "64")
        environment.setenv("EMBEDDING_SERVICE_URL", "http://127.0.0.1:9")  # must be ignored
        app = create_embedding_app(SearchSettings(internal_token=TOKEN))
        with serving(app, port) as url:
            yield url


@pytest.fixture(scope="module")
def url(model_path: Path) -> Iterator[str]:
    with embedding_app(model_path) as url:
        yield url


@pytest.fixture(scope="module")
def local(model_path: Path) -> Embedder:
    return LocalEmbedder.load(
        EmbeddingSettings(embedding_model_path=model_path, embedding_device="cpu", embedding_max_tokens=64)
    )


def remote_settings(url: str) -> EmbeddingSettings:
    return EmbeddingSettings(embedding_service_url=url, embedding_service_token=TOKEN)


@pytest.fixture
def remote(url: str) -> Embedder:
    return open_embedder(remote_settings(url))


# The app


def test_embedding_app_has_only_embedding_routes(url: str) -> None:
    with httpx.Client(base_url=url, headers={"X-Internal-Token": TOKEN}) as client:
        assert client.post("/embed", json={"texts": ["x"]}).status_code == 200
        assert client.get("/healthz").json() == {"status": "ok"}
        assert client.get("/readyz").json() == {
            "status": "ready",
            "components": {"model": {"ok": True, "message": ""}},
        }
        assert 'route="/embed"' in client.get("/metrics").text
        assert client.get("/docs").status_code == 200
        for path in ("/courses", "/caches", "/"):
            assert client.get(path).status_code == 404
        assert client.post("/v1/rerank", json={}).status_code == 404, "it has no rerank model"


def test_embedding_routes_require_the_token(url: str) -> None:
    for method, path in (("POST", "/embed"), ("POST", "/v1/embeddings"), ("GET", "/v1/models"), ("GET", "/metrics")):
        assert httpx.request(method, url + path).json()["error"]["code"] == "unauthorized"
    for path in ("/healthz", "/readyz"):
        assert httpx.get(url + path).status_code == 200


def test_missing_model_is_reported(tmp_path: Path) -> None:
    with embedding_app(tmp_path) as url:
        response = httpx.get(url + "/readyz")
        assert (response.status_code, response.json()["error"]["code"]) == (503, "not_ready")
        assert "EMBEDDING_MODEL_PATH" in response.json()["components"]["model"]["message"]
        with pytest.raises(EmbeddingServiceError, match="EMBEDDING_MODEL_PATH"):
            RemoteEmbedder(remote_settings(url))


# Remote and local embedder


def test_remote_embedder_has_the_signature_of_the_local_one(local: Embedder, remote: Embedder) -> None:
    assert remote.signature == local.signature
    assert (remote.name, remote.dimensions, remote.max_tokens) == (local.name, local.dimensions, local.max_tokens)


def test_remote_documents_equal_local_ones(local: Embedder, remote: Embedder) -> None:
    expected, actual = local.embed_documents(TEXTS), remote.embed_documents(TEXTS)
    np.testing.assert_allclose(actual.vectors, expected.vectors, atol=1e-6)
    assert actual.token_counts == expected.token_counts
    assert actual.truncated == expected.truncated > 0
    assert actual.whole_token_counts == expected.whole_token_counts


def test_remote_queries_equal_local_ones(local: Embedder, remote: Embedder) -> None:
    queries = ["copper", "过孔", "qzxv"]
    expected, actual = local.embed_queries(queries), remote.embed_queries(queries)
    np.testing.assert_allclose(actual.vectors, expected.vectors, atol=1e-6)
    assert actual.token_counts == expected.token_counts
    assert [remote.legibility(query) for query in queries] == [local.legibility(query) for query in queries]


def test_wrong_token_raises(url: str) -> None:
    with pytest.raises(EmbeddingServiceError, match="EMBEDDING_SERVICE_TOKEN"):
        RemoteEmbedder(EmbeddingSettings(embedding_service_url=url))


def test_changed_model_at_the_same_url_is_detected(model_path: Path, tmp_path: Path) -> None:
    with embedding_app(model_path) as url:
        remote = RemoteEmbedder(remote_settings(url))
        before, port = remote.signature, int(url.rsplit(":", 1)[1])
    with embedding_app(make_tiny_qwen3(tmp_path / "other", seed=1), port):
        with pytest.raises(EmbeddingError, match="its model has changed"):
            remote.embed_documents(["x"])
        assert remote.signature != before
        assert remote.embed_documents(["x"]).vectors.shape == (1, remote.dimensions)


# The search app with an embedding service


def test_search_app_works_before_and_after_an_outage_of_its_embedding_service(
    harness: AppHarness, model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(circuit_breaker, "RETRY_SECONDS", 0)
    course = harness.add_searchable_course("c", "text")
    with embedding_app(model_path) as url:
        port = int(url.rsplit(":", 1)[1])
        course.signature = RemoteEmbedder(remote_settings(url)).signature
        course.vectors = np.eye(1, 128, dtype=np.float32)
    harness.make_embedder = lambda: open_embedder(remote_settings(url))
    with harness.client() as client:

        def search() -> str:
            answer = client.post("/courses/c/search", json={"query": "copper", "method": "vector"})
            return str(answer.json()["error"]["code"]) if answer.is_error else "found"

        assert search() == "embedding_service_unavailable"
        assert not client.get("/readyz").json()["components"]["model"]["ok"]
        with embedding_app(model_path, port):
            assert search() == "found"
            assert client.get("/readyz").status_code == 200
            assert client.post("/embed", json={"texts": ["x"]}).status_code == 200
        assert search() == "found", "the query is cached"
        harness.app_services.caches["queries"].clear_cache()
        assert search() == "embedding_service_unavailable"
        assert not client.get("/readyz").json()["components"]["model"]["ok"]

"""The app configured by the environment, with a real model, a real Chroma server and embedded courses."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import Engine
from starlette.testclient import TestClient

from embedding.embedder import LocalEmbedder
from embedding.interface import Embedder
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.indexing import index_course
from embedding.vector_store.server import VectorStoreSettings
from models import chunks, course_state
from models.database import transaction
from search_api.app import create_app
from tests.support.courses import empty_catalogue, write_course
from tests.support.tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.integration

BIOLOGY = {
    "b1": "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "b2": "Oxygen leaves the chloroplast of the plant cell.",
    "b3": "植物的光合作用把光变成糖。",
}
LEARNING = {
    "l1": "Gradient descent steps down the slope of the loss.",
    "l2": "A neural network is trained by back propagation.",
}


class EmbeddedCourse:
    """An embedded course. Its id is unique, because all tests share the Chroma server."""

    def __init__(self, engine: Engine, store: VectorStore, embedder: Embedder, texts: dict[str, str]) -> None:
        self.id = f"course/{uuid4()}"
        texts = {f"{self.id}:{name}": text for name, text in texts.items()}
        write_course(engine, self.id, texts)
        with transaction(engine) as session:
            course_state.claim_course(session, self.id, "run")
            report = index_course(self.id, chunks.chunk_pages(session, self.id), store, embedder, lambda _: None)
            course_state.publish(session, self.id, "run", str(report.fingerprint))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def embedder(model_path: Path) -> Embedder:
    return LocalEmbedder.load(EmbeddingSettings(embedding_model_path=model_path, embedding_device="cpu"))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return empty_catalogue(tmp_path_factory.mktemp("catalogue") / "catalogue.db")


@pytest.fixture(scope="module")
def store(chroma_url: str) -> Iterator[VectorStore]:
    store = VectorStore(VectorStoreSettings(chroma_url=chroma_url))
    yield store
    store.close()


@pytest.fixture(scope="module")
def biology(engine: Engine, store: VectorStore, embedder: Embedder) -> EmbeddedCourse:
    return EmbeddedCourse(engine, store, embedder, BIOLOGY)


@pytest.fixture(scope="module")
def learning(engine: Engine, store: VectorStore, embedder: Embedder) -> EmbeddedCourse:
    return EmbeddedCourse(engine, store, embedder, LEARNING)


@pytest.fixture(scope="module")
def client(
    engine: Engine, chroma_url: str, model_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("DATABASE_URL", str(engine.url))
        environment.setenv("CHROMA_URL", chroma_url)
        environment.setenv("EMBEDDING_MODEL_PATH", str(model_path))
        environment.setenv("EMBEDDING_DEVICE", "cpu")
        environment.setenv("SNAPSHOT_DIR", str(tmp_path_factory.mktemp("snapshots")))
        with TestClient(create_app()) as client:
            yield client


def search(client: TestClient, course: EmbeddedCourse, **body: Any) -> Any:
    return client.post(f"/courses/{course.id}/search", json=body)


def test_app_is_ready(client: TestClient) -> None:
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize(
    ("query", "best"),
    [("What does photosynthesis turn light into?", "b1"), ("oxygen of a chloroplast", "b2"), ("光合作用", "b3")],
)
def test_best_result_answers_the_question(client: TestClient, biology: EmbeddedCourse, query: str, best: str) -> None:
    results = search(client, biology, query=query).json()["results"]
    found = {result["text"] for result in results}
    assert found == (set(BIOLOGY.values()) if query.isascii() else {BIOLOGY[best]}), "the model reads no Chinese"
    assert results[0]["text"] == BIOLOGY[best]
    assert results[0]["metadata"] == {
        "chunk_id": f"{biology.id}:{best}",
        "course_id": biology.id,
        "lecture_id": "l1",
        "section_id": "s1",
        "source_type": "pdf",
        "language": "en",
        "order_in_section": 0,
        "lecture_title": "Lecture",
        "section_title": "Section",
    }
    scores = [result["score"] for result in results]
    assert scores == sorted(scores, reverse=True)
    assert -1 <= scores[-1] <= scores[0] <= 1


def test_top_k_and_filters_limit_the_results(client: TestClient, biology: EmbeddedCourse) -> None:
    assert len(search(client, biology, query="light", top_k=2).json()["results"]) == 2
    matching = {"section_id": "s1", "lecture_id": "l1", "source_type": "pdf"}
    assert len(search(client, biology, query="light", filters=matching).json()["results"]) == 3
    for field in matching:
        assert search(client, biology, query="light", filters=matching | {field: "other"}).json()["results"] == []


def test_search_returns_only_texts_of_its_course(
    client: TestClient, biology: EmbeddedCourse, learning: EmbeddedCourse
) -> None:
    results = search(client, learning, query="photosynthesis", top_k=20).json()["results"]
    assert {result["text"] for result in results} == set(LEARNING.values())


def test_search_is_deterministic(client: TestClient, biology: EmbeddedCourse) -> None:
    answers = [search(client, biology, query="light and water").json() for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


def test_embed_returns_the_vectors_of_the_embedder(client: TestClient, embedder: Embedder) -> None:
    texts = list(BIOLOGY.values())
    answer = client.post("/embed", json={"texts": texts}).json()
    np.testing.assert_allclose(answer["embeddings"], embedder.embed_documents(texts).vectors, atol=1e-6)
    assert {key: answer[key] for key in ("model", "dimensions", "truncated")} == {
        "model": "qwen3-embedding-0.6b",
        "dimensions": embedder.dimensions,
        "truncated": 0,
    }


def test_course_of_another_model_is_searched_by_words(
    client: TestClient, engine: Engine, store: VectorStore, tmp_path: Path
) -> None:
    other = EmbeddingSettings(embedding_model_path=make_tiny_qwen3(tmp_path / "other", seed=1), embedding_device="cpu")
    course = EmbeddedCourse(engine, store, LocalEmbedder.load(other), LEARNING)
    answer = search(client, course, query="gradient").json()
    assert "another model" in answer["degraded"]
    assert "gradient" in answer["results"][0]["text"].lower()
    error = search(client, course, query="gradient", method="vector").json()["error"]
    assert error["code"] == "embedding_not_ready"


def test_published_course_does_not_need_its_collection(
    client: TestClient, engine: Engine, store: VectorStore, embedder: Embedder
) -> None:
    course = EmbeddedCourse(engine, store, embedder, LEARNING)
    assert search(client, course, query="gradient").status_code == 200
    store.delete(course.id)
    client.delete("/caches")
    assert search(client, course, query="gradient").status_code == 200, "it has a snapshot"


def test_app_starts_without_database_vector_store_and_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """The readiness probe reports each missing dependency and what to do."""
    monkeypatch.setenv("CHROMA_URL", "http://127.0.0.1:9")
    with TestClient(create_app()) as client:
        assert client.get("/healthz").status_code == 200
        components = client.get("/readyz").json()["components"]
        assert "course-search migrate" in components["catalogue"]["message"]
        assert "CHROMA_URL" in components["vector_store"]["message"]
        assert "course-search fetch-model" in components["model"]["message"]

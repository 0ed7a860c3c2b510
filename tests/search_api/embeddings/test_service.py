"""How searches share the embedding model: one pass a search, one computation a query, and none while it is away."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import SimpleNamespace

import numpy as np
import pytest
from starlette.responses import JSONResponse

from embedding.errors import EmbeddingError, EmbeddingServiceUnreachableError
from embedding.interface import Embedder
from embedding.model_settings import EmbeddingSettings
from embedding.service.client import RequestRefusedError
from embedding.service.remote_embedder import RemoteEmbedder
from retrieval.cache import InstanceCache
from search_api.embeddings import circuit_breaker, service
from search_api.embeddings.circuit_breaker import CircuitBreaker
from search_api.embeddings.service import EmbeddedQuery, EmbeddingService, QueryKey
from search_api.http.errors import EmbeddingServiceUnavailableError
from tests.search_api.embeddings.test_model_queue import LIMIT_SECONDS, StubModel
from tests.support.indexed_course import vector_of
from tests.support.product import wait_until
from tests.support.servers.foreign_server import ForeignServer, foreign_server


def service_of(model: Embedder) -> EmbeddingService:
    models: InstanceCache[str, Embedder] = InstanceCache("models", max_entries=1, ttl_seconds=1000)
    queries: InstanceCache[QueryKey, EmbeddedQuery] = InstanceCache("queries", max_entries=100, ttl_seconds=1000)
    return EmbeddingService(lambda: model, 32, models, queries)


@pytest.fixture
def model() -> StubModel:
    model = StubModel()
    model.signature = "signature"
    return model


@pytest.fixture
def embedding(model: StubModel) -> Iterator[EmbeddingService]:
    with closing(service_of(model)) as embedding:
        yield embedding


# Passes


def test_queries_of_a_search_are_embedded_in_one_pass(embedding: EmbeddingService, model: StubModel) -> None:
    first = embedding.embedded_queries(["a", "b", "a"])
    assert np.array_equal(first["b"].vector, vector_of("b"))
    assert {*embedding.embedded_queries(["b", "c", "d"])} == {"b", "c", "d"}
    assert model.batches == [["query a", "query b"], ["query c", "query d"]], "b was in the cache"


def test_searches_for_the_same_query_share_its_computation(embedding: EmbeddingService, model: StubModel) -> None:
    with ThreadPoolExecutor(20) as pool:
        with model.blocked():
            first = pool.submit(embedding.embedded_queries, ["first"])
            wait_until(lambda: bool(model.batches), LIMIT_SECONDS, lambda: "not computed", every=0.001)
            others = [pool.submit(embedding.embedded_queries, ["first", "same"]) for _ in range(19)]
        assert {*first.result()} == {"first"}
        assert all({*other.result()} == {"first", "same"} for other in others)
    assert model.batches == [["query first"], ["query same"]]


def test_query_that_the_model_refuses_is_left_out(embedding: EmbeddingService, model: StubModel) -> None:
    assert {*embedding.embedded_queries(["good", "bad", "fine"])} == {"good", "fine"}
    model.batches.clear()
    with pytest.raises(EmbeddingError, match="not finite"):
        embedding.embedded_queries(["bad"])
    assert {*embedding.embedded_queries(["good", "bad"])} == {"good"}
    assert model.batches == [["query bad"]] * 2, "a failure is not cached, the others are"


# An embedding service that fails


@pytest.fixture
def server() -> Iterator[ForeignServer]:
    with foreign_server() as server:
        yield server


@pytest.fixture
def remote(server: ForeignServer) -> Iterator[EmbeddingService]:
    settings = EmbeddingSettings(embedding_service_url=server.url)
    with closing(service_of(RemoteEmbedder(settings, patience_seconds=1.5, query_seconds=10.0))) as remote:
        server.requests.clear()
        yield remote


@pytest.mark.integration
def test_query_that_a_service_refuses_fails_alone(server: ForeignServer, remote: EmbeddingService) -> None:
    server.refusal = lambda texts: (
        JSONResponse({"error": {"message": "content policy"}}, 400) if any("bad" in text for text in texts) else None
    )
    texts = [f"text {number}" for number in range(15)]
    assert {*remote.embedded_queries([*texts, "bad"])} == {*texts}
    with pytest.raises(RequestRefusedError, match="content policy"):
        remote.embedded_queries(["bad"])


@pytest.mark.integration
def test_service_that_hangs_costs_a_query_its_deadline_and_the_next_ones_nothing(
    server: ForeignServer, remote: EmbeddingService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "QUERY_SECONDS", 0.3)
    monkeypatch.setattr(circuit_breaker, "RETRY_SECONDS", LIMIT_SECONDS)
    server.hangs = lambda _: True
    with pytest.raises(EmbeddingServiceUnreachableError, match=r"did not answer within 0\.3 s"):
        remote.embedded_queries(["a", "b"])
    for query in ("a", "c"):
        with pytest.raises(EmbeddingServiceUnavailableError, match="did not answer"):
            remote.embedded_queries([query])
    wait_until(lambda: server.batches == [2], LIMIT_SECONDS, lambda: f"{server.batches}")  # it may see it late
    server.hangs = lambda _: False


# The circuit breaker


class Breaker:
    """A breaker with a clock that the test sets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(circuit_breaker, "time", SimpleNamespace(monotonic=lambda: self.now))
        self.breaker = CircuitBreaker()

    def call(self, error: Exception | None = None) -> str:
        """The outcome of a call that ends with this error."""
        try:
            with self.breaker.attempt():
                if error:
                    raise error
        except EmbeddingServiceUnavailableError:
            return "refused"
        except EmbeddingError:
            return "failed"
        return "done"


@pytest.fixture
def breaker(monkeypatch: pytest.MonkeyPatch) -> Breaker:
    return Breaker(monkeypatch)


AWAY = EmbeddingServiceUnreachableError("cannot be reached")


def test_calls_are_refused_for_a_while_after_a_failure(breaker: Breaker) -> None:
    assert [breaker.call(), breaker.call(AWAY), breaker.call()] == ["done", "failed", "refused"]
    breaker.now += circuit_breaker.RETRY_SECONDS
    assert [breaker.call(AWAY), breaker.call()] == ["failed", "refused"]
    breaker.now += circuit_breaker.RETRY_SECONDS
    assert [breaker.call(), breaker.call()] == ["done", "done"]


def test_one_call_tries_whether_the_service_is_back(breaker: Breaker) -> None:
    breaker.call(AWAY)
    breaker.now += circuit_breaker.RETRY_SECONDS
    with breaker.breaker.attempt():
        breaker.now += 1000
        assert breaker.call() == "refused"
    assert breaker.call() == "done"


def test_refused_text_shows_that_the_service_is_there(breaker: Breaker) -> None:
    assert breaker.call(RequestRefusedError("too long")) == "failed"
    breaker.call(AWAY)
    breaker.now += circuit_breaker.RETRY_SECONDS
    assert [breaker.call(RequestRefusedError("too long")), breaker.call()] == ["failed", "done"]

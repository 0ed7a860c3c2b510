"""The model is elsewhere: what a server answers becomes sound vectors in order, or an error that tells what to do."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.responses import JSONResponse, PlainTextResponse

from cli.processes import free_port
from embedding.errors import EmbeddingServiceError, EmbeddingServiceUnreachableError
from embedding.factory import configured_signature, open_embedder
from embedding.interface import Embedder
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import MAX_TEXTS_PER_REQUEST, RemoteEmbedder
from tests.support.foreign_server import Answer, ForeignServer, foreign_server
from tests.support.indexed_course import DIMENSIONS, vector_of

pytestmark = pytest.mark.integration

PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
BUSY = JSONResponse({"error": "Model is overloaded", "error_type": "Overloaded"}, 429)


@pytest.fixture
def server() -> Iterator[ForeignServer]:
    with foreign_server() as server:
        yield server


def settings_for(server: ForeignServer, **changes: Any) -> EmbeddingSettings:
    return EmbeddingSettings(embedding_service_url=server.url, **changes)


def connect(server: ForeignServer, patience_seconds: float = 0.0, **changes: Any) -> RemoteEmbedder:
    """A client that has met the server; what it asked for that is forgotten."""
    embedder = RemoteEmbedder(settings_for(server, **changes), patience_seconds)
    server.asked.clear()
    return embedder


def vectors_of(*texts: str) -> Any:
    return np.stack([vector_of(text) for text in texts])


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was waited, without waiting."""
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=pauses.append))  # and nobody else's sleep
    return pauses


# What is asked, and what comes of it


def test_documents_are_bare_and_come_back_in_order(server: ForeignServer) -> None:
    embedder: Embedder = connect(server)
    texts = [f"text {number}" for number in range(10)]
    embeddings = embedder.embed_documents(texts)
    assert np.array_equal(embeddings.vectors, vectors_of(*texts))
    assert (embedder.name, embedder.dimensions, embedder.device) == ("qwen3-embedding-0.6b", DIMENSIONS, "remote")
    (request,) = server.asked
    assert request == {"model": "Qwen/Qwen3-Embedding-0.6B", "input": texts, "encoding_format": "base64"}


def test_queries_carry_the_published_prompt(server: ForeignServer) -> None:
    embeddings = connect(server).embed_queries(["copper", "via"])
    assert np.array_equal(embeddings.vectors, vectors_of(PROMPT + "copper", PROMPT + "via"))


@pytest.mark.parametrize(
    ("instruction", "prompt"), [({}, ""), ({"embedding_query_instruction": "Find"}, "Instruct: Find\nQuery:")]
)
def test_other_models_have_a_prompt_only_where_one_is_set(
    server: ForeignServer, instruction: dict[str, Any], prompt: str
) -> None:
    server.models = ["bge-m3"]
    connect(server, embedding_model_name="bge-m3", **instruction).embed_queries(["copper"])
    assert server.texts == [prompt + "copper"]


def test_a_server_that_knows_no_base64(server: ForeignServer) -> None:
    server.takes_base64 = False
    embeddings = connect(server).embed_documents(["a", "b"])
    assert np.array_equal(embeddings.vectors, vectors_of("a", "b"))


def test_texts_that_servers_or_json_do_not_take(server: ForeignServer) -> None:
    assert len(connect(server).embed_documents(["", "half \ud83d"]).vectors) == 2
    assert server.texts[0] == " "
    json.dumps(server.texts, ensure_ascii=False).encode()


def test_no_texts(server: ForeignServer) -> None:
    assert connect(server).embed_documents([]).vectors.shape == (0, DIMENSIONS)
    assert server.asked == []


def test_progress_is_told_after_each_request(server: ForeignServer) -> None:
    done: list[int] = []
    connect(server).embed_documents(["x"] * (MAX_TEXTS_PER_REQUEST + 6), done.append)
    assert done == [MAX_TEXTS_PER_REQUEST, MAX_TEXTS_PER_REQUEST + 6]


def test_tokens_are_shared_out_where_only_their_sum_is_known(server: ForeignServer) -> None:
    embeddings = connect(server).embed_documents(["x", "xxx" * 100, "xx"])
    assert sum(embeddings.token_counts) == 30
    assert max(embeddings.token_counts) == embeddings.token_counts[1]


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/"])
def test_the_url_may_end_as_openai_clients_have_it(server: ForeignServer, end: str) -> None:
    server.url += end
    assert connect(server).dimensions == DIMENSIONS


def test_one_place_decides(server: ForeignServer) -> None:
    embedder = open_embedder(settings_for(server))
    assert isinstance(embedder, RemoteEmbedder)
    assert configured_signature(settings_for(server)) == embedder.signature


# Servers that take fewer texts at once


def test_a_server_that_takes_fewer_texts_is_asked_for_fewer_from_then_on(server: ForeignServer) -> None:
    server.most_texts = 32
    embedder = connect(server)
    texts = [f"text {number}" for number in range(70)]
    assert np.array_equal(embedder.embed_documents(texts).vectors, vectors_of(*texts))
    assert server.batches == [64, 32, 32, 6]
    embedder.embed_documents(texts)
    assert server.batches[4:] == [32, 32, 6]


def test_a_text_that_is_refused_is_an_error_and_changes_nothing(server: ForeignServer) -> None:
    embedder = connect(server)
    server.before = [JSONResponse({"object": "error", "message": "too long"}, 400)] * 3
    with pytest.raises(EmbeddingServiceError, match=r"refused a request \(400\): too long"):
        embedder.embed_documents(["x"] * 4)
    assert server.batches == [4, 2, 1]
    embedder.embed_documents(["x"] * 4)
    assert server.batches[3:] == [4]


def test_a_text_too_long_for_a_server_is_cut_until_it_fits(
    server: ForeignServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.most_characters = 1000
    embedder = connect(server)
    embeddings = embedder.embed_documents(["a", "long " * 700, "b"])
    assert np.array_equal(embeddings.vectors, vectors_of("a", ("long " * 700)[:875], "b"))
    assert embeddings.truncated == 1
    assert "3500 characters is too long" in caplog.text
    server.asked.clear()
    embedder.embed_documents(["x"] * 3)
    assert server.batches == [3], "it was a text, not their number"


def test_a_short_text_is_not_cut(server: ForeignServer) -> None:
    embedder = connect(server)
    server.most_characters = 10
    with pytest.raises(EmbeddingServiceError, match="less than 512 tokens"):
        embedder.embed_documents(["a short text"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(number=st.integers(0, 150), most=st.integers(1, 70))
def test_whatever_a_server_takes_at_once_each_text_gets_its_own_vector(
    server: ForeignServer, number: int, most: int
) -> None:
    server.most_texts = most
    texts = [f"text {n}" for n in range(number)]
    embeddings = connect(server).embed_documents(texts)
    assert len(embeddings.token_counts) == number
    assert all(np.array_equal(vector, vector_of(text)) for vector, text in zip(embeddings.vectors, texts, strict=True))


# Waiting


def test_a_busy_server_is_asked_again_when_it_says(server: ForeignServer, pauses: list[float]) -> None:
    embedder = connect(server, patience_seconds=60)
    server.before = [
        JSONResponse({}, 503, {"Retry-After": "7"}),
        JSONResponse({}, 429, {"Retry-After": formatdate(time.time() + 9, usegmt=True)}),
        BUSY,
        JSONResponse({}, 502),
    ]
    assert np.array_equal(embedder.embed_documents(["x"]).vectors, vectors_of("x"))
    assert pauses[0] == 7
    assert 7 < pauses[1] <= 9
    assert 0 < pauses[2] < pauses[3] < 2


def test_patience_ends(server: ForeignServer, pauses: list[float]) -> None:
    embedder = connect(server, patience_seconds=5)
    server.before = [JSONResponse({"message": "come back later"}, 503, {"Retry-After": "6"})]
    with pytest.raises(EmbeddingServiceUnreachableError, match=rf"{server.url} answered 503: come back later"):
        embedder.embed_documents(["x"])
    assert pauses == []


def test_nobody_there() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EmbeddingServiceUnreachableError, match=rf"{url} cannot be reached .*EMBEDDING_SERVICE_URL"):
        RemoteEmbedder(EmbeddingSettings(embedding_service_url=url))


def test_no_answer_in_time(server: ForeignServer) -> None:
    embedder = connect(server, embedding_service_timeout_seconds=0.2)
    server.change = lambda _: time.sleep(0.5)
    with pytest.raises(EmbeddingServiceUnreachableError, match="EMBEDDING_SERVICE_TIMEOUT_SECONDS"):
        embedder.embed_documents(["x"])


def test_a_query_is_waited_for_less_long(server: ForeignServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding.service.remote_embedder.MAX_QUERY_SECONDS", 0.2)
    embedder = connect(server)
    server.change = lambda _: time.sleep(0.5)
    with pytest.raises(EmbeddingServiceUnreachableError, match="did not answer in time"):
        embedder.embed_queries(["x"])
    assert embedder.embed_documents(["x"]).truncated == 0


def test_what_takes_too_long_is_asked_for_in_smaller_parts(server: ForeignServer) -> None:
    embedder = connect(server, patience_seconds=60, embedding_service_timeout_seconds=1)
    server.seconds_per_text = 0.3
    texts = [f"text {number}" for number in range(4)]
    assert np.array_equal(embedder.embed_documents(texts).vectors, vectors_of(*texts))
    assert server.batches[0] == 4
    assert max(server.batches[1:]) < 4, "the same is not asked for again"


def test_a_model_that_fails_is_not_asked_again(server: ForeignServer, pauses: list[float]) -> None:
    embedder = connect(server, patience_seconds=60)
    failure = {"error": {"code": "embedding_service_unavailable", "message": "text 0 got a vector that is not finite"}}
    server.before = [JSONResponse(failure, 503)]
    with pytest.raises(EmbeddingServiceError, match="not finite") as raised:
        embedder.embed_documents(["a"])
    assert not isinstance(raised.value, EmbeddingServiceUnreachableError)
    assert pauses == []


def test_the_token(server: ForeignServer) -> None:
    server.token = "s3cret"
    with pytest.raises(EmbeddingServiceError, match=r"answered 401; set EMBEDDING_SERVICE_TOKEN"):
        connect(server)
    assert connect(server, embedding_service_token="s3cret").dimensions == DIMENSIONS


# What is not taken for vectors


def spoil(item: int, **changes: Any) -> Callable[[Answer], object]:
    return lambda answer: answer["data"][item].update(changes)


NAN = base64.b64encode(np.full(DIMENSIONS, np.nan, dtype="<f4").tobytes()).decode()
SPOILT: dict[str, tuple[Callable[[Answer], object], str]] = {
    "a vector too few": (lambda answer: answer["data"].pop(), "2 vectors for 3 texts"),
    "one vector twice": (lambda answer: answer["data"].append(answer["data"][0]), "4 vectors for 3 texts"),
    "two of one number": (lambda answer: [item.update(index=0) for item in answer["data"]], "numbered them wrongly"),
    "no number": (lambda answer: answer["data"][0].pop("index"), "one vector of numbers a text"),
    "no vectors": (lambda answer: answer.pop("data"), "one vector of numbers a text"),
    "not finite": (spoil(0, embedding=NAN), "zero or not finite"),
    "zero": (spoil(0, embedding=[0.0] * DIMENSIONS), "zero or not finite"),
    "of another size": (spoil(0, embedding=[1.0] * 5), "all of one size"),
    "all of another size": (
        lambda answer: [item.update(embedding=[1.0] * 5) for item in answer["data"]],
        f"5 dimensions, not {DIMENSIONS}",
    ),
    "of vectors": (spoil(0, embedding=[[1.0] * DIMENSIONS]), "one vector of numbers a text"),
    "of words": (spoil(0, embedding=["x"] * DIMENSIONS), "one vector of numbers a text"),
    "broken base64": (spoil(0, embedding="!"), "one vector of numbers a text"),
    "not JSON": (lambda answer: answer.update(text="<html>"), "did not answer JSON"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_spoilt_answers(server: ForeignServer, name: str) -> None:
    embedder = connect(server)
    server.change, complaint = SPOILT[name]
    with pytest.raises(EmbeddingServiceError, match=complaint) as raised:
        embedder.embed_documents(["a", "b", "c"])
    assert server.url in str(raised.value)


def test_vectors_are_brought_to_length_one(server: ForeignServer) -> None:
    server.change = lambda answer: [item.update(embedding=[3.0, 4.0] + [0.0] * 6) for item in answer["data"]]
    np.testing.assert_allclose(connect(server).embed_documents(["x"]).vectors[0, :2], [0.6, 0.8], atol=1e-7)


def test_a_failure_of_the_server_is_passed_on(server: ForeignServer) -> None:
    embedder = connect(server)
    server.before = [JSONResponse({"error": {"message": "CUDA error"}}, 500)]
    with pytest.raises(EmbeddingServiceError, match="/v1/embeddings answered 500: CUDA error"):
        embedder.embed_documents(["x"])


# Which model


def test_a_server_without_a_list_of_models(server: ForeignServer) -> None:
    """text-embeddings-inference names its model with the vectors alone."""
    server.lists_models = False
    assert connect(server).name == "qwen3-embedding-0.6b"
    server.models = ["BAAI/bge-m3"]
    with pytest.raises(EmbeddingServiceError, match=r"runs BAAI/bge-m3, not qwen3.*EMBEDDING_MODEL_NAME"):
        connect(server)


def test_one_of_several_models_is_chosen_by_name(server: ForeignServer) -> None:
    server.models = ["BAAI/bge-m3", "Qwen/Qwen3-Embedding-0.6B"]
    connect(server).embed_documents(["x"])
    assert server.asked[0]["model"] == "Qwen/Qwen3-Embedding-0.6B"
    with pytest.raises(EmbeddingServiceError, match=r"runs BAAI/bge-m3 and Qwen/Qwen3-Embedding-0.6B, not e5"):
        connect(server, embedding_model_name="e5")


def test_the_signature_is_that_of_the_model_wherever_it_runs(server: ForeignServer) -> None:
    with foreign_server(models=["qwen3-embedding-0.6b"], lists_models=False, takes_base64=False) as elsewhere:
        assert connect(elsewhere).signature == connect(server).signature
    signature = connect(server).signature
    server.change = lambda answer: [item.update(embedding=[1.0] * 5) for item in answer["data"]]
    assert connect(server).signature != signature, "other dimensions"
    server.models = ["bge-m3"]
    assert connect(server, embedding_model_name="bge-m3").signature != signature


def test_a_server_that_changes_its_model_is_noticed(server: ForeignServer) -> None:
    embedder = connect(server)
    signature = embedder.signature
    server.change = lambda answer: answer.update(model="bge-m3")
    with pytest.raises(EmbeddingServiceError, match="bge-m3, not qwen3"):
        embedder.embed_documents(["x"])
    server.change = lambda _: None
    embedder.embed_documents(["x"])
    assert embedder.signature == signature


def test_something_else_at_the_url(server: ForeignServer) -> None:
    server.before = [PlainTextResponse("hello")]
    with pytest.raises(EmbeddingServiceError, match="did not answer JSON"):
        connect(server)

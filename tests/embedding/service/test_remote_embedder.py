"""`RemoteEmbedder` with a server that has only OpenAI's embeddings API: vectors, retries and errors."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.responses import JSONResponse, PlainTextResponse

from cli.processes import free_port
from embedding.errors import EmbeddingServiceError, EmbeddingServiceUnreachableError
from embedding.factory import configured_signature, open_embedder
from embedding.interface import Embedder
from embedding.model_settings import EmbeddingSettings
from embedding.service.client import ServiceClient
from embedding.service.remote_embedder import MAX_TEXTS_PER_REQUEST, RemoteEmbedder
from tests.support.indexed_course import DIMENSIONS, vector_of
from tests.support.product import wait_until
from tests.support.servers.foreign_server import Answer, ForeignServer, foreign_server

pytestmark = pytest.mark.integration

PROMPT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery:"
OVERLOADED = JSONResponse({"error": "Model is overloaded", "error_type": "Overloaded"}, 429)


@pytest.fixture
def server() -> Iterator[ForeignServer]:
    with foreign_server() as server:
        yield server


def settings_for(server: ForeignServer, **changes: Any) -> EmbeddingSettings:
    return EmbeddingSettings(embedding_service_url=server.url, **changes)


def connect(server: ForeignServer, patience_seconds: float = 0.0, **changes: Any) -> RemoteEmbedder:
    """A connected embedder; the server's log of requests is empty."""
    embedder = RemoteEmbedder(settings_for(server, **changes), patience_seconds)
    server.requests.clear()
    return embedder


def vectors_of(*texts: str) -> Any:
    return np.stack([vector_of(text) for text in texts])


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The lengths of the pauses between retries, in seconds. The pauses themselves are skipped."""
    pauses: list[float] = []
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=pauses.append))  # not `time.sleep` for all modules
    return pauses


# Requests and answers


def test_documents_have_no_prompt_and_vectors_are_in_order(server: ForeignServer) -> None:
    embedder: Embedder = connect(server)
    texts = [f"text {number}" for number in range(10)]
    embeddings = embedder.embed_documents(texts)
    assert np.array_equal(embeddings.vectors, vectors_of(*texts))
    assert (embedder.name, embedder.dimensions, embedder.device) == ("qwen3-embedding-0.6b", DIMENSIONS, "remote")
    (request,) = server.requests
    assert request == {"model": "Qwen/Qwen3-Embedding-0.6B", "input": texts, "encoding_format": "base64"}


def test_queries_have_the_published_prompt(server: ForeignServer) -> None:
    embeddings = connect(server).embed_queries(["copper", "via"])
    assert np.array_equal(embeddings.vectors, vectors_of(PROMPT + "copper", PROMPT + "via"))


@pytest.mark.parametrize(
    ("instruction", "prompt"), [({}, ""), ({"embedding_query_instruction": "Find"}, "Instruct: Find\nQuery:")]
)
def test_other_models_have_a_prompt_only_if_it_is_set(
    server: ForeignServer, instruction: dict[str, Any], prompt: str
) -> None:
    server.models = ["bge-m3"]
    connect(server, embedding_model_name="bge-m3", **instruction).embed_queries(["copper"])
    assert server.texts == [prompt + "copper"]


def test_configured_prompts_are_sent(server: ForeignServer) -> None:
    """A server with only OpenAI's API adds no prompts."""
    embedder = connect(server, embedding_query_prompt="query: ", embedding_document_prompt="passage: ")
    assert np.array_equal(embedder.embed_queries(["copper"]).vectors, vectors_of("query: copper"))
    assert np.array_equal(embedder.embed_documents(["", "x"]).vectors, vectors_of("passage: ", "passage: x"))


def test_no_prompt_is_sent_if_the_settings_say_so(server: ForeignServer) -> None:
    connect(server, embedding_query_prompt="none", embedding_document_prompt="none").embed_queries(["copper"])
    assert server.texts == ["copper"]


def test_server_that_adds_prompts_is_told_what_a_text_is(server: ForeignServer) -> None:
    RemoteEmbedder(settings_for(server, embedding_service_input_types="query, passage"))
    assert server.requests.pop()["input_type"] == "passage", "some servers refuse requests without the field"
    embedder = connect(server, embedding_service_input_types="query, passage")
    embedder.embed_queries(["copper"])
    embedder.embed_documents(["via"])
    sent = [(request["input_type"], request["input"]) for request in server.requests]
    assert sent == [("query", ["copper"]), ("passage", ["via"])], "and Qwen3's prompt is not sent as well"


@pytest.mark.parametrize("types", ["query", "a,b,c", "query,", ","])
def test_invalid_input_types_are_refused(types: str) -> None:
    with pytest.raises(ValidationError, match="it must be two values with a comma between them"):
        EmbeddingSettings(embedding_service_input_types=types)


def test_server_without_base64(server: ForeignServer) -> None:
    server.accepts_base64 = False
    embeddings = connect(server).embed_documents(["a", "b"])
    assert np.array_equal(embeddings.vectors, vectors_of("a", "b"))


def test_empty_texts_and_unpaired_surrogates_are_replaced(server: ForeignServer) -> None:
    assert len(connect(server).embed_documents(["", "half \ud83d"]).vectors) == 2
    assert server.texts[0] == " "
    json.dumps(server.texts, ensure_ascii=False).encode()


def test_no_texts_need_no_request(server: ForeignServer) -> None:
    assert connect(server).embed_documents([]).vectors.shape == (0, DIMENSIONS)
    assert server.requests == []


def test_progress_is_reported_after_each_request(server: ForeignServer) -> None:
    done: list[int] = []
    connect(server).embed_documents(["x"] * (MAX_TEXTS_PER_REQUEST + 6), done.append)
    assert done == [MAX_TEXTS_PER_REQUEST, MAX_TEXTS_PER_REQUEST + 6]


def test_foreign_server_does_not_tell_which_texts_it_truncated(server: ForeignServer) -> None:
    assert connect(server).embed_queries(["a", "b"]).whole_token_counts is None


def test_token_counts_are_estimated_from_their_sum(server: ForeignServer) -> None:
    embeddings = connect(server).embed_documents(["x", "xxx" * 100, "xx"])
    assert sum(embeddings.token_counts) == 30
    assert max(embeddings.token_counts) == embeddings.token_counts[1]


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
def test_url_may_end_like_those_of_openai_clients(server: ForeignServer, suffix: str) -> None:
    server.url += suffix
    assert connect(server).dimensions == DIMENSIONS


def test_factory_uses_the_service_if_its_url_is_set(server: ForeignServer) -> None:
    embedder = open_embedder(settings_for(server))
    assert isinstance(embedder, RemoteEmbedder)
    assert configured_signature(settings_for(server)) == embedder.signature


# Limits of the server


def test_batches_stay_smaller_after_the_server_rejected_a_large_one(server: ForeignServer) -> None:
    server.max_texts = 32
    embedder = connect(server)
    texts = [f"text {number}" for number in range(70)]
    assert np.array_equal(embedder.embed_documents(texts).vectors, vectors_of(*texts))
    assert server.batches == [64, 32, 32, 6]
    embedder.embed_documents(texts)
    assert server.batches[4:] == [32, 32, 6]


def test_rejected_text_is_an_error_and_does_not_reduce_the_batches(server: ForeignServer) -> None:
    embedder = connect(server)
    server.next_responses = [JSONResponse({"object": "error", "message": "too long"}, 400)] * 3
    with pytest.raises(EmbeddingServiceError, match=r"refused a request \(400\): too long"):
        embedder.embed_documents(["x"] * 4)
    assert server.batches == [4, 2, 1]
    embedder.embed_documents(["x"] * 4)
    assert server.batches[3:] == [4]


def test_text_too_long_for_the_server_is_halved_until_accepted(
    server: ForeignServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.max_characters = 1000
    embedder = connect(server)
    embeddings = embedder.embed_documents(["a", "long " * 700, "b"])
    assert np.array_equal(embeddings.vectors, vectors_of("a", ("long " * 700)[:875], "b"))
    assert embeddings.truncated == 1
    assert "3500 characters is too long" in caplog.text
    server.requests.clear()
    embedder.embed_documents(["x"] * 3)
    assert server.batches == [3], "a text was too long, not the batch"


def test_short_text_is_not_halved(server: ForeignServer) -> None:
    embedder = connect(server)
    server.max_characters = 10
    with pytest.raises(EmbeddingServiceError, match="less than 512 tokens"):
        embedder.embed_documents(["a short text"])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(count=st.integers(0, 150), limit=st.integers(1, 70))
def test_every_text_gets_its_vector_for_any_limit_of_the_server(server: ForeignServer, count: int, limit: int) -> None:
    server.max_texts = limit
    texts = [f"text {number}" for number in range(count)]
    embeddings = connect(server).embed_documents(texts)
    assert len(embeddings.token_counts) == count
    assert all(np.array_equal(vector, vector_of(text)) for vector, text in zip(embeddings.vectors, texts, strict=True))


# Retries and timeouts


def test_busy_server_is_asked_again_after_its_retry_after(server: ForeignServer, pauses: list[float]) -> None:
    embedder = connect(server, patience_seconds=600)
    server.next_responses = [
        JSONResponse({}, 503, {"Retry-After": "7"}),
        JSONResponse({}, 429, {"Retry-After": formatdate(time.time() + 300, usegmt=True)}),
        OVERLOADED,
        JSONResponse({}, 502),
    ]
    assert np.array_equal(embedder.embed_documents(["x"]).vectors, vectors_of("x"))
    assert pauses[0] == 7
    assert 200 < pauses[1] <= 300
    assert 0 < pauses[2] < pauses[3] < 2


def test_retries_end_before_a_retry_after_beyond_the_patience(server: ForeignServer, pauses: list[float]) -> None:
    embedder = connect(server, patience_seconds=5)
    server.next_responses = [JSONResponse({"message": "come back later"}, 503, {"Retry-After": "6"})]
    with pytest.raises(EmbeddingServiceUnreachableError, match=rf"{server.url} answered 503: come back later"):
        embedder.embed_documents(["x"])
    assert pauses == []


def test_unreachable_service_is_an_error() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(EmbeddingServiceUnreachableError, match=rf"{url} cannot be reached .*EMBEDDING_SERVICE_URL"):
        RemoteEmbedder(EmbeddingSettings(embedding_service_url=url))


def test_time_out_is_an_error(server: ForeignServer) -> None:
    server.hangs = lambda texts: texts == ["x"]
    with pytest.raises(EmbeddingServiceUnreachableError, match=r"within 1 s \(EMBEDDING_SERVICE_TIMEOUT_SECONDS\)"):
        connect(server, embedding_service_timeout_seconds=1).embed_documents(["x"])


def test_queries_have_a_deadline_for_the_whole_call(server: ForeignServer) -> None:
    """A batch of queries is not divided when it times out, and documents may take longer."""
    embedder = RemoteEmbedder(settings_for(server), patience_seconds=60, query_seconds=3.0)
    server.requests.clear()
    server.hangs = lambda _: True
    with ThreadPoolExecutor() as pool:
        documents = pool.submit(embedder.embed_documents, ["x"])
        wait_until(lambda: server.batches == [1], seconds=60, state=lambda: "no request")
        with pytest.raises(EmbeddingServiceUnreachableError, match=r"did not answer within 3 s$"):
            embedder.embed_queries(["x"] * 16)  # starts after the documents and ends before them
        server.hangs = lambda _: False
        assert np.array_equal(documents.result().vectors, vectors_of("x"))
    assert server.batches == [1, 16]


def test_retries_of_queries_end_at_their_deadline(server: ForeignServer, pauses: list[float]) -> None:
    embedder = RemoteEmbedder(settings_for(server), patience_seconds=600, query_seconds=10.0)
    server.next_responses = [JSONResponse({"message": "come back later"}, 503, {"Retry-After": "20"})]
    with pytest.raises(EmbeddingServiceUnreachableError, match="answered 503: come back later"):
        embedder.embed_queries(["x"])
    assert pauses == []


def test_server_that_hangs_while_it_is_examined_is_asked_once(server: ForeignServer) -> None:
    server.hangs = lambda _: True
    with pytest.raises(EmbeddingServiceUnreachableError, match="did not answer"):
        RemoteEmbedder(settings_for(server), query_seconds=1.0)
    assert server.batches == [1]


def test_request_that_times_out_is_divided(server: ForeignServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def embeddings(client: ServiceClient, body: Answer, deadline: float) -> Answer:
        return original(client, body, min(deadline, time.monotonic() + 3.0) if len(body["input"]) > 2 else deadline)

    embedder = connect(server, patience_seconds=60)
    original = ServiceClient.embeddings
    monkeypatch.setattr(ServiceClient, "embeddings", embeddings)
    server.hangs = lambda texts: len(texts) > 2
    texts = [f"text {number}" for number in range(4)]
    assert np.array_equal(embedder.embed_documents(texts).vectors, vectors_of(*texts))
    assert server.batches == [4, 2, 2], "the same request is not repeated"


def test_failure_of_the_model_is_not_retried(server: ForeignServer, pauses: list[float]) -> None:
    embedder = connect(server, patience_seconds=60)
    failure = {"error": {"code": "embedding_service_unavailable", "message": "text 0 got a vector that is not finite"}}
    server.next_responses = [JSONResponse(failure, 503)]
    with pytest.raises(EmbeddingServiceError, match="not finite") as raised:
        embedder.embed_documents(["a"])
    assert not isinstance(raised.value, EmbeddingServiceUnreachableError)
    assert pauses == []


def test_token_is_sent_and_a_missing_token_is_an_error(server: ForeignServer) -> None:
    server.token = "s3cret"
    with pytest.raises(EmbeddingServiceError, match=r"answered 401; set EMBEDDING_SERVICE_TOKEN"):
        connect(server)
    assert connect(server, embedding_service_token="s3cret").dimensions == DIMENSIONS


# Invalid answers


def change_first(**changes: Any) -> Callable[[Answer], object]:
    return lambda answer: answer["data"][0].update(changes)


NAN = base64.b64encode(np.full(DIMENSIONS, np.nan, dtype="<f4").tobytes()).decode()
INVALID_ANSWERS: dict[str, tuple[Callable[[Answer], object], str]] = {
    "missing vector": (lambda answer: answer["data"].pop(), "2 vectors for 3 texts"),
    "repeated vector": (lambda answer: answer["data"].append(answer["data"][0]), "4 vectors for 3 texts"),
    "repeated index": (lambda answer: [item.update(index=0) for item in answer["data"]], "wrong indexes"),
    "missing index": (lambda answer: answer["data"][0].pop("index"), "one vector per text"),
    "missing data": (lambda answer: answer.pop("data"), "one vector per text"),
    "not finite": (change_first(embedding=NAN), "zero or not finite"),
    "zero vector": (change_first(embedding=[0.0] * DIMENSIONS), "zero or not finite"),
    "one vector of other dimensions": (change_first(embedding=[1.0] * 5), "all of the same dimensions"),
    "all vectors of other dimensions": (
        lambda answer: [item.update(embedding=[1.0] * 5) for item in answer["data"]],
        f"5 dimensions, not {DIMENSIONS}",
    ),
    "list of vectors": (change_first(embedding=[[1.0] * DIMENSIONS]), "one vector per text"),
    "list of words": (change_first(embedding=["x"] * DIMENSIONS), "one vector per text"),
    "invalid base64": (change_first(embedding="!"), "one vector per text"),
    "not JSON": (lambda answer: answer.update(text="<html>"), "did not answer with JSON"),
}


@pytest.mark.parametrize("name", INVALID_ANSWERS)
def test_invalid_answer_is_an_error_that_names_the_service(server: ForeignServer, name: str) -> None:
    embedder = connect(server)
    server.change_answer, message = INVALID_ANSWERS[name]
    with pytest.raises(EmbeddingServiceError, match=message) as raised:
        embedder.embed_documents(["a", "b", "c"])
    assert server.url in str(raised.value)


def test_vectors_are_normalized(server: ForeignServer) -> None:
    server.change_answer = lambda answer: [item.update(embedding=[3.0, 4.0] + [0.0] * 6) for item in answer["data"]]
    np.testing.assert_allclose(connect(server).embed_documents(["x"]).vectors[0, :2], [0.6, 0.8], atol=1e-7)


def test_error_of_the_server_is_reported(server: ForeignServer) -> None:
    embedder = connect(server)
    server.next_responses = [JSONResponse({"error": {"message": "CUDA error"}}, 500)]
    with pytest.raises(EmbeddingServiceError, match="/v1/embeddings answered 500: CUDA error"):
        embedder.embed_documents(["x"])


# Name and signature of the model


def test_server_without_list_of_models(server: ForeignServer) -> None:
    """text-embeddings-inference reports the name of its model only in the answers with vectors."""
    server.lists_models = False
    assert connect(server).name == "qwen3-embedding-0.6b"
    server.models = ["BAAI/bge-m3"]
    with pytest.raises(EmbeddingServiceError, match=r"runs BAAI/bge-m3, not qwen3.*EMBEDDING_MODEL_NAME"):
        connect(server)


def test_model_is_selected_by_name(server: ForeignServer) -> None:
    server.models = ["BAAI/bge-m3", "Qwen/Qwen3-Embedding-0.6B"]
    connect(server).embed_documents(["x"])
    assert server.requests[0]["model"] == "Qwen/Qwen3-Embedding-0.6B"
    with pytest.raises(EmbeddingServiceError, match=r"runs BAAI/bge-m3 and Qwen/Qwen3-Embedding-0.6B, not e5"):
        connect(server, embedding_model_name="e5")


def test_signature_depends_on_model_and_dimensions_only(server: ForeignServer) -> None:
    with foreign_server(models=["qwen3-embedding-0.6b"], lists_models=False, accepts_base64=False) as other_server:
        assert connect(other_server).signature == connect(server).signature
    signature = connect(server).signature
    server.change_answer = lambda answer: [item.update(embedding=[1.0] * 5) for item in answer["data"]]
    assert connect(server).signature != signature, "other dimensions"
    server.models = ["bge-m3"]
    assert connect(server, embedding_model_name="bge-m3").signature != signature


def test_signature_changes_with_what_is_sent_for_documents(server: ForeignServer) -> None:
    def signature(**changes: Any) -> str:
        return connect(server, **changes).signature

    unchanged = signature()
    assert signature(embedding_query_prompt="query: ") == unchanged
    assert signature(embedding_query_instruction="Find") == unchanged
    assert signature(embedding_document_prompt="none") == unchanged
    changed = {
        signature(embedding_document_prompt="passage: "),
        signature(embedding_document_prompt="passage:"),
        signature(embedding_service_input_types="query,passage"),
        signature(embedding_service_input_types="query,document"),
    }
    assert len(changed | {unchanged}) == 5
    assert unchanged == "977c776ecc7db1b5", "a new version must not embed all courses again"


def test_changed_model_of_the_server_is_detected(server: ForeignServer) -> None:
    embedder = connect(server)
    signature = embedder.signature
    server.change_answer = lambda answer: answer.update(model="bge-m3")
    with pytest.raises(EmbeddingServiceError, match="bge-m3, not qwen3"):
        embedder.embed_documents(["x"])
    server.change_answer = lambda _: None
    embedder.embed_documents(["x"])
    assert embedder.signature == signature


def test_other_web_server_is_an_error(server: ForeignServer) -> None:
    server.next_responses = [PlainTextResponse("hello")]
    with pytest.raises(EmbeddingServiceError, match="did not answer with JSON"):
        connect(server)

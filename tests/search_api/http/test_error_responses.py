"""Every error has one shape, whatever raised it: here every code is provoked by a request that leads to it."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest
from httpx2 import Response

from embedding.errors import EmbeddingError
from embedding.vector_store.errors import VectorStoreError
from search_api.http.errors import ERRORS
from tests.search_api.backstage import Backstage

SEARCH = {"query": "copper"}


def _embedding_not_ready(backstage: Backstage) -> Response:
    backstage.add_course("c", "pending")
    with backstage.client() as client:
        return client.post("/courses/c/search", json=SEARCH)


def _unauthorized(backstage: Backstage) -> Response:
    with backstage.client(internal_token="secret") as client:
        return client.get("/courses")


def _course_not_found(backstage: Backstage) -> Response:
    with backstage.client() as client:
        return client.get("/courses/nobody/embedding_status")


def _model_not_found(backstage: Backstage) -> Response:
    with backstage.client() as client:
        return client.post("/v1/embeddings", json={"input": "x", "model": "another"})


def _not_found(backstage: Backstage) -> Response:
    with backstage.client() as client:
        return client.get("/no/such/path")


def _method_not_allowed(backstage: Backstage) -> Response:
    with backstage.client() as client:
        return client.get("/courses/c/search")


def _already_running(backstage: Backstage) -> Response:
    backstage.add_course("c", "running")
    with backstage.client() as client:
        return client.post("/courses/c/embed")


def _request_too_large(backstage: Backstage) -> Response:
    with backstage.client(max_request_bytes=100) as client:
        return client.post("/embed", json={"texts": ["x" * 100]})


def _unsupported_media_type(backstage: Backstage) -> Response:
    with backstage.client() as client:
        return client.post("/embed", content=b"texts=x", headers={"content-type": "application/x-www-form-urlencoded"})


def _invalid_request(backstage: Backstage) -> Response:
    with backstage.client() as client:
        return client.post("/embed", json={"texts": "not a list"})


def _internal_error(backstage: Backstage) -> Response:
    backstage.add_course("c")
    backstage.store.error = KeyError("a detail nobody outside should read")
    with backstage.client() as client:
        return client.post("/courses/c/search", json=SEARCH)


def _database_unavailable(backstage: Backstage) -> Response:
    with sqlite3.connect(backstage.database) as connection:
        connection.execute("DROP TABLE course")
    connection.close()
    with backstage.client() as client:
        return client.get("/courses")


def _embedding_service_unavailable(backstage: Backstage) -> Response:
    backstage.embedder.error = EmbeddingError("out of memory")
    with backstage.client() as client:
        return client.post("/embed", json={"texts": ["x"]})


def _not_ready(backstage: Backstage) -> Response:
    backstage.store.error = VectorStoreError("away")
    with backstage.client() as client:
        return client.get("/readyz")


def _overloaded(backstage: Backstage) -> Response:
    with (
        backstage.client(embedding_queue_limit=0) as client,
        ThreadPoolExecutor(2) as pool,
        backstage.embedder.held(),
    ):
        calls = [pool.submit(client.post, "/embed", json={"texts": ["x"]}) for _ in range(2)]
        return next(as_completed(calls, timeout=5)).result()


def _vector_store_error(backstage: Backstage) -> Response:
    backstage.add_course("c")
    backstage.store.error = VectorStoreError("disk full")
    with backstage.client() as client:
        return client.post("/courses/c/search", json=SEARCH)


PROVOKE: dict[str, Callable[[Backstage], Response]] = {
    name.removeprefix("_"): provoke
    for name, provoke in list(globals().items())
    if name.startswith("_") and name.removeprefix("_") in ERRORS
}


def test_every_code_is_provoked_here() -> None:
    assert set(PROVOKE) == set(ERRORS)


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_error_shape(code: str, backstage: Backstage) -> None:
    response = PROVOKE[code](backstage)
    body = response.json()
    assert body["error"]["code"] == code
    assert set(body["error"]) == {"code", "message"}
    assert set(body) == ({"error", "components"} if code == "not_ready" else {"error"})
    assert body["error"]["message"]
    assert response.status_code == ERRORS[code].status
    assert response.headers["content-type"] == "application/json"


def test_contract_statuses() -> None:
    """Other systems rely on these; the rest of the table is ours to arrange."""
    assert {code: ERRORS[code].status for code in CONTRACT} == CONTRACT


CONTRACT = {
    "embedding_not_ready": 400,
    "vector_store_error": 503,
    "embedding_service_unavailable": 503,
    "already_running": 409,
}


def test_headers_that_tell_what_to_do_next(backstage: Backstage) -> None:
    assert _method_not_allowed(backstage).headers["allow"] == "POST"
    assert _overloaded(backstage).headers["retry-after"] == "1"


def test_messages_say_what_failed_but_nothing_internal(backstage: Backstage) -> None:
    assert "detail" not in _internal_error(backstage).text.replace("has the details", "")
    assert "out of memory" in _embedding_service_unavailable(backstage).text
    assert "alembic upgrade head" in _database_unavailable(backstage).text

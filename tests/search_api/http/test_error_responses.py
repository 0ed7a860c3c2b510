"""Every error code: a request that causes it, and the shape of the response."""

import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import pytest
from httpx2 import Response

from embedding.errors import EmbeddingError
from embedding.vector_store.errors import VectorStoreError
from search_api.http.errors import ERRORS
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness

SEARCH = {"query": "copper"}


def _embedding_not_ready(harness: AppHarness) -> Response:
    harness.add_course("c", "pending")
    with harness.client() as client:
        return client.post("/courses/c/search", json=SEARCH)


def _unauthorized(harness: AppHarness) -> Response:
    with harness.client(internal_token="secret") as client:
        return client.get("/courses")


def _cors_refused(harness: AppHarness) -> Response:
    with harness.client(cors_origins="https://course.example") as client:
        headers = {"origin": "https://other.example", "access-control-request-method": "POST"}
        return client.options("/courses", headers=headers)


def _host_not_allowed(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.post("/mcp", json={}, headers={"host": "other.example"})


def _course_not_found(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.get("/courses/nobody/embedding_status")


def _resource_not_found(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.delete("/resources/none")


def _course_exists(harness: AppHarness) -> Response:
    harness.add_course("c")
    with harness.client() as client:
        return client.post("/courses", json={"course_id": "c"})


def _stage_one_owns_tables(harness: AppHarness) -> Response:
    with sqlite3.connect(harness.database) as connection:
        connection.execute("DROP TABLE chunk")
        connection.execute("CREATE TABLE chunk (id VARCHAR PRIMARY KEY)")
    connection.close()
    with harness.client() as client:
        return client.post("/courses", json={"course_id": "c"})


def _uploads_unavailable(harness: AppHarness) -> Response:
    Path("data").touch()
    with harness.client() as client:
        return client.post("/resources", data={"course_id": "c"}, files={"file": ("a.md", b"text")})


def _chunk_not_found(harness: AppHarness) -> Response:
    harness.add_searchable_course("c", "copper")
    with harness.client() as client:
        return client.get("/courses/c/chunks/another")


def _model_not_found(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.post("/v1/embeddings", json={"input": "x", "model": "another"})


def _not_found(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.get("/no/such/path")


def _method_not_allowed(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.get("/courses/c/search")


def _already_running(harness: AppHarness) -> Response:
    harness.add_course("c", "running")
    with harness.client() as client:
        return client.post("/courses/c/embed")


def _query_log_off(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.post("/feedback", json={"course_id": "c", "query": "x", "helpful": True})


def _request_too_large(harness: AppHarness) -> Response:
    with harness.client(max_request_bytes=100) as client:
        return client.post("/embed", json={"texts": ["x" * 100]})


def _unsupported_media_type(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.post("/embed", content=b"texts=x", headers={"content-type": "application/x-www-form-urlencoded"})


def _invalid_request(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.post("/embed", json={"texts": "not a list"})


def _internal_error(harness: AppHarness) -> Response:
    harness.add_course("c")
    harness.stub_store.error = KeyError("an internal detail")
    with harness.client() as client:
        return client.post("/courses/c/search", json=SEARCH)


def _database_unavailable(harness: AppHarness) -> Response:
    with sqlite3.connect(harness.database) as connection:
        connection.execute("DROP TABLE course")
    connection.close()
    with harness.client() as client:
        return client.get("/courses")


def _embedding_service_unavailable(harness: AppHarness) -> Response:
    harness.embedder.error = EmbeddingError("out of memory")
    with harness.client() as client:
        return client.post("/embed", json={"texts": ["x"]})


def _not_ready(harness: AppHarness) -> Response:
    harness.database.unlink()
    with harness.client() as client:
        return client.get("/readyz")


def _overloaded(harness: AppHarness) -> Response:
    with (
        harness.client(embedding_queue_limit=0) as client,
        ThreadPoolExecutor(2) as pool,
        harness.embedder.blocked(),
    ):
        requests = [pool.submit(client.post, "/embed", json={"texts": ["x"]}) for _ in range(2)]
        return next(as_completed(requests, timeout=LIMIT_SECONDS)).result()


def _rerank_model_unavailable(harness: AppHarness) -> Response:
    with harness.client() as client:
        return client.post("/v1/rerank", json={"query": "copper", "documents": ["copper"]})


def _vector_store_error(harness: AppHarness) -> Response:
    harness.add_course("c")
    harness.stub_store.error = VectorStoreError("disk full")
    with harness.client() as client:
        return client.post("/courses/c/search", json=SEARCH)


REQUESTS: dict[str, Callable[[AppHarness], Response]] = {
    name.removeprefix("_"): request
    for name, request in list(globals().items())
    if name.startswith("_") and name.removeprefix("_") in ERRORS
}


def test_every_code_has_a_request() -> None:
    assert set(REQUESTS) == set(ERRORS)


@pytest.mark.parametrize("code", sorted(ERRORS))
def test_error_has_code_message_and_status(code: str, harness: AppHarness) -> None:
    response = REQUESTS[code](harness)
    body = response.json()
    assert body["error"]["code"] == code
    assert set(body["error"]) == {"code", "message"}
    assert set(body) == ({"error", "status", "components"} if code == "not_ready" else {"error"})
    assert body["error"]["message"]
    assert response.status_code == ERRORS[code].status
    assert response.headers["content-type"] == "application/json"


def test_codes_of_the_contract_have_the_agreed_statuses() -> None:
    """Other systems rely on these codes."""
    assert {code: ERRORS[code].status for code in CONTRACT} == CONTRACT


CONTRACT = {
    "embedding_not_ready": 400,
    "vector_store_error": 503,
    "embedding_service_unavailable": 503,
    "already_running": 409,
}


def test_error_headers_are_sent(harness: AppHarness) -> None:
    assert _method_not_allowed(harness).headers["allow"] == "POST"
    assert _overloaded(harness).headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/caches", "DELETE, GET, HEAD"),
        ("PUT", "/v1/models", "GET, HEAD"),
        ("HEAD", "/embed", "POST"),
        ("POST", "/", "GET, HEAD"),
        ("POST", "/metrics", "GET, HEAD"),
        ("POST", "/static/page.js", "GET, HEAD"),
        ("GET", "/courses/a/b/embed", "POST"),
    ],
)
def test_wrong_method_names_all_methods_of_the_path(harness: AppHarness, method: str, path: str, allowed: str) -> None:
    with harness.client() as client:
        response = client.request(method, path)
    assert (response.status_code, response.headers["allow"]) == (405, allowed)


def test_text_that_cannot_be_decoded_is_a_database_error(harness: AppHarness) -> None:
    harness.add_course("c")
    with sqlite3.connect(harness.database) as connection:
        connection.execute("UPDATE course SET embedding_error = CAST(X'636166e9' AS TEXT)")
    connection.close()
    with harness.client() as client:
        response = client.get("/courses")
    assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
    assert "text that cannot be decoded" in response.json()["error"]["message"]


def test_messages_name_the_cause_but_no_internal_details(harness: AppHarness) -> None:
    assert "internal detail" not in _internal_error(harness).text
    assert "out of memory" in _embedding_service_unavailable(harness).text
    assert "course-search migrate" in _database_unavailable(harness).text

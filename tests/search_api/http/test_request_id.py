"""The id of a request is in its answer and in every log line of it, and cannot forge a log line."""

import logging
import re
from collections.abc import Iterator

import httpx
import pytest
from starlette.testclient import TestClient

from embedding.errors import EmbeddingError
from embedding.vector_store.errors import VectorStoreError
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.product import wait_until
from tests.support.servers.asgi import serving

ID = {"x-request-id": "tutor:42/a.b_c~d=e+f@g-h"}


@pytest.fixture
def guarded(harness: AppHarness) -> Iterator[TestClient]:
    harness.add_searchable_course("c", "copper")
    with harness.client(internal_token="secret", max_request_bytes=1000) as client:
        yield client


def test_every_answer_has_the_id_of_its_request(harness: AppHarness, guarded: TestClient) -> None:
    token = {"x-internal-token": "secret"}
    harness.embedder.error = KeyError("unexpected")
    requests = [
        (200, guarded.get("/healthz", headers=ID)),
        (200, guarded.head("/docs", headers=ID)),
        (200, guarded.get("/static/page.js", headers=ID)),
        (401, guarded.get("/courses", headers=ID)),
        (404, guarded.get("/courses/nobody/embedding_status", headers=ID | token)),
        (405, guarded.put("/healthz", headers=ID)),
        (413, guarded.post("/embed", json={"texts": ["x" * 2000]}, headers=ID | token)),
        (422, guarded.post("/courses/c/search", json={}, headers=ID | token)),
        (500, guarded.post("/courses/c/search", json={"query": "x"}, headers=ID | token)),
    ]
    for status, response in requests:
        assert response.status_code == status
        assert response.headers.get_list("x-request-id") == [ID["x-request-id"]]


@pytest.mark.parametrize(
    "sent", [[], [""], ["a b"], ["a\tb"], ['"'], ["é"], ["x" * 129], ["a", "b"], ["%0a"], ["[x]"], ["a\x1b[31m"]]
)
def test_request_without_an_acceptable_id_gets_one(client: TestClient, sent: list[str]) -> None:
    headers = [(b"x-request-id", value.encode()) for value in sent]
    made = {client.get("/healthz", headers=headers).headers["x-request-id"] for _ in range(2)}
    assert len(made) == 2
    assert all(re.fullmatch("[0-9a-f]{16}", value) for value in made)


def test_longest_id_is_accepted(client: TestClient) -> None:
    assert client.get("/healthz", headers={"x-request-id": "x" * 128}).headers["x-request-id"] == "x" * 128


def test_log_lines_have_the_id_also_from_other_threads(
    harness: AppHarness, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    """A course is opened on a background thread, a query is embedded on a thread for requests."""
    caplog.set_level(logging.DEBUG)
    harness.add_searchable_course("c", "copper")
    assert client.post("/courses/c/search", json={"query": "x"}, headers=ID).status_code == 200
    harness.embedder.error = EmbeddingError("out of memory")
    assert client.post("/courses/c/search", json={"query": "y"}, headers=ID).status_code == 503
    lines = {
        record.getMessage().split(", ")[0]: getattr(record, "request_id", None)
        for record in caplog.records
        if record.name.startswith(("retrieval", "search_api"))
    }
    opened = next(message for message in lines if message.startswith("Cache courses: miss"))
    embedded = next(message for message in lines if message.startswith("Cache queries: miss"))
    answered = next(message for message in lines if message.startswith("POST "))
    assert {lines[opened], lines[embedded], lines[answered]} == {ID["x-request-id"]}
    logging.getLogger("search_api").info("outside")
    assert getattr(caplog.records[-1], "request_id", None) == "-"


@pytest.mark.integration
def test_traceback_of_the_server_has_the_id(harness: AppHarness, caplog: pytest.LogCaptureFixture) -> None:
    harness.add_course("c")
    harness.stub_store.error = KeyError("unexpected detail")
    with serving(create_app(SearchSettings(), harness.services)) as url, httpx.Client(base_url=url) as client:
        response = client.post("/courses/c/search", json={"query": "x"}, headers=ID)
        assert (response.status_code, response.headers["x-request-id"]) == (500, ID["x-request-id"])
        wait_until(lambda: "Exception in ASGI" in caplog.text, LIMIT_SECONDS, lambda: caplog.text, every=0.01)
        harness.stub_store.error = VectorStoreError("disk full")
        other = client.post("/courses/c/search", json={"query": "x"}).headers["x-request-id"]  # the same connection
    ids = {record.name: getattr(record, "request_id", None) for record in caplog.records if record.levelname == "ERROR"}
    assert ids == {"uvicorn.error": ID["x-request-id"], "search_api.http.error_responses": other}

"""The internal token: without it, only probes, documentation and the search page are accessible."""

import asyncio
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from search_api.http.auth import InternalTokenMiddleware
from tests.search_api.app_harness import AppHarness

TOKEN = "s3cret-token"
GUARDED = [
    ("GET", "/courses"),
    ("GET", "/courses/c/embedding_status"),
    ("POST", "/courses/c/embed"),
    ("POST", "/courses/c/search"),
    ("POST", "/embed"),
    ("GET", "/no/such/path"),
    ("DELETE", "/healthz/"),
    ("GET", "/static"),
    ("GET", "/docsearch"),
    ("GET", "http://testserver//healthz"),
]


@pytest.fixture
def guarded(harness: AppHarness) -> Iterator[TestClient]:
    harness.add_searchable_course("c", "text")
    with harness.client(internal_token=TOKEN) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("token", [None, b"", b"wrong", b"s3cret", TOKEN.upper().encode(), b"\xff\xfe"])
def test_request_without_the_token_is_refused(guarded: TestClient, method: str, path: str, token: bytes | None) -> None:
    headers = {} if token is None else {b"x-internal-token": token}
    response = guarded.request(method, path, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")


def test_request_with_the_token_is_answered(guarded: TestClient) -> None:
    headers = {b"X-Internal-Token": TOKEN.encode()}
    assert guarded.get("/courses", headers=headers).status_code == 200
    assert guarded.post("/courses/c/search", json={"query": "x"}, headers=headers).status_code == 200
    assert guarded.get("/no/such/path", headers=headers).status_code == 404


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/docs", "/openapi.json", "/docs/static/swagger-ui.css"])
def test_open_path_needs_no_token(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_no_request_needs_a_token_if_none_is_configured(client: TestClient) -> None:
    assert client.get("/courses").status_code == 200
    assert client.get("/courses", headers={"x-internal-token": "anything"}).status_code == 200


def test_empty_token_setting_means_no_token(harness: AppHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNAL_TOKEN", "")
    with harness.client() as client:
        assert client.get("/courses").status_code == 200


async def _unreachable_app(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the app must not be called")


def test_body_is_not_read_without_the_token() -> None:
    async def receive() -> Message:
        raise AssertionError("the body must not be read")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/embed", "method": "POST", "headers": [(b"content-length", b"99999999")]}
    asyncio.run(InternalTokenMiddleware(_unreachable_app, SecretStr("t"))(scope, receive, send))
    assert sent[0]["status"] == 401


def test_missing_token_is_reported_before_a_too_large_body(harness: AppHarness) -> None:
    with harness.client(internal_token=TOKEN, max_request_bytes=10) as client:
        assert client.post("/embed", json={"texts": ["x" * 100]}).status_code == 401

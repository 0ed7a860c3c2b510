"""The internal token: nothing but probes and documentation without it."""

import asyncio
from collections.abc import Iterator

import pytest
from pydantic import SecretStr
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from search_api.http.auth import InternalTokenMiddleware
from tests.search_api.backstage import Backstage

TOKEN = "s3cret-tökén"
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
def guarded(backstage: Backstage) -> Iterator[TestClient]:
    backstage.add_searchable_course("c", "text")
    with backstage.client(internal_token=TOKEN) as client:
        yield client


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize("given", [None, b"", b"wrong", b"s3cret", TOKEN.upper().encode(), b"\xff\xfe"])
def test_without_the_token(guarded: TestClient, method: str, path: str, given: bytes | None) -> None:
    headers = {} if given is None else {b"x-internal-token": given}
    response = guarded.request(method, path, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")


def test_with_the_token(guarded: TestClient) -> None:
    headers = {b"X-Internal-Token": TOKEN.encode()}
    assert guarded.get("/courses", headers=headers).status_code == 200
    assert guarded.post("/courses/c/search", json={"query": "x"}, headers=headers).status_code == 200
    assert guarded.get("/no/such/path", headers=headers).status_code == 404


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/docs", "/openapi.json", "/docs/static/swagger-ui.css"])
def test_open_paths(guarded: TestClient, path: str) -> None:
    assert guarded.get(path).status_code == 200


def test_nobody_is_asked_where_no_token_is_set(client: TestClient) -> None:
    assert client.get("/courses").status_code == 200
    assert client.get("/courses", headers={"x-internal-token": "anything"}).status_code == 200


def test_an_empty_token_is_no_token(backstage: Backstage, monkeypatch: pytest.MonkeyPatch) -> None:
    """`INTERNAL_TOKEN=` in an env file means that there is none, not that an empty header opens the door."""
    monkeypatch.setenv("INTERNAL_TOKEN", "")
    with backstage.client() as client:
        assert client.get("/courses").status_code == 200


async def _never(scope: Scope, receive: Receive, send: Send) -> None:
    raise AssertionError("the app must not be reached")


def test_the_body_is_not_read_before_the_token() -> None:
    async def receive() -> Message:
        raise AssertionError("the body must not be read")

    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/embed", "method": "POST", "headers": [(b"content-length", b"99999999")]}
    asyncio.run(InternalTokenMiddleware(_never, SecretStr("t"))(scope, receive, send))
    assert sent[0]["status"] == 401


def test_a_body_over_the_limit_does_not_replace_the_missing_token(backstage: Backstage) -> None:
    with backstage.client(internal_token=TOKEN, max_request_bytes=10) as client:
        assert client.post("/embed", json={"texts": ["x" * 100]}).status_code == 401

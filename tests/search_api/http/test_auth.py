"""The token: without it, only probes, documentation and the search page are accessible; with it, everything is."""

import asyncio
from collections.abc import Iterator

import pytest
from pydantic import SecretStr, ValidationError
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from search_api.app_settings import SearchSettings
from search_api.http.auth import InternalTokenMiddleware
from tests.search_api.app_harness import AppHarness

TOKEN = "s3cret-token"
BEARER = [f"Bearer {TOKEN}", f"bearer  {TOKEN}", f"BEARER {TOKEN} "]
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
    sent = [{}] if token is None else [{b"x-internal-token": token}, {b"authorization": b"Bearer " + token}]
    for headers in sent:
        response = guarded.request(method, path, headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")
        assert response.headers["www-authenticate"] == 'Bearer realm="course-search"'


@pytest.mark.parametrize("header", [("X-Internal-Token", TOKEN), *(("Authorization", value) for value in BEARER)])
def test_request_with_the_token_is_answered(guarded: TestClient, header: tuple[str, str]) -> None:
    """Prometheus, which reads /metrics, and OpenAI's clients send only a bearer token."""
    headers = dict([header])
    assert guarded.get("/courses", headers=headers).status_code == 200
    assert guarded.get("/metrics", headers=headers).status_code == 200
    assert guarded.get("/v1/models", headers=headers).status_code == 200
    assert guarded.post("/courses/c/search", json={"query": "x"}, headers=headers).status_code == 200
    assert guarded.get("/no/such/path", headers=headers).status_code == 404


@pytest.mark.parametrize(
    "value",
    [TOKEN, f"Basic {TOKEN}", f"Bearer{TOKEN}", "Bearer", "Bearer ", "", f"{TOKEN} Bearer", f"Bearer {TOKEN} {TOKEN}"],
)
def test_another_form_of_the_authorization_header_is_refused(guarded: TestClient, value: str) -> None:
    assert guarded.get("/courses", headers={"authorization": value}).status_code == 401


def test_one_of_two_headers_is_enough(guarded: TestClient) -> None:
    """A proxy may use Authorization for its own purpose."""
    proxy = {"authorization": "Basic dXNlcjpwYXNzd29yZA=="}
    assert guarded.get("/courses", headers={**proxy, "x-internal-token": TOKEN}).status_code == 200


def test_two_tokens_are_valid_while_callers_change(harness: AppHarness) -> None:
    with harness.client(internal_token="new", internal_token_old=" old\n") as client:
        statuses = [
            client.get("/courses", headers={"x-internal-token": sent}).status_code for sent in ("new", "old", "")
        ]
        assert statuses == [200, 200, 401]
        assert client.get("/courses", headers={"authorization": "Bearer old"}).status_code == 200


def test_old_token_alone_is_refused_at_start_without_being_shown() -> None:
    with pytest.raises(ValidationError, match="needs INTERNAL_TOKEN") as raised:
        SearchSettings(internal_token_old="s3cret")
    assert raised.value.errors()[0]["loc"] == ("internal_token_old",)
    assert "s3cret" not in str(raised.value)


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
    asyncio.run(InternalTokenMiddleware(_unreachable_app, [SecretStr("t")])(scope, receive, send))
    assert sent[0]["status"] == 401


def test_missing_token_is_reported_before_a_too_large_body(harness: AppHarness) -> None:
    with harness.client(internal_token=TOKEN, max_request_bytes=10) as client:
        assert client.post("/embed", json={"texts": ["x" * 100]}).status_code == 401

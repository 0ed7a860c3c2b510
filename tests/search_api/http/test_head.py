"""`HEAD` is answered like `GET`, without the body: monitors and load balancers send it."""

import asyncio
import socket
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.http.head import HeadMiddleware
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.servers.asgi import serving

pytestmark = pytest.mark.integration

TOKEN = "secret"
PATHS = [
    "/",
    "/healthz",
    "/readyz",
    "/docs",
    "/openapi.json",
    "/static/page.js",
    "/docs/static/swagger-ui.css",
    "/courses",
    "/courses/c/embedding_status",
    "/courses/nobody/embedding_status",
    "/v1/models",
    "/caches",
    "/no/such/path",
    "/embed",
]
CHANGING = {"date", "x-request-id"}


@pytest.fixture
def url(harness: AppHarness) -> Iterator[str]:
    harness.add_searchable_course("c", "text")
    app = create_app(SearchSettings(internal_token=TOKEN), harness.services)
    with serving(app, root_path="/search") as url:
        yield url


def test_head_has_the_status_and_headers_of_get(url: str) -> None:
    with httpx.Client(base_url=url) as client:
        for headers in ({}, {"x-internal-token": TOKEN}):
            for path in PATHS:
                answers = [client.request(method, path, headers=headers) for method in ("HEAD", "GET")]
                head, get = (
                    (
                        answer.status_code,
                        {name: value for name, value in answer.headers.items() if name not in CHANGING},
                    )
                    for answer in answers
                )
                assert head == get, path
                assert not answers[0].content
        assert (
            client.head("/metrics", headers={"x-internal-token": TOKEN})
            .headers["content-type"]
            .startswith("text/plain")
        )
        metrics = client.get("/metrics", headers={"x-internal-token": TOKEN}).text
        assert 'duration_seconds_count{route="/courses",status="200"} 2.0' in metrics, "HEAD is counted with its route"


def test_nothing_follows_the_head_on_the_connection(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as connection:
        connection.sendall(b"HEAD / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = b""
        while received := connection.recv(65536):
            answer += received
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.partition(b"\r\n\r\n")[2] == b""


def test_head_of_a_stream_ends_at_once() -> None:
    sent: list[Message] = []

    async def stream(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["method"] == "GET"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        assert sent[-1] == {"type": "http.response.body", "body": b""}
        await send({"type": "http.response.body", "body": b"part", "more_body": True})

    async def receive() -> Message:
        raise AssertionError("nothing is to be received")

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "HEAD"}
    asyncio.run(HeadMiddleware(stream)(scope, receive, send))
    assert len(sent) == 2
    assert scope["method"] == "HEAD"

"""The app behind a real HTTP server: raw paths, chunked bodies, logged errors, clean start and stop."""

import json
import re
import socket
from collections.abc import Iterator

import httpx
import pytest

from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness
from tests.support.product import wait_until
from tests.support.servers.asgi import serving

pytestmark = pytest.mark.integration

MAX_BYTES = 10_000


@pytest.fixture
def url(harness: AppHarness) -> Iterator[str]:
    with serving(create_app(SearchSettings(max_request_bytes=MAX_BYTES), harness.services)) as url:
        yield url


def test_slash_in_course_id_may_be_escaped(harness: AppHarness, url: str) -> None:
    harness.add_searchable_course("a/b", "text")
    harness.add_searchable_course("a%2Fb", "text")
    harness.add_searchable_course("课程 1", "text")
    for path, course_id in (
        ("a/b", "a/b"),
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("%E8%AF%BE%E7%A8%8B%201", "课程 1"),
    ):
        assert httpx.get(f"{url}/courses/{path}/embedding_status").json()["course_id"] == course_id


@pytest.mark.parametrize("escaped", ["%00", "%ED%A0%80", "%FF", "%0A", "%C0%80"])
def test_invalid_course_id_is_not_found(url: str, escaped: str) -> None:
    response = httpx.get(f"{url}/courses/{escaped}/embedding_status")
    assert (response.status_code, set(response.json())) == (404, {"error"})


def test_chunked_body_over_the_limit_is_refused_before_its_end(url: str) -> None:
    """The client never sends the end of the body."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as connection:
        connection.sendall(
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(MAX_BYTES // 1000 + 1):
            connection.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        answer = connection.recv(65536)
        while not answer.endswith(b"}}"):  # the body may arrive after the headers
            received = connection.recv(65536)
            assert received, answer
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 413 " in head.splitlines()[0]
    assert json.loads(body)["error"]["code"] == "request_too_large"


def test_content_length_over_the_limit_is_refused_before_the_body(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as connection:
        connection.sendall(f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(65536).splitlines()[0]


def test_chunked_body_within_the_limit_is_accepted(harness: AppHarness, url: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b'{"texts":', b' ["cop', b'per"]}')

    response = httpx.post(f"{url}/embed", content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert harness.embedder.embedded_texts == ["copper"]


def test_client_that_disconnects_while_it_sends_the_body_is_no_error_of_the_app(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as connection:
        connection.sendall(
            b"POST /courses/c/search HTTP/1.1\r\nHost: x\r\n"
            b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
        )
    counted = re.compile(r'duration_seconds_count\{.*search.*status="(\d+)"\}')
    wait_until(
        lambda: counted.search(httpx.get(f"{url}/metrics").text) is not None,
        LIMIT_SECONDS,
        lambda: httpx.get(f"{url}/metrics").text,
        every=0.01,
    )
    assert counted.findall(httpx.get(f"{url}/metrics").text) == ["422"]
    assert "Traceback" not in caplog.text


def test_unexpected_error_is_logged_with_its_traceback(
    harness: AppHarness, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    harness.add_course("c")
    harness.stub_store.error = KeyError("unexpected detail")
    response = httpx.post(f"{url}/courses/c/search", json={"query": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "unexpected detail" not in response.text
    wait_until(lambda: "KeyError: 'unexpected detail'" in caplog.text, LIMIT_SECONDS, lambda: caplog.text, every=0.01)

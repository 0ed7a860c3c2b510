"""The app behind a real HTTP server: raw paths, chunked bodies, logged errors, clean start and stop."""

import json
import logging
import re
import socket
import struct
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
            b"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
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
        connection.sendall(
            f"POST /embed HTTP/1.1\r\nHost: localhost\r\nContent-Length: {MAX_BYTES + 1}\r\n\r\n".encode()
        )
        assert b" 413 " in connection.recv(65536).splitlines()[0]


def test_chunked_body_within_the_limit_is_accepted(harness: AppHarness, url: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b'{"texts":', b' ["cop', b'per"]}')

    response = httpx.post(f"{url}/embed", content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert harness.embedder.embedded_texts == ["copper"]


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
@pytest.mark.parametrize("path", ["/courses/c/search", "/embed", "/v1/embeddings"])
def test_client_that_goes_while_it_sends_the_body_is_no_error_of_the_app(
    url: str, path: str, resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _send_and_go(url, f"POST {path}", b"{", length=99, resets=resets)
    assert _statuses(url) == {"499"}
    _require_no_complaint(caplog)


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
def test_client_that_goes_before_its_answer_is_no_error_of_the_app(
    harness: AppHarness, url: str, resets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    harness.add_searchable_course("c", "copper")
    body = b'{"query": "copper"}'
    with harness.embedder.blocked():
        _send_and_go(url, "POST /courses/c/search", body, length=len(body), resets=resets, wait=harness)
    _send_and_go(url, "GET /docs/static/swagger-ui-bundle.js", b"", length=0, resets=resets, read=100)
    assert _statuses(url, 2) <= {"200", "499"}
    _require_no_complaint(caplog)


def _send_and_go(
    url: str, request: str, body: bytes, *, length: int, resets: bool, read: int = 0, wait: AppHarness | None = None
) -> None:
    """Send a request, and close the connection without the rest of it, or without its answer.

    Args:
        url: The app.
        request: Method and path.
        body: The bytes of the body that are sent.
        length: The announced length of the body.
        resets: Close the connection by a reset, like a program that was killed.
        read: Bytes of the answer to read before that.
        wait: Close the connection only when the embedder of this app has the query.
    """
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=LIMIT_SECONDS) as connection:
        lines = ("Host: localhost", "Content-Type: application/json", f"Content-Length: {length}", "\r\n")
        head = "\r\n".join((f"{request} HTTP/1.1", *lines))
        connection.sendall(head.encode() + body)
        connection.recv(read) if read else None
        if wait:
            wait_until(lambda: bool(wait.embedder.embedded_texts), LIMIT_SECONDS, lambda: "no query", every=0.01)
        if resets:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _statuses(url: str, number: int = 1) -> set[str]:
    """The statuses of the requests but those to `/metrics`, when so many have been answered."""
    counted = re.compile(r'duration_seconds_count\{route="(?!/metrics)[^"]*",status="(\d+)"\} (\d+)')

    def counts() -> list[tuple[str, str]]:
        return counted.findall(httpx.get(f"{url}/metrics").text)

    wait_until(
        lambda: sum(int(count) for _, count in counts()) == number, LIMIT_SECONDS, lambda: str(counts()), every=0.01
    )
    return {status for status, _ in counts()}


def _require_no_complaint(caplog: pytest.LogCaptureFixture) -> None:
    assert not [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
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

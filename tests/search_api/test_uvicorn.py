"""What only a real server shows: raw paths, bodies in chunks, and that it starts and stops cleanly."""

import json
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from search_api.app import create_app
from search_api.app_settings import SearchSettings
from tests.search_api.backstage import Backstage
from tests.support.server import serving

pytestmark = pytest.mark.integration

LIMIT = 10_000


@pytest.fixture
def url(backstage: Backstage) -> Iterator[str]:
    with serving(create_app(SearchSettings(max_request_bytes=LIMIT), backstage.services)) as url:
        yield url


def test_a_slash_in_an_id_and_its_escape_are_the_same(backstage: Backstage, url: str) -> None:
    backstage.add_searchable_course("a/b", "text")
    backstage.add_searchable_course("a%2Fb", "text")
    backstage.add_searchable_course("课程 1", "text")
    for path, course_id in (
        ("a/b", "a/b"),
        ("a%2Fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("%E8%AF%BE%E7%A8%8B%201", "课程 1"),
    ):
        assert httpx.get(f"{url}/courses/{path}/embedding_status").json()["course_id"] == course_id


@pytest.mark.parametrize("escaped", ["%00", "%ED%A0%80", "%FF", "%0A", "%C0%80"])
def test_ids_nobody_can_have(url: str, escaped: str) -> None:
    response = httpx.get(f"{url}/courses/{escaped}/embedding_status")
    assert (response.status_code, set(response.json())) == (404, {"error"})


def test_an_upload_in_chunks_is_cut_off(url: str) -> None:
    """The answer comes although the client has not finished, and never will."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(
            b"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(LIMIT // 1000 + 1):
            connection.sendall(b"3e8\r\n" + b" " * 1000 + b"\r\n")
        answer = connection.recv(65536)
        while not answer.endswith(b"}}"):  # the body may come after the head
            received = connection.recv(65536)
            assert received, answer
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 413 " in head.splitlines()[0]
    assert json.loads(body)["error"]["code"] == "request_too_large"


def test_an_announced_length_is_refused_before_the_body(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {LIMIT + 1}\r\n\r\n".encode())
        assert b" 413 " in connection.recv(65536).splitlines()[0]


def test_a_chunked_body_within_the_limit(backstage: Backstage, url: str) -> None:
    def chunks() -> Iterator[bytes]:
        yield from (b'{"texts":', b' ["cop', b'per"]}')

    response = httpx.post(f"{url}/embed", content=chunks(), headers={"content-type": "application/json"})
    assert response.status_code == 200
    assert backstage.embedder.asked == ["copper"]


def test_unexpected_errors_are_logged_with_their_traceback(
    backstage: Backstage, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    backstage.add_course("c")
    backstage.store.error = KeyError("unheard of")
    response = httpx.post(f"{url}/courses/c/search", json={"query": "x"})
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "unheard of" not in response.text
    deadline = time.monotonic() + 5
    while "KeyError: 'unheard of'" not in caplog.text:
        assert time.monotonic() < deadline
        time.sleep(0.01)

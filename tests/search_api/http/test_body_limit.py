"""The limit on request bodies, with a Content-Length header and in chunked encoding."""

import json
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from search_api.http.json_route import MAX_BRACKETS
from tests.search_api.app_harness import AppHarness

JSON = {"content-type": "application/json"}


@pytest.fixture
def limited(harness: AppHarness) -> Iterator[TestClient]:
    harness.add_searchable_course("c", "text")
    with harness.client(max_request_bytes=1000) as client:
        yield client


def body(size: int) -> bytes:
    start = b'{"query": "'
    return start + b"x" * (size - len(start) - 2) + b'"}'


def chunks(content: bytes) -> Iterator[bytes]:
    for start in range(0, len(content), 100):
        yield content[start : start + 100]


@pytest.mark.parametrize(("size", "status"), [(1000, 200), (1001, 413), (100_000, 413)])
def test_body_over_the_limit_is_refused(limited: TestClient, size: int, status: int) -> None:
    for content in (body(size), chunks(body(size))):
        response = limited.post("/courses/c/search", content=content, headers=JSON)
        assert response.status_code == status
        if status == 413:
            assert response.json()["error"]["code"] == "request_too_large"


@pytest.mark.parametrize("length", [b"-1", b"abc", b"9" * 5000, b"\xb2"])
def test_invalid_content_length_is_ignored(limited: TestClient, length: bytes) -> None:
    headers = {b"content-type": b"application/json", b"content-length": length}
    assert limited.post("/courses/c/search", content=body(100), headers=headers).status_code == 200


def test_default_limit_is_16_mib(client: TestClient) -> None:
    assert client.post("/embed", content=b" " * (16 * 1024 * 1024 + 1), headers=JSON).status_code == 413


@pytest.mark.parametrize("path", ["/courses/c/search", "/search", "/embed", "/v1/embeddings"])
def test_body_of_very_many_values_is_refused_before_it_is_parsed(client: TestClient, path: str) -> None:
    """Parsing it would stop all other requests for seconds."""
    content = b'{"filters": [' + b"{}," * (MAX_BRACKETS) + b"{}]}"
    response = client.post(path, content=content, headers=JSON)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (413, "request_too_large")
    assert "300,000 opening brackets" in error["message"]


def test_long_text_is_no_body_of_many_values(client: TestClient) -> None:
    content = json.dumps({"texts": ["one, two, " * 100_000]})
    assert client.post("/embed", content=content, headers=JSON).status_code == 200

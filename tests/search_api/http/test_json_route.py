"""Bodies that are JSON, but cannot be processed: a key that occurs twice, and deep nesting."""

import json
from pathlib import Path
from typing import Any

import pytest
from httpx2 import Response
from starlette.testclient import TestClient

from search_api.app import create_app
from tests.search_api.app_harness import AppHarness

PATHS = [
    path.replace("{course_id}", "c")
    for path, operations in create_app().openapi()["paths"].items()
    if "requestBody" in operations.get("post", {})
]
"""All routes with a body."""
VALID: dict[str, Any] = {
    "/courses/c/search": {"query": "copper", "filters": {"section_id": "1"}},
    "/search": {"query": "copper"},
    "/embed": {"texts": ["copper"]},
    "/v1/embeddings": {"input": "copper"},
    "/v1/rerank": {"query": "copper", "documents": ["copper"]},
    "/courses": {"course_id": "new"},
    "/resources": {"course_id": "c", "path": "a.md"},
    "/feedback": {"course_id": "c", "query": "copper", "helpful": True},
}


def post(client: TestClient, path: str, content: str, content_type: str = "application/json") -> Response:
    return client.post(path, content=content.encode(), headers={"content-type": content_type})


def message(response: Response) -> str:
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
    text: str = response.json()["error"]["message"]
    return text


def test_every_route_with_a_body_is_tested() -> None:
    assert set(PATHS) == set(VALID)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8"])
def test_key_that_occurs_twice_is_refused(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch, path: str, content_type: str
) -> None:
    """Otherwise the last value would win: one of two queries, for example, would be ignored."""
    monkeypatch.setenv("IMPORT_DIR", ".")
    Path("a.md").write_text("text")
    harness.add_searchable_course("c", "copper")
    body = json.dumps(VALID[path])
    key = next(iter(VALID[path]))
    twice = f'{{"{key}": "other", {body[1:]}'
    expected = f"The body is ambiguous: the key '{key}' occurs more than once in an object"
    with harness.client(query_log=True) as client:
        assert post(client, path, body, content_type).status_code in (200, 201, 202, 503)  # there is no rerank model
        assert message(post(client, path, twice, content_type)) == expected


def test_key_that_occurs_twice_in_a_nested_object_is_refused(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    for nested in ('{"section_id": "1", "section_id": "2"}', '{"section_id": [{"a": 1, "a": 1}]}'):
        body = f'{{"query": "copper", "filters": {nested}}}'
        assert "occurs more than once" in message(post(client, "/courses/c/search", body))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("depth", [50, 150, 300, 990, 5_000, 100_000])
def test_deeply_nested_body_is_refused(harness: AppHarness, client: TestClient, path: str, depth: int) -> None:
    """Parsers and validators work by recursion; the error must not depend on the depth."""
    harness.add_searchable_course("c", "copper")
    key = next(iter(VALID[path]))
    arrays = "[" * depth + "]" * depth
    objects = '{"a":' * depth + "1" + "}" * depth
    for value in (arrays, objects):
        for body in (value, f'{{"{key}": {value}}}', f'{{"{key}": "copper", "other": {value}}}'):
            assert message(post(client, path, body))
    if path.endswith("/search"):
        for value in (arrays, objects):
            assert message(post(client, path, f'{{"query": "copper", "filters": {{"section_id": {value}}}}}'))
            assert message(post(client, path, f'{{"query": "copper", "filters": {value}}}'))

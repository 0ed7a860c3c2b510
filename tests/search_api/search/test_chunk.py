"""GET /courses/{id}/chunks/{chunk_id}: a passage by its id, from the generation that a search uses."""

import json
from typing import Any
from urllib.parse import quote

import httpx
import jsonschema
import pytest
from starlette.testclient import TestClient

from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.records import Record
from search_api.app import create_app
from search_api.app_settings import SearchSettings
from search_api.openapi import openapi_document
from tests.search_api.app_harness import AppHarness, StubCollection
from tests.search_api.search.test_serving import publish, set_status
from tests.support.servers.asgi import serving


def open_chunk(client: TestClient | httpx.Client, chunk_id: str, course_id: str = "c", **query: Any) -> tuple[int, Any]:
    path = f"/courses/{quote(course_id, safe='')}/chunks/{quote(chunk_id, safe='')}"
    response = client.get(path, params=query)
    return response.status_code, response.json()


def add_chunks(harness: AppHarness, course_id: str, *chunk_ids: str) -> StubCollection:
    """Add a course whose chunks have these ids, each of them also as its text."""
    collection = harness.add_searchable_course(course_id, *chunk_ids)
    collection.records = [
        Record(chunk_id, chunk_id, {"course_id": course_id, "order_in_section": number, "page": number + 1}, "hash")
        for number, chunk_id in enumerate(chunk_ids)
    ]
    return collection


def test_passage_with_neighbours(harness: AppHarness, client: TestClient) -> None:
    add_chunks(harness, "c", *"dacb")
    status, answer = open_chunk(client, "a", context=5)
    assert status == 200
    schema = {"$ref": "#/components/schemas/ChunkResponse"} | json.loads(openapi_document())
    jsonschema.validate(answer, schema)
    context = answer.pop("context")
    assert [[passage["text"] for passage in context[side]] for side in ("before", "after")] == [["d"], ["c", "b"]]
    assert (answer["text"], answer["chunk_id"], answer["course_id"]) == ("a", "a", "c")
    assert (answer["generation"], answer["stale"], answer["citation"]["page"]) == (0, False, 2)
    assert open_chunk(client, "a")[1] == answer | {"context": {"before": [], "after": []}}
    found = client.post("/courses/c/search", json={"query": "a", "context": 5}).json()["results"][0]
    assert {name: found[name] for name in ("text", "metadata", "citation", "language", "context")} == {
        **{name: answer[name] for name in ("text", "metadata", "citation", "language")},
        "context": context,
    }, "the same as in the result of a search"


IDS = ("a", "a/b", "a/chunks/b", "/", "...", "a%2Fb", "%", "a b", "a?b#c", "第 1 课/é", "embedding_status", "a+b", "😀")


@pytest.mark.integration
def test_ids_are_any_text(harness: AppHarness) -> None:
    """They are percent-encoded, so it is clear where the course id ends. The test client would decode them twice."""
    courses = ("c", "c/chunks/a", "courses/c", "课/程")
    for course_id in courses:
        add_chunks(harness, course_id, *IDS, "x/embedding_status", "x/search")
    with serving(create_app(SearchSettings(), harness.services)) as url, httpx.Client(base_url=url) as client:
        for course_id in courses:
            for chunk_id in (*IDS, "x/embedding_status", "x/search"):
                status, answer = open_chunk(client, chunk_id, course_id)
                assert (status, answer.get("text")) == (200, chunk_id), (course_id, chunk_id)
                assert answer["course_id"] == course_id
        status_of_other = client.get("/courses/c%2Fchunks%2Fa/embedding_status").json()
        assert status_of_other["course_id"] == "c/chunks/a"
        assert client.get("/courses/c/chunks/a/embedding_status").json() == status_of_other
        for path in ("courses/c/chunks/a/b", "courses/c/chunks%2Fa%2Fb", "courses%2Fc/chunks/a/b"):
            assert client.get(f"/{path}").json()["text"] == "a/b", "slashes that are not encoded as they should be"
        assert client.get("/courses/课/程%2Fchunks/a").json()["course_id"] == "课/程"


def test_unknown_chunks_and_courses(harness: AppHarness, client: TestClient) -> None:
    add_chunks(harness, "c", "b", "d")
    harness.add_searchable_course("empty")
    harness.add_course("new", "running")
    for course_id, chunk_id, status, code in (
        ("c", "a", 404, "chunk_not_found"),
        ("c", "c", 404, "chunk_not_found"),
        ("c", "e", 404, "chunk_not_found"),
        ("c", "", 404, "chunk_not_found"),
        ("c", "B", 404, "chunk_not_found"),
        ("empty", "b", 404, "chunk_not_found"),
        ("unknown", "b", 404, "course_not_found"),
        ("new", "b", 400, "embedding_not_ready"),
    ):
        found = open_chunk(client, chunk_id, course_id)
        assert (found[0], found[1]["error"]["code"]) == (status, code), (course_id, chunk_id)
    for context in ("-1", "6", "x", "", "1.5"):
        status, answer = open_chunk(client, "b", context=context)
        assert (status, answer["error"]["code"]) == (422, "invalid_request")
        assert answer["error"]["message"].startswith("context: ")
    assert client.delete("/courses/c/chunks/b").status_code == 405
    harness.stub_store.error = VectorStoreError("Chroma is away")
    harness.add_searchable_course("unread", "b")
    assert open_chunk(client, "b", "unread")[0] == 503


def test_older_generation_is_marked(harness: AppHarness) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper", "solder")
    with harness.client() as client:
        assert open_chunk(client, "chunk-1")[1]["stale"] is False
        set_status(harness, "running")
        _, answer = open_chunk(client, "chunk-1")
        assert (answer["text"], answer["generation"], answer["stale"]) == ("solder", 1, True)
        publish(harness, "copper")
        status, answer = open_chunk(client, "chunk-1")
        assert (status, answer["error"]["code"]) == (404, "chunk_not_found")
        assert "Generation 2" in answer["error"]["message"]
        set_status(harness, "failed")
    with harness.client(serve_while_reembedding=False) as client:
        assert open_chunk(client, "chunk-0")[1]["error"]["code"] == "embedding_not_ready"


def test_token_is_required(harness: AppHarness) -> None:
    add_chunks(harness, "c", "a")
    with harness.client(internal_token="secret") as client:
        assert open_chunk(client, "a")[0] == 401
        assert client.get("/courses/c/chunks/a", headers={"X-Internal-Token": "secret"}).status_code == 200

"""POST /courses/{id}/search: results, filters, limits and errors."""

import json
from collections.abc import Sequence
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError
from starlette.testclient import TestClient

from embedding.errors import EmbeddingError, ModelUnavailableError
from embedding.interface import Embeddings
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError
from retrieval.filters import PLAIN_FIELDS
from search_api.app_settings import SearchSettings
from search_api.openapi import openapi_document
from search_api.page.routes import FILES
from tests.search_api.app_harness import AppHarness, StubEmbedder

TEMPLATE = "https://a.example/{course_id}/{lecture_id}"


def search(client: TestClient, body: Any, course_id: str = "c") -> tuple[int, Any]:
    response = client.post(f"/courses/{course_id}/search", json=body)
    return response.status_code, response.json()


def error_of(client: TestClient, body: Any, course_id: str = "c") -> tuple[int, str, str]:
    status, answer = search(client, body, course_id)
    return status, answer["error"]["code"], answer["error"]["message"]


def texts(client: TestClient, **body: Any) -> list[str]:
    status, answer = search(client, {"query": "copper", **body})
    assert status == 200, answer
    return [result["text"] for result in answer["results"]]


def test_request_index_and_page_have_the_same_filters() -> None:
    page = (FILES / "address.js").read_text(encoding="utf-8")
    assert f"export const FILTERS = {json.dumps(PLAIN_FIELDS)};" in page


def test_search_with_query_top_k_and_filters(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper is plated", "holes are drilled")
    status, answer = search(client, {"query": "copper", "top_k": 5, "filters": {"section_id": None}})
    assert status == 200
    assert [(result["text"], result["metadata"]) for result in answer["results"]] == [
        ("copper is plated", {"course_id": "c", "chunk_id": "chunk-0"}),
        ("holes are drilled", {"course_id": "c", "chunk_id": "chunk-1"}),
    ]
    best, second = (result["score"] for result in answer["results"])
    assert 1 >= best > second > 0
    assert harness.embedder.embedded_texts == ["copper"]


def test_results_and_their_context_are_cited(harness: AppHarness) -> None:
    """What `docs/citations.md` describes, from the metadata of each chunk; the settings make the link."""
    place: dict[str, Any] = {
        "lecture_id": "7",
        "source_type": "pdf",
        "lecture_title": "Plating",
        "url": "https://b.example/x.pdf",
    }
    metadata = [place | {"page_number": page, "order_in_section": page, "language": "en"} for page in (1, 2, 3)]
    harness.add_searchable_course("c", "copper", "电镀工艺的第二步", "holes", metadata=metadata)
    schema = {"$ref": "#/components/schemas/SearchResponse"} | json.loads(openapi_document())
    for template, link in ((None, "https://b.example/x.pdf"), (TEMPLATE, "https://a.example/c/7")):
        with harness.client(citation_url_template=template) as client:
            _, answer = search(client, {"query": "电镀工艺", "method": "keyword", "context": 1})
        jsonschema.validate(answer, schema)
        (result,) = answer["results"]
        assert (result["citation"]["course_id"], result["citation"]["label"]) == ("c", "Plating, p. 2")
        assert (result["citation"]["link"], result["language"]) == (f"{link}#page=2", "en")
        neighbours = [passage for side in ("before", "after") for passage in result["context"][side]]
        assert [passage["citation"]["page"] for passage in neighbours] == [1, 3]


def test_unusable_template_is_refused_at_the_start() -> None:
    with pytest.raises(ValidationError, match="names in braces"):
        SearchSettings(citation_url_template="https://a.example/{}")


def test_nearly_equal_chunks_are_one_result(harness: AppHarness, client: TestClient) -> None:
    lecture = " ".join(f"the copper is plated in step {name}" for name in "abcdefghijklmnopqrstuvwxyz")
    harness.add_searchable_course("c", f"{lecture} first", f"{lecture} last", f"{lecture} first", "copper", "mask")
    _, answer = search(client, {"query": "copper", "top_k": 3})
    assert len(answer["results"]) == 3
    found = {result["text"]: result for result in answer["results"]}
    (result,) = (result for text, result in found.items() if text.startswith(lecture))
    copies, near_copies = ([chunk["chunk_id"] for chunk in result[name]] for name in ("copies", "near_copies"))
    assert sorted([result["metadata"]["chunk_id"], *copies, *near_copies]) == ["chunk-0", "chunk-1", "chunk-2"]
    assert (result["copy_count"], result["near_copy_count"]) == (len(copies), len(near_copies))
    assert (found["copper"]["near_copies"], found["copper"]["near_copy_count"]) == ([], 0)


def test_diversity_keeps_the_best_result_and_the_order_by_score(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", *(f"copper {name}" for name in "abcdefghijkl"))
    for method in ("hybrid", "vector", "keyword"):
        _, plain = search(client, {"query": "copper", "top_k": 3, "method": method})
        for diversity in (0, 0.0, 0.5, 1):
            _, answer = search(client, {"query": "copper", "top_k": 3, "method": method, "diversity": diversity})
            scores = [result["score"] for result in answer["results"]]
            assert scores == sorted(scores, reverse=True)
            assert answer["results"][0] == plain["results"][0]
            assert len(scores) == 3
            assert diversity or answer == plain


def test_top_k_is_5_by_default(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", *"abcdefgh")
    assert texts(client) == list("abcde")
    assert texts(client, top_k=2) == list("ab")
    assert texts(client, top_k=20) == list("abcdefgh")


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (None, "abcd"),
        ({}, "abcd"),
        ({"section_id": None}, "abcd"),
        ({"section_id": "3"}, "ab"),
        ({"section_id": 3, "lecture_id": -7}, "b"),
        ({"section_id": ["3", 4]}, "abc"),
        ({"section_id": ["4"], "lecture_id": ["-7", "1"]}, "c"),
        ({"source_type": "pdf", "lecture_id": ""}, "d"),
        ({"section_id": "unknown"}, ""),
        ({"section_id": ["unknown", "5"]}, "d"),
    ],
)
@pytest.mark.parametrize("method", ["vector", "keyword", "hybrid"])
def test_filters_select_chunks_by_metadata(
    harness: AppHarness, client: TestClient, filters: Any, expected: str, method: str
) -> None:
    """Ids may be sent as text or as integers. A filter that is null is ignored."""
    places = [("3", "1", "pdf"), ("3", "-7", "pdf"), ("4", "1", "pdf"), ("5", "", "pdf")]
    fields = [dict(zip(("section_id", "lecture_id", "source_type"), place, strict=True)) for place in places]
    harness.add_searchable_course("c", *(f"{letter * 2} copper" for letter in "abcd"), metadata=fields)
    assert texts(client, filters=filters, method=method) == [f"{letter * 2} copper" for letter in expected]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": " \n\t "}, "query"),
        ({"query": None}, "query"),
        ({"query": 5}, "query"),
        ({"query": "\ud800"}, "query"),
        ({"query": "x", "top_k": 0}, "top_k"),
        ({"query": "x", "top_k": 21}, "top_k"),
        ({"query": "x", "top_k": 10**400}, "top_k"),
        ({"query": "x", "top_k": "5"}, "top_k"),
        ({"query": "x", "top_k": 5.5}, "top_k"),
        ({"query": "x", "top_k": True}, "top_k"),
        ({"query": "x", "top_k": None}, "top_k"),
        ({"query": "x", "filters": []}, "filters"),
        ({"query": "x", "filters": {"page": None}}, "filters.page"),
        ({"query": "x", "filters": {"page": {}}}, "filters.page"),
        ({"query": "x", "filters": {"page": {"above": 3}}}, "filters.page"),
        ({"query": "x", "filters": {"page": {"gte": "soon"}}}, "filters.page.gte"),
        ({"query": "x", "filters": {"page": {"gte": 10**400}}}, "filters.page.gte"),
        ({"query": "x", "filters": {"page": {"exists": "yes"}}}, "filters.page.exists"),
        ({"query": "x", "filters": {"page": {"in": 3}}}, "filters.page.in"),
        ({"query": "x", "filters": {"or": []}}, "filters.or"),
        ({"query": "x", "filters": {"or": [{"page": 1}, 2]}}, "filters.or.1"),
        ({"query": "x", "filters": {"not": {"tags": ["\ud800"]}}}, "filters.not.tags.0"),
        ({"query": "x", "up_to": {}}, "up_to.lecture_id"),
        ({"query": "x", "lecture_order": ["1", "1"]}, "lecture_order"),
        ({"query": "x", "offset": -1}, "offset"),
        ({"query": "x", "offset": 1, "diversity": 0.5}, "body"),
        ({"query": "x", "group_by": "page"}, "group_by"),
        ({"query": "x", "group_by": "lecture", "rerank": "model"}, "body"),
        ({"query": "x", "facets": "page"}, "facets"),
        ({"query": "x", "relative_threshold": 2}, "relative_threshold"),
        ({"query": "x", "filters": {"section_id": 1.5}}, "filters.section_id"),
        ({"query": "x", "filters": {"section_id": True}}, "filters.section_id"),
        ({"query": "x", "filters": {"section_id": []}}, "filters.section_id"),
        ({"query": "x", "filters": {"section_id": [None]}}, "filters.section_id.0"),
        ({"query": "x", "filters": {"section_id": ["1"] * 101}}, "filters.section_id"),
        ({"query": []}, "query"),
        ({"query": ["x", " "]}, "query.1"),
        ({"query": ["x"] * 9}, "query"),
        ({"query": "x", "method": "magic"}, "method"),
        ({"query": "x", "fusion": "sum"}, "fusion"),
        ({"query": "x", "weights": {"vector": 1}}, "weights.keyword"),
        ({"query": "x", "weights": {"vector": -1, "keyword": 1}}, "weights.vector"),
        ({"query": "x", "weights": {"vector": 0, "keyword": 0}}, "weights"),
        ({"query": "x", "weights": {"vector": "1", "keyword": 0}}, "weights.vector"),
        ({"query": "x", "thresholds": {"score": "0.5"}}, "thresholds.score"),
        ({"query": "x", "rerank": True}, "rerank"),
        ({"query": "x", "context": -1}, "context"),
        ({"query": "x", "context": 6}, "context"),
        ({"query": "x", "diversity": 1.1}, "diversity"),
        ({"query": "x", "diversity": -0.1}, "diversity"),
        ({"query": "x", "diversity": None}, "diversity"),
        ({"query": "x", "diversity": "0.5"}, "diversity"),
        ({"query": "x", "explain": 1}, "explain"),
        ({"query": "x", "filters": {"section_id": "\udfff"}}, "filters.section_id"),
        ({"query": "x", "topk": 5}, "body"),
        ({"query": "x", "": 5}, "body"),
        ({"query": "x", "\ud800": 5}, "body"),
        ([], "body"),
        ("x", "body"),
        (None, "body"),
    ],
)
def test_invalid_request_names_the_field(harness: AppHarness, client: TestClient, body: Any, field: str) -> None:
    harness.add_searchable_course("c")
    response = client.post(
        "/courses/c/search", content=json.dumps(body).encode(), headers={"content-type": "application/json"}
    )
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "invalid_request")
    assert error["message"].startswith(f"{field}: ")
    assert harness.embedder.embedded_texts == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "Expecting property name"),
        (b'{"query": "x"', "Expecting ',' delimiter"),
        (b'{"query": "\xff"}', "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b'{"query": ' + b"[" * 5000 + b"]" * 5000 + b"}", "nested"),
        (b'{"query": "x", "top_k": ' + b"9" * 5000 + b"}", "not valid JSON"),
    ],
)
def test_malformed_json_is_invalid(client: TestClient, content: bytes, reason: str) -> None:
    response = client.post("/courses/c/search", content=content, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_request")
    assert reason in response.json()["error"]["message"]


def test_error_messages_are_short_and_contain_no_values(client: TestClient) -> None:
    for body in ({"query": ["secret" * 10_000]}, {"query": "x", "k" * 10_000: 1}, {f"key{n}": 1 for n in range(1000)}):
        message = error_of(client, body)[2]
        assert len(message) < 500
        assert "secret" not in message


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ("Application/JSON", 200),
        ("application/vnd.course+json", 200),
        ("text/plain", 415),
        ("application/jsonp", 415),
        ("application/", 415),
        ("\xff", 415),
        (None, 415),
    ],
)
def test_content_type_must_be_json(
    harness: AppHarness, client: TestClient, content_type: str | None, status: int
) -> None:
    harness.add_searchable_course("c")
    headers = {} if content_type is None else {b"content-type": content_type.encode("latin-1")}
    response = client.post("/courses/c/search", content=b'{"query": "x"}', headers=headers)
    assert response.status_code == status


def test_unknown_field_is_reported_with_the_known_fields(client: TestClient) -> None:
    assert (
        error_of(client, {"query": "x", "topk": 5})[2]
        == "body: unknown field 'topk'; the known fields are query, top_k, "
        "filters, up_to, lecture_order, method, fusion, weights, thresholds, min_relevance, relative_threshold, "
        "offset, group_by, group_size, facets, rerank, diversity, context, explain"
    )


def test_unknown_course_is_not_found(client: TestClient) -> None:
    assert error_of(client, {"query": "x"}, "nobody") == (404, "course_not_found", "There is no course 'nobody'")


@pytest.mark.parametrize("status", ["not_started", "pending", "running", "failed", "unknown status"])
def test_course_that_is_not_done_is_not_searched(harness: AppHarness, client: TestClient, status: str) -> None:
    harness.add_course("c", status, embedding_error="the disk was full" if status == "failed" else None)
    http_status, code, message = error_of(client, {"query": "x"})
    assert (http_status, code) == (400, "embedding_not_ready")
    assert status in message
    assert ("the disk was full" in message) == (status == "failed")
    assert harness.embedder.embedded_texts == [], "the query must not be embedded if the course is not ready"


def test_done_course_without_a_collection_is_not_ready(harness: AppHarness, client: TestClient) -> None:
    harness.add_course("c")
    status, code, message = error_of(client, {"query": "x"})
    assert (status, code) == (400, "embedding_not_ready")
    assert "no collection" in message
    assert harness.embedder.embedded_texts == []


def test_collection_deleted_during_the_search_is_not_ready(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c").error = CollectionNotFoundError("gone")
    assert error_of(client, {"query": "x"})[:2] == (400, "embedding_not_ready")


def test_vector_store_failure_is_reported(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c").error = VectorStoreError("broken index")
    assert error_of(client, {"query": "x"}) == (503, "vector_store_error", "broken index")


class RefusingEmbedder(StubEmbedder):
    """Refuses batches with a certain text."""

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        if "refused" in texts:
            raise EmbeddingError("content policy")
        return super().embed_queries(texts)


def test_query_that_the_model_refuses_is_left_out(harness: AppHarness) -> None:
    harness.embedder = RefusingEmbedder()
    harness.add_searchable_course("c", "copper", "solder")
    with harness.client() as client:
        answer = client.post("/courses/c/search", json={"query": ["copper", "refused"]}).json()
        assert answer["degraded"] == "1 of 2 queries could not be embedded"
        alone = client.post("/courses/c/search", json={"query": "copper"}).json()
        assert [result["score"] for result in answer["results"]] == [result["score"] for result in alone["results"]]
        refused = client.post("/courses/c/search", json={"query": "refused"})
        assert (refused.status_code, refused.json()["error"]["message"]) == (503, "content policy")


def test_model_failure_is_reported(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c")
    harness.embedder.error = EmbeddingError("out of memory")
    assert error_of(client, {"query": "x"}) == (503, "embedding_service_unavailable", "out of memory")


def test_without_a_model_only_embedding_and_searching_fail(harness: AppHarness) -> None:
    harness.load_error = ModelUnavailableError(harness.database, "there are no weights")
    harness.add_searchable_course("c")
    with harness.client() as client:
        status, code, message = error_of(client, {"query": "x"})
        assert (status, code) == (503, "embedding_service_unavailable")
        assert "there are no weights" in message
        assert client.post("/embed", json={"texts": ["x"]}).json()["error"]["message"] == message
        assert client.get("/courses/c/embedding_status").status_code == 200
        assert client.post("/courses/c/embed").status_code == 200


def test_settings_change_the_limits(harness: AppHarness) -> None:
    harness.add_searchable_course("c")
    with harness.client(search_max_top_k=30, search_max_query_chars=3, max_request_bytes=100) as client:
        assert search(client, {"query": "abc", "top_k": 30})[1]["query_cut"] is None
        assert error_of(client, {"query": "abc", "top_k": 31})[2] == "top_k: at most 30"
        assert search(client, {"query": "abc d"})[1]["query_cut"][0]["characters"] == {"used": 3, "of": 5}
        assert error_of(client, {"query": "x" * 100})[:2] == (413, "request_too_large")

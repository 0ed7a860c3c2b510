"""An answer has a bounded size, however large the chunks are, and says what was cut."""

import json
from typing import Any

import jsonschema
from starlette.testclient import TestClient

from embedding.vector_store.records import Record
from search_api.openapi import openapi_document
from search_api.search.conversion import MAX_COPIES_CHARACTERS
from search_api.search.pages import MAX_FACET_CHARACTERS
from search_api.search.schemas import MAX_COPIES, MAX_METADATA_CHARACTERS, MAX_TEXT_CHARACTERS
from tests.search_api.app_harness import AppHarness, StubCollection


def add(harness: AppHarness, *chunks: tuple[str, dict[str, Any]]) -> None:
    records = [
        Record(
            f"chunk-{number}", text, {"course_id": "c", "section_id": "1", "order_in_section": number} | more, "hash"
        )
        for number, (text, more) in enumerate(chunks)
    ]
    cosines = [1 - number / 100 for number in range(len(chunks))]
    harness.add_course("c")
    harness.stub_store.by_course["c"] = StubCollection("c", harness.embedder.signature, records, cosines)


def search(client: TestClient, **options: Any) -> Any:
    answer = client.post("/courses/c/search", json={"query": "copper", **options}).json()
    schema = {"$ref": "#/components/schemas/SearchResponse"} | json.loads(openapi_document())
    jsonschema.validate(answer, schema)
    return answer


def test_long_texts_and_large_metadata_are_cut_in_answers_and_whole_in_the_chunk(
    harness: AppHarness, client: TestClient
) -> None:
    text = "copper " * 5000
    large = {"page": 3, "blob": "x" * 50_000, "lecture_title": "t" * 20_000, **{f"field {n}": n for n in range(2000)}}
    add(harness, (text, large), ("copper " * 3, {"page": 4}), ("gold " * 5000, large))
    answer = search(client, context=5, explain=True, method="vector")
    first, second, _ = answer["results"]
    assert first["cut"] == ["text", "metadata"]
    assert text.startswith(first["text"])
    assert MAX_TEXT_CHARACTERS - len("copper ") <= len(first["text"]) <= MAX_TEXT_CHARACTERS
    assert len(json.dumps(first["metadata"])) <= MAX_METADATA_CHARACTERS + 200
    assert first["metadata"]["page"] == first["citation"]["page"] == 3
    assert {"chunk_id", "course_id", "section_id", "order_in_section"} <= first["metadata"].keys()
    assert not {"blob", "lecture_title"} & first["metadata"].keys()
    assert (second["cut"], second["text"]) == ([], "copper " * 3)
    assert [passage["cut"] for passage in second["context"]["before"]] == [["text", "metadata"]]
    assert len(json.dumps(answer)) < 400_000
    chunk = client.get("/courses/c/chunks/chunk-0?context=2").json()
    assert (chunk["text"], chunk["cut"], len(chunk["metadata"]["blob"])) == (text, [], 50_000)
    assert [passage["cut"] for passage in chunk["context"]["after"]] == [[], ["text", "metadata"]]


def test_matches_are_of_the_text_that_is_shown(harness: AppHarness, client: TestClient) -> None:
    add(harness, ("copper " * 5000, {}), ("tin", {}))
    (result,) = search(client, method="keyword")["results"]
    assert max(end for _, end in result["matches"]) <= len(result["text"])


def test_copies_are_bounded_in_number_and_size(harness: AppHarness, client: TestClient) -> None:
    add(harness, *[("copper", {"note": "x" * 3000})] * 30, *[("tin", {"page": n}) for n in range(30)])
    copper, tin = search(client, method="vector")["results"]
    assert (copper["copy_count"], tin["copy_count"]) == (29, 29)
    assert len(json.dumps(copper["copies"])) <= MAX_COPIES_CHARACTERS + 1000
    assert (len(copper["copies"]), len(tin["copies"])) == (6, MAX_COPIES)


def test_long_texts_are_no_values_of_a_facet(harness: AppHarness, client: TestClient) -> None:
    long = "x" * (MAX_FACET_CHARACTERS + 1)
    add(harness, ("copper", {"kind": long}), ("copper tin", {"kind": long[1:]}))
    facets = search(client, facets=["kind"])["facets"]
    assert facets == {"kind": [{"value": long[1:], "title": None, "count": 1}]}

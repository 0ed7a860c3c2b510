"""The OpenAPI document is what callers generate their clients from, so it must be true and complete."""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
from starlette.testclient import TestClient

from search_api.http.errors import ERRORS
from search_api.openapi import openapi_document

COMMITTED = Path(__file__).parents[2] / "docs" / "openapi.json"


@pytest.fixture(scope="module")
def document() -> Any:
    return json.loads(openapi_document())


def operations(document: Any) -> list[Any]:
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def test_the_committed_document_is_current(document: Any) -> None:
    assert json.loads(COMMITTED.read_text()) == document, "run: python -m search_api.openapi > docs/openapi.json"


def test_settings_do_not_change_it(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTERNAL_TOKEN", "secret")
    monkeypatch.setenv("SEARCH_MAX_TOP_K", "7")
    assert json.loads(openapi_document()) == document


def test_every_operation_is_described(document: Any) -> None:
    for operation in operations(document):
        assert operation["summary"]
        assert operation["description"]
        assert operation["tags"]
    ids = [operation["operationId"] for operation in operations(document)]
    assert sorted(ids) == [
        "alive",
        "clear_cache",
        "clear_cache_stats",
        "create_embeddings",
        "embed_course",
        "embed_texts",
        "embedding_status",
        "get_cache_stats",
        "list_courses",
        "list_models",
        "ready",
        "search_course",
    ]


def test_every_error_has_the_one_shape(document: Any) -> None:
    """FastAPI documents its own shape for 422 unless told otherwise."""
    assert "HTTPValidationError" not in json.dumps(document)
    for operation in operations(document):
        for status, response in operation["responses"].items():
            if status != "200":
                schema = response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                assert schema in ("ErrorResponse", "NotReadyResponse")


def test_documented_examples_carry_the_codes(document: Any) -> None:
    documented = set()
    for operation in operations(document):
        for status, response in operation["responses"].items():
            for code, example in response["content"]["application/json"].get("examples", {}).items():
                assert example["value"]["error"]["code"] == code
                assert ERRORS[code].status == int(status)
                documented.add(code)
    by_the_framework = {"not_found", "method_not_allowed"}
    assert documented == set(ERRORS) - by_the_framework


def test_bodies_have_examples(document: Any) -> None:
    schemas = document["components"]["schemas"]
    for operation in operations(document):
        bodies = [operation.get("requestBody"), operation["responses"]["200"]]
        for body in filter(None, bodies):
            name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert schemas[name].get("examples") or name in ("Alive", "Readiness", "TriggerResponse"), name


def test_guarded_operations_ask_for_the_token(document: Any) -> None:
    """So that the page's Authorize button works."""
    assert document["components"]["securitySchemes"]["InternalToken"]["name"] == "X-Internal-Token"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert ("security" in operation) == (path not in ("/healthz", "/readyz"))


def test_docs_page_needs_nothing_from_elsewhere(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "http://" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/static/{asset}" in page.text
        assert client.get(f"/docs/static/{asset}").status_code == 200


def test_missing_asset_has_the_error_shape(client: TestClient) -> None:
    response = client.get("/docs/static/nothing.js")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_every_example_of_a_search_fits_its_schema(document: Any) -> None:
    """A client made from the document can send what the contract shows: a plain text, a single filter value."""
    schema = document["components"]["schemas"]["SearchRequest"]
    plain = {"query": "What is prepreg?", "top_k": 5, "filters": {"section_id": 3, "lecture_id": None}}
    for example in (*schema["examples"], plain):
        jsonschema.validate(
            example, {"$ref": "#/components/schemas/SearchRequest", "components": document["components"]}
        )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"query": 5}, {"$ref": "#/components/schemas/SearchRequest"} | document)

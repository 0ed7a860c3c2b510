"""The OpenAPI document, from which clients are generated, is current and complete."""

import json
from pathlib import Path
from typing import Any

import jsonschema
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


def test_committed_document_is_current(document: Any) -> None:
    assert json.loads(COMMITTED.read_text()) == document, "run: python -m search_api.openapi > docs/openapi.json"


def test_settings_do_not_change_the_document(document: Any, monkeypatch: pytest.MonkeyPatch) -> None:
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
        "add_resource",
        "alive",
        "clear_cache",
        "clear_cache_stats",
        "create_course",
        "create_embeddings",
        "delete_resource",
        "embed_course",
        "embed_texts",
        "embedding_status",
        "get_cache_stats",
        "get_model",
        "get_resource",
        "give_feedback",
        "list_courses",
        "list_models",
        "list_resources",
        "open_chunk",
        "ready",
        "rerank",
        "search_course",
        "search_courses",
    ]


def test_every_error_response_has_the_error_schema(document: Any) -> None:
    """By default FastAPI documents another schema for 422."""
    assert "HTTPValidationError" not in json.dumps(document)
    for operation in operations(document):
        for status, response in operation["responses"].items():
            if status not in ("200", "201", "202"):
                schema = response["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
                assert schema in ("ErrorResponse", "NotReadyResponse")


def test_every_error_code_has_an_example(document: Any) -> None:
    documented = set()
    for operation in operations(document):
        for status, response in operation["responses"].items():
            for code, example in response["content"]["application/json"].get("examples", {}).items():
                assert example["value"]["error"]["code"] == code
                assert ERRORS[code].status == int(status)
                documented.add(code)
    of_no_operation = {"not_found", "method_not_allowed", "cors_refused", "host_not_allowed"}
    assert documented == set(ERRORS) - of_no_operation


def test_bodies_have_examples(document: Any) -> None:
    schemas = document["components"]["schemas"]
    without_values = ("Alive", "FeedbackResponse", "Readiness", "TriggerResponse")
    for operation in operations(document):
        responses = operation["responses"]
        bodies = [
            operation.get("requestBody"),
            next(responses[code] for code in ("200", "201", "202") if code in responses),
        ]
        for body in filter(None, bodies):
            name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            assert schemas[name].get("examples") or name in without_values, name


def test_guarded_operations_declare_the_token(document: Any) -> None:
    """The Authorize button of /docs depends on it."""
    schemes = document["components"]["securitySchemes"]
    assert schemes["InternalToken"]["name"] == "X-Internal-Token"
    assert schemes["InternalTokenAsKey"]["scheme"] == "bearer"
    for path, methods in document["paths"].items():
        for operation in methods.values():
            needs_token = path not in ("/healthz", "/readyz")
            expected = [{"InternalToken"}, {"InternalTokenAsKey"}] if needs_token else []
            assert [set(schemes) for schemes in operation.get("security", [])] == expected, path


def test_docs_page_loads_only_local_files(client: TestClient) -> None:
    page = client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text
    assert "http://" not in page.text
    for asset in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"):
        assert f"/docs/static/{asset}" in page.text
        assert client.get(f"/docs/static/{asset}").status_code == 200


def test_missing_docs_file_is_not_found(client: TestClient) -> None:
    response = client.get("/docs/static/nothing.js")
    assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


def test_search_examples_match_the_schema(document: Any) -> None:
    """The schema also allows a single query and a single filter value instead of lists."""
    schema = document["components"]["schemas"]["SearchRequest"]
    with_single_values = {"query": "What is prepreg?", "top_k": 5, "filters": {"section_id": 3, "lecture_id": None}}
    for example in (*schema["examples"], with_single_values):
        jsonschema.validate(
            example, {"$ref": "#/components/schemas/SearchRequest", "components": document["components"]}
        )
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"query": 5}, {"$ref": "#/components/schemas/SearchRequest"} | document)

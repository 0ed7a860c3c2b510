"""The health probes."""

import sqlite3

import pytest
from starlette.testclient import TestClient

from embedding.errors import ModelUnavailableError
from embedding.vector_store.errors import VectorStoreError
from tests.search_api.app_harness import AppHarness


def test_liveness_probe_answers(client: TestClient) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_readiness_probe_checks_all_dependencies(client: TestClient) -> None:
    response = client.get("/readyz")
    available = {"ok": True, "message": ""}
    assert (response.status_code, response.json()) == (
        200,
        {"components": {"catalogue": available, "vector_store": available, "model": available}},
    )


@pytest.mark.parametrize("component", ["catalogue", "vector_store", "model"])
def test_readiness_probe_names_the_unavailable_dependency(harness: AppHarness, component: str) -> None:
    match component:
        case "catalogue":
            with sqlite3.connect(harness.database) as connection:
                connection.execute("DROP TABLE course")
            connection.close()
        case "vector_store":
            harness.stub_store.error = VectorStoreError("unreachable")
        case "model":
            harness.load_error = ModelUnavailableError(harness.database, "there are no weights")
    with harness.client() as client:
        response = client.get("/readyz")
        body = response.json()
        assert response.status_code == 503
        assert body["error"]["code"] == "not_ready"
        assert body["error"]["message"].startswith(f"{component}: ")
        assert body["error"]["message"] == f"{component}: {body['components'][component]['message']}"
        assert [name for name, state in body["components"].items() if not state["ok"]] == [component]
        assert client.get("/healthz").status_code == 200

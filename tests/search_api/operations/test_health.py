"""The probes: alive whatever happens, ready when everything answers."""

import sqlite3

import pytest
from starlette.testclient import TestClient

from embedding.errors import ModelUnavailableError
from embedding.vector_store.errors import VectorStoreError
from tests.search_api.backstage import Backstage


def test_alive(client: TestClient) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_ready(client: TestClient) -> None:
    response = client.get("/readyz")
    fine = {"ok": True, "message": ""}
    assert (response.status_code, response.json()) == (
        200,
        {"components": {"catalogue": fine, "vector_store": fine, "model": fine}},
    )


@pytest.mark.parametrize("component", ["catalogue", "vector_store", "model"])
def test_not_ready_says_what_and_why(backstage: Backstage, component: str) -> None:
    match component:
        case "catalogue":
            with sqlite3.connect(backstage.database) as connection:
                connection.execute("DROP TABLE course")
            connection.close()
        case "vector_store":
            backstage.store.error = VectorStoreError("away")
        case "model":
            backstage.load_error = ModelUnavailableError(backstage.database, "there are no weights")
    with backstage.client() as client:
        response = client.get("/readyz")
        body = response.json()
        assert response.status_code == 503
        assert body["error"]["code"] == "not_ready"
        assert body["error"]["message"].startswith(f"{component}: ")
        assert body["error"]["message"] == f"{component}: {body['components'][component]['message']}"
        assert [name for name, state in body["components"].items() if not state["ok"]] == [component]
        assert client.get("/healthz").status_code == 200

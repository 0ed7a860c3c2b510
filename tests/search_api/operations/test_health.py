"""The health probes."""

import asyncio
import gc
import sqlite3
import threading

import pytest
from starlette.testclient import TestClient

from embedding.errors import ModelUnavailableError
from embedding.vector_store.errors import VectorStoreError
from search_api.operations import checks
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness


def test_liveness_probe_answers(client: TestClient) -> None:
    response = client.get("/healthz")
    assert (response.status_code, response.json()) == (200, {"status": "ok"})


def test_readiness_probe_checks_all_dependencies(client: TestClient) -> None:
    response = client.get("/readyz")
    available = {"ok": True, "message": ""}
    assert (response.status_code, response.json()) == (
        200,
        {"status": "ready", "components": {"catalogue": available, "vector_store": available, "model": available}},
    )


@pytest.mark.parametrize(
    ("component", "status"), [("catalogue", "not_ready"), ("vector_store", "degraded"), ("model", "degraded")]
)
def test_readiness_probe_names_the_unavailable_dependency(harness: AppHarness, component: str, status: str) -> None:
    """A load balancer must not take all apps out of service for what only some of their answers need."""
    harness.add_searchable_course("c", "copper")
    harness.load_error = (
        ModelUnavailableError(harness.database, "there are no weights") if component == "model" else None
    )
    with harness.client() as client:
        search = {"query": "copper", "method": "keyword"}
        assert client.post("/courses/c/search", json=search).status_code == 200
        match component:
            case "catalogue":
                with sqlite3.connect(harness.database) as connection:
                    connection.execute("DROP TABLE course")
                connection.close()
            case "vector_store":
                harness.stub_store.error = VectorStoreError("unreachable")
        response = client.get("/readyz")
        body = response.json()
        assert body["status"] == status
        assert [name for name, state in body["components"].items() if not state["ok"]] == [component]
        if status == "degraded":
            assert (response.status_code, "error" in body) == (200, False)
            assert client.post("/courses/c/search", json=search).status_code == 200
        else:
            assert (response.status_code, body["error"]["code"]) == (503, "not_ready")
            assert body["error"]["message"] == f"{component}: {body['components'][component]['message']}"
        assert client.get("/healthz").status_code == 200


def test_probe_does_not_wait_for_what_hangs(
    harness: AppHarness, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it start a check again that has not ended: a probe comes every few seconds."""
    monkeypatch.setattr(checks, "CHECK_SECONDS", 1.0)  # which the catalogue answers within on a busy machine, too
    unblocked, started = threading.Event(), []

    def hang() -> None:
        started.append(threading.current_thread())
        assert unblocked.wait(LIMIT_SECONDS)

    monkeypatch.setattr(harness.vector_store, "check", hang)
    monkeypatch.setattr(harness.app_services.embedding, "check", hang)
    for _ in range(3):
        body = client.get("/readyz").json()
        assert body["status"] == "degraded"
        assert {name: state["ok"] for name, state in body["components"].items()} == {
            "catalogue": True,
            "vector_store": False,
            "model": False,
        }
        assert "has not answered" in body["components"]["model"]["message"]
    assert len(started) == 2
    unblocked.set()
    for thread in started:
        thread.join(LIMIT_SECONDS)
    monkeypatch.setattr(checks, "CHECK_SECONDS", LIMIT_SECONDS)
    assert client.get("/readyz").json()["status"] == "ready"


def test_error_that_comes_after_the_probe_gave_up_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The event loop would log it as an error that nobody has seen."""
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0)
    unblocked, started = threading.Event(), []

    def fail() -> None:
        started.append(threading.current_thread())
        assert unblocked.wait(LIMIT_SECONDS)
        raise VectorStoreError("unreachable")

    async def probe() -> None:
        reports: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reports.append(context))
        with pytest.raises(TimeoutError):
            await checks.BoundedCheck(fail).run()
        unblocked.set()
        await asyncio.to_thread(started[0].join, LIMIT_SECONDS)
        gc.collect()
        await asyncio.sleep(0)
        assert not reports

    asyncio.run(probe())


def test_unexpected_error_of_a_check_is_an_internal_error(harness: AppHarness, client: TestClient) -> None:
    harness.stub_store.error = KeyError("unexpected")
    assert client.get("/readyz").json()["error"]["code"] == "internal_error"

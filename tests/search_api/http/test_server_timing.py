"""The header `Server-Timing`: the phases of a search, of this request only."""

from concurrent.futures import ThreadPoolExecutor

import anyio
import pytest
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from search_api.http.server_timing import ServerTimingMiddleware, phase
from tests.search_api.app_harness import AppHarness


def timing(header: str) -> dict[str, float]:
    """The milliseconds by phase."""
    return {
        name: float(milliseconds) for name, _, milliseconds in (part.partition(";dur=") for part in header.split(", "))
    }


def test_search_names_its_phases(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper", "solder")
    harness.embedder.delay_seconds = 0.02
    first, again, keyword, reranked = (
        timing(client.post("/courses/c/search", json={"query": "copper"} | options).headers["server-timing"])
        for options in ({}, {}, {"method": "keyword"}, {"rerank": "model"})
    )
    assert list(first) == ["open", "embed", "search", "total"]
    assert first["embed"] >= 20
    assert first["total"] >= first["open"] + first["embed"] + first["search"]
    assert {"embed", "search", "total"} <= set(again)
    assert "search" in keyword
    assert "rerank" in reranked


def test_failed_search_says_where_the_time_went(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    harness.embedder.error = KeyError("unexpected")
    response = client.post("/courses/c/search", json={"query": "copper"})
    assert response.status_code == 500
    assert list(timing(response.headers["server-timing"])) == ["open", "embed", "total"]


@pytest.mark.parametrize("path", ["/healthz", "/courses", "/no/such/path"])
def test_other_answers_have_no_timings(client: TestClient, path: str) -> None:
    assert "server-timing" not in client.get(path).headers


def test_concurrent_requests_are_measured_apart() -> None:
    """Also on threads that the requests start with their context, and with several blocks of one name."""
    headers: dict[str, str] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        def work() -> None:
            with phase(scope["path"]):
                pass

        for _ in range(2):
            await anyio.to_thread.run_sync(work)
        await send({"type": "http.response.start", "status": 200, "headers": []})

    async def request(path: str) -> None:
        async def send(message: Message) -> None:
            headers[path] = dict(message["headers"])[b"server-timing"].decode()

        async def receive() -> Message:
            raise AssertionError

        await ServerTimingMiddleware(app)({"type": "http", "path": path}, receive, send)

    async def requests() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(request, f"p{number}")

    anyio.run(requests)
    assert {path: set(timing(header)) for path, header in headers.items()} == {
        f"p{number}": {f"p{number}", "total"} for number in range(5)
    }


def test_phase_outside_of_a_request_does_nothing() -> None:
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(phase("x").__enter__).result() is None
    with pytest.raises(KeyError), phase("x"):
        raise KeyError

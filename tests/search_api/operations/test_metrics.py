"""Metrics: read as Prometheus reads them, true to what happened, and of a bounded number of series."""

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from retrieval.cache import InstanceCache
from search_api.operations.metrics import RequestMetricsMiddleware
from tests.search_api.backstage import Backstage

REQUESTS = "course_search_http_request_duration_seconds_count"


def samples(client: TestClient, name: str) -> dict[tuple[str, ...], float]:
    """Label values → value."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name == name
    }


def test_requests_are_counted_by_route_and_status(backstage: Backstage, client: TestClient) -> None:
    backstage.add_course("c")
    for course in ("c", "c", "nobody"):
        client.get(f"/courses/{course}/embedding_status")
    client.delete("/courses/c/embedding_status")
    client.get("/healthz")
    route = "/courses/{course_id:path}/embedding_status"
    assert samples(client, REQUESTS) == {
        (route, "200"): 2,
        (route, "404"): 1,
        (route, "405"): 1,
        ("/healthz", "200"): 1,
    }
    assert samples(client, REQUESTS)["/metrics", "200"] == 1  # a request counts when it has ended


def test_callers_cannot_make_series(client: TestClient) -> None:
    for number in range(10):
        client.get(f"/no/such/path/{number}")
        client.get(f"/static/{number}")
        client.request(f"METHOD{number}", "/healthz")
    assert samples(client, REQUESTS) == {("none", "404"): 20, ("/healthz", "405"): 10}


def test_an_error_nobody_handles_counts_as_500(backstage: Backstage, client: TestClient) -> None:
    backstage.embedder.error = KeyError("unexpected")
    assert client.post("/embed", json={"texts": ["x"]}).status_code == 500
    assert samples(client, REQUESTS) == {("/embed", "500"): 1}


def test_what_is_refused_early_is_counted_and_metrics_need_the_token(backstage: Backstage) -> None:
    with backstage.client(internal_token="secret") as client:
        assert client.get("/courses").status_code == 401
        assert client.get("/metrics").status_code == 401
        client.headers["x-internal-token"] = "secret"
        assert samples(client, REQUESTS) == {("none", "401"): 2}


def test_time_is_measured_to_the_end_of_the_answer() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("seconds", "", ["route", "status"], registry=registry)
    counted_before_the_end = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        counted_before_the_end.append(registry.get_sample_value("seconds_count", {"route": "none", "status": "200"}))
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        pass

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(RequestMetricsMiddleware(app, seconds)({"type": "http", "path": "/"}, receive, send))
    assert counted_before_the_end == [None]
    assert registry.get_sample_value("seconds_count", {"route": "none", "status": "200"}) == 1


def test_caches_are_shown_as_they_are_when_asked(backstage: Backstage, client: TestClient) -> None:
    courses: InstanceCache[str, bytes] = InstanceCache("courses", size_of=len)
    backstage.caches |= {"courses": courses, "models": InstanceCache("models")}
    for _ in range(4):
        courses.get("abc123", lambda: b"0123456789")
    assert samples(client, "course_search_cache_hits_total") == {("courses",): 3, ("models",): 0}
    courses.get("abc123", bytes)
    assert samples(client, "course_search_cache_hits_total")["courses",] == 4
    assert samples(client, "course_search_cache_misses_total")["courses",] == 1
    assert samples(client, "course_search_cache_loads_total")["courses",] == 1
    assert samples(client, "course_search_cache_load_seconds_total")["courses",] > 0
    assert samples(client, "course_search_cache_entries")["courses",] == 1
    assert samples(client, "course_search_cache_bytes")["courses",] == 10
    assert samples(client, "course_search_cache_max_entries")["courses",] == 50


@pytest.fixture
def two_apps(backstage: Backstage) -> Iterator[tuple[TestClient, TestClient]]:
    with backstage.client() as one, backstage.client() as other:
        yield one, other


def test_apps_of_one_process_count_each_for_itself(two_apps: tuple[TestClient, TestClient]) -> None:
    one, other = two_apps
    one.get("/healthz")
    assert samples(other, REQUESTS) == {}
    assert samples(one, REQUESTS)["/healthz", "200"] == 1

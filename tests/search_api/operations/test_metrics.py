"""Prometheus metrics: correct values, and a bounded number of series."""

import asyncio
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from retrieval.cache import InstanceCache
from search_api.operations.metrics import RequestMetricsMiddleware
from tests.search_api.app_harness import AppHarness

REQUESTS = "course_search_http_request_duration_seconds_count"


def samples(client: TestClient, name: str) -> dict[tuple[str, ...], float]:
    """The values of a metric by label values."""
    response = client.get("/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    return {
        tuple(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(response.text)
        for sample in family.samples
        if sample.name == name
    }


def test_requests_are_counted_by_route_and_status(harness: AppHarness, client: TestClient) -> None:
    harness.add_course("c")
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
    assert samples(client, REQUESTS)["/metrics", "200"] == 1  # a request is counted when it has ended


def test_unknown_paths_and_methods_do_not_create_series(client: TestClient) -> None:
    for number in range(10):
        client.get(f"/no/such/path/{number}")
        client.get(f"/static/{number}")
        client.request(f"METHOD{number}", "/healthz")
    assert samples(client, REQUESTS) == {("none", "404"): 20, ("/healthz", "405"): 10}


def test_unhandled_exception_is_counted_as_500(harness: AppHarness, client: TestClient) -> None:
    harness.embedder.error = KeyError("unexpected")
    assert client.post("/embed", json={"texts": ["x"]}).status_code == 500
    assert samples(client, REQUESTS) == {("/embed", "500"): 1}


def test_metrics_require_the_token_and_count_refused_requests(harness: AppHarness) -> None:
    with harness.client(internal_token="secret") as client:
        assert client.get("/courses").status_code == 401
        assert client.get("/metrics").status_code == 401
        client.headers["x-internal-token"] = "secret"
        assert samples(client, REQUESTS) == {("none", "401"): 2}


def test_duration_includes_the_whole_response() -> None:
    registry = CollectorRegistry()
    seconds = Histogram("seconds", "", ["route", "status"], registry=registry)
    counts_before_the_end = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        counts_before_the_end.append(registry.get_sample_value("seconds_count", {"route": "none", "status": "200"}))
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        pass

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(RequestMetricsMiddleware(app, seconds)({"type": "http", "path": "/"}, receive, send))
    assert counts_before_the_end == [None]
    assert registry.get_sample_value("seconds_count", {"route": "none", "status": "200"}) == 1


def test_cache_metrics_are_current(harness: AppHarness, client: TestClient) -> None:
    courses: InstanceCache[str, bytes] = InstanceCache("courses", max_entries=50, ttl_seconds=1800)
    harness.caches |= {"courses": courses, "models": InstanceCache("models", max_entries=50, ttl_seconds=1800)}
    for _ in range(4):
        courses.get("abc123", lambda: b"0123456789")
    assert samples(client, "course_search_cache_hits_total") == {("courses",): 3, ("models",): 0}
    courses.get("abc123", bytes)
    assert samples(client, "course_search_cache_hits_total")["courses",] == 4
    assert samples(client, "course_search_cache_misses_total")["courses",] == 1
    assert samples(client, "course_search_cache_loads_total")["courses",] == 1
    assert samples(client, "course_search_cache_load_seconds_total")["courses",] > 0
    assert samples(client, "course_search_cache_entries")["courses",] == 1
    assert samples(client, "course_search_cache_max_entries")["courses",] == 50


@pytest.fixture
def two_apps(harness: AppHarness) -> Iterator[tuple[TestClient, TestClient]]:
    with harness.client() as first, harness.client() as second:
        yield first, second


def test_apps_of_one_process_have_separate_metrics(two_apps: tuple[TestClient, TestClient]) -> None:
    first, second = two_apps
    first.get("/healthz")
    assert samples(second, REQUESTS) == {}
    assert samples(first, REQUESTS)["/healthz", "200"] == 1

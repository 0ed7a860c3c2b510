"""The cache routes: statistics, clearing values and resetting counts."""

import json
import math
from typing import Any

import pytest
from starlette.testclient import TestClient

from retrieval.cache import InstanceCache
from tests.search_api.app_harness import AppHarness


@pytest.fixture
def courses(harness: AppHarness) -> InstanceCache[str, bytes]:
    """A cache of the app with three hits and one miss."""
    cache: InstanceCache[str, bytes] = InstanceCache("courses", max_entries=50, ttl_seconds=1800)
    for _ in range(4):
        cache.get("abc123", lambda: b"0123456789")
    harness.caches["courses"] = cache
    return cache


def stats_of(client: TestClient) -> Any:
    response = client.get("/caches")
    assert response.status_code == 200
    return response.json()["caches"]


def test_stats_are_those_of_the_cache(courses: InstanceCache[str, bytes], client: TestClient) -> None:
    stats = stats_of(client)["courses"]
    assert stats.pop("load_seconds") == courses.get_cache_stats().load_seconds > 0
    assert stats == {
        "hits": 3,
        "misses": 1,
        "hit_rate": 0.75,
        "evictions": 0,
        "expirations": 0,
        "loads": 1,
        "load_failures": 0,
        "entries": 1,
        "max_entries": 50,
        "ttl_seconds": 1800.0,
    }


def test_every_computation_of_the_model_is_counted(harness: AppHarness, client: TestClient) -> None:
    """A search whose query is cached does not use the model."""
    harness.add_searchable_course("c", "copper")
    before = harness.app_services.caches["embedding_models"].get_cache_stats()
    for query in ("copper", "copper", "solder"):
        assert client.post("/courses/c/search", json={"query": query}).status_code == 200
    after = harness.app_services.caches["embedding_models"].get_cache_stats()
    assert (after.hits - before.hits, after.misses - before.misses, after.loads) == (2, 0, 1)


def test_missing_limits_are_null(harness: AppHarness, client: TestClient) -> None:
    """JSON has no infinity."""
    harness.caches["models"] = InstanceCache("models", max_entries=1, ttl_seconds=math.inf)
    assert stats_of(client)["models"]["ttl_seconds"] is None


def test_stats_without_caches_are_empty(harness: AppHarness, client: TestClient) -> None:
    harness.caches.clear()
    assert stats_of(client) == {}


def test_clear_removes_values_but_not_counts(
    harness: AppHarness, courses: InstanceCache[str, bytes], client: TestClient
) -> None:
    harness.caches["others"] = InstanceCache("others", max_entries=50, ttl_seconds=1800)
    harness.caches["others"].get("k", str)
    response = client.delete("/caches")
    assert response.status_code == 200
    assert response.json()["caches"] == stats_of(client)
    assert {name: stats["entries"] for name, stats in stats_of(client).items()} == {"courses": 0, "others": 0}
    assert stats_of(client)["courses"]["hits"] == 3


def test_reset_clears_counts_but_not_values(courses: InstanceCache[str, bytes], client: TestClient) -> None:
    response = client.delete("/caches/stats")
    assert response.status_code == 200
    stats = response.json()["caches"]["courses"]
    assert (stats["hits"], stats["misses"], stats["load_seconds"], stats["entries"]) == (0, 0, 0.0, 1)
    assert courses.peek("abc123") == b"0123456789"


@pytest.mark.parametrize(("method", "path"), [("GET", "/caches"), ("DELETE", "/caches"), ("DELETE", "/caches/stats")])
def test_cache_routes_require_the_token(
    harness: AppHarness, courses: InstanceCache[str, bytes], method: str, path: str
) -> None:
    with harness.client(internal_token="secret") as client:
        assert client.request(method, path).status_code == 401
        assert courses.get_cache_stats().hits == 3
        assert courses.get_cache_stats().entries == 1
        assert client.request(method, path, headers={"x-internal-token": "secret"}).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/caches"), ("GET", "/caches/stats")])
def test_other_methods_are_not_allowed(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


def test_documented_example_has_all_fields(courses: InstanceCache[str, bytes], client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    [example] = document["components"]["schemas"]["CacheStates"]["examples"]
    assert json.dumps(sorted(example["caches"]["courses"])) == json.dumps(sorted(stats_of(client)["courses"]))

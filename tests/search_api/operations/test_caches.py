"""The caches over HTTP: the figures are the caches' own, and what can be emptied is."""

import json
import math
from typing import Any

import pytest
from starlette.testclient import TestClient

from retrieval.cache import InstanceCache
from tests.search_api.backstage import Backstage


@pytest.fixture
def courses(backstage: Backstage) -> InstanceCache[str, bytes]:
    """A cache of the app that was asked four times and knew the answer thrice."""
    cache: InstanceCache[str, bytes] = InstanceCache("courses", max_bytes=100, size_of=len)
    for _ in range(4):
        cache.get("abc123", lambda: b"0123456789")
    backstage.caches["courses"] = cache
    return cache


def figures(client: TestClient) -> Any:
    response = client.get("/caches")
    assert response.status_code == 200
    return response.json()["caches"]


def test_figures_of_a_cache(courses: InstanceCache[str, bytes], client: TestClient) -> None:
    shown = figures(client)["courses"]
    assert shown.pop("load_seconds") == courses.get_cache_stats().load_seconds > 0
    assert shown == {
        "hits": 3,
        "misses": 1,
        "hit_rate": 0.75,
        "evictions": 0,
        "expirations": 0,
        "loads": 1,
        "load_failures": 0,
        "too_large": 0,
        "entries": 1,
        "bytes": 10,
        "max_entries": 50,
        "max_bytes": 100,
        "ttl_seconds": 1800.0,
    }


def test_no_limit_is_null(backstage: Backstage, client: TestClient) -> None:
    """JSON has no infinity."""
    backstage.caches["models"] = InstanceCache("models", ttl_seconds=math.inf)
    shown = figures(client)["models"]
    assert (shown["ttl_seconds"], shown["max_bytes"]) == (None, None)


def test_an_app_may_have_no_caches(backstage: Backstage, client: TestClient) -> None:
    backstage.caches.clear()
    assert figures(client) == {}


def test_clearing_forgets_values_and_not_counts(
    backstage: Backstage, courses: InstanceCache[str, bytes], client: TestClient
) -> None:
    backstage.caches["others"] = InstanceCache("others")
    backstage.caches["others"].get("k", str)
    response = client.delete("/caches")
    assert response.status_code == 200
    assert response.json()["caches"] == figures(client)
    assert {name: shown["entries"] for name, shown in figures(client).items()} == {"courses": 0, "others": 0}
    assert figures(client)["courses"]["hits"] == 3


def test_clearing_counts_keeps_values(courses: InstanceCache[str, bytes], client: TestClient) -> None:
    response = client.delete("/caches/stats")
    assert response.status_code == 200
    shown = response.json()["caches"]["courses"]
    assert (shown["hits"], shown["misses"], shown["load_seconds"], shown["entries"]) == (0, 0, 0.0, 1)
    assert courses.peek("abc123") == b"0123456789"


@pytest.mark.parametrize(("method", "path"), [("GET", "/caches"), ("DELETE", "/caches"), ("DELETE", "/caches/stats")])
def test_only_with_the_token(backstage: Backstage, courses: InstanceCache[str, bytes], method: str, path: str) -> None:
    with backstage.client(internal_token="secret") as client:
        assert client.request(method, path).status_code == 401
        assert courses.get_cache_stats().hits == 3
        assert courses.get_cache_stats().entries == 1
        assert client.request(method, path, headers={"x-internal-token": "secret"}).status_code == 200


@pytest.mark.parametrize(("method", "path"), [("POST", "/caches"), ("GET", "/caches/stats")])
def test_other_methods_are_refused(client: TestClient, method: str, path: str) -> None:
    response = client.request(method, path)
    assert (response.status_code, response.json()["error"]["code"]) == (405, "method_not_allowed")


def test_the_documented_example_has_the_fields_there_are(
    courses: InstanceCache[str, bytes], client: TestClient
) -> None:
    document = client.get("/openapi.json").json()
    [example] = document["components"]["schemas"]["CacheStates"]["examples"]
    assert json.dumps(sorted(example["caches"]["courses"])) == json.dumps(sorted(figures(client)["courses"]))

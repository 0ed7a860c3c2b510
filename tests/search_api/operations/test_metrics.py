"""Prometheus metrics: correct values, and a bounded number of series."""

import asyncio
import gc
import re
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient
from starlette.types import Message, Receive, Scope, Send

from embedding.errors import EmbeddingServiceUnreachableError
from embedding.vector_store.errors import VectorStoreError
from models import counters
from models.database import transaction
from models.overview import Overview
from models.tables import EmbeddingStatus
from retrieval.cache import InstanceCache
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.app import create_embedding_app
from search_api.app_settings import SearchSettings
from search_api.http.errors import ERRORS as ERROR_CODES
from search_api.operations import catalogue_reader, checks
from search_api.operations.families import FAMILIES
from search_api.operations.measures import RequestMeasures
from search_api.operations.metrics import RequestMetricsMiddleware
from search_api.services import ModelServices, open_embedding
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness, StubEmbedder
from tests.support import snapshots
from tests.support.product import wait_until
from tests.support.published import ANY_GENERATION

REQUESTS = "course_search_http_request_duration_seconds_count"


def samples(client: TestClient, name: str) -> dict[tuple[str, ...], float]:
    """The values of a metric by label values, in the order of the labels' names."""
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
    measures = RequestMeasures()
    counts_before_the_end = []

    def requests() -> float | None:
        return measures.registry.get_sample_value(REQUESTS, {"route": "none", "status": "200"})

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        counts_before_the_end.append(requests())
        await send({"type": "http.response.body", "body": b""})

    async def send(message: Message) -> None:
        pass

    async def receive() -> Message:
        return {"type": "http.request"}

    asyncio.run(RequestMetricsMiddleware(app, measures)({"type": "http", "path": "/"}, receive, send))
    assert counts_before_the_end == [None]
    assert requests() == 1


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


def test_metrics_are_the_documented_ones(harness: AppHarness, client: TestClient) -> None:
    """Names, types, help and labels: the reference, the alerts and the dashboard are made for them."""
    harness.add_searchable_course("c", "copper")
    harness.caches |= {"courses": InstanceCache("courses", max_entries=50, ttl_seconds=1800)}
    client.post("/courses/c/search", json={"query": "copper"})
    client.get("/none")
    shown = client.get("/metrics").text
    assert documented(shown) == sorted((each.name, each.kind, each.meaning) for each in FAMILIES)
    labels = {each.name: set(each.label_names) for each in FAMILIES}
    for family in text_string_to_metric_families(shown):
        for sample in family.samples:
            name = re.sub("_(bucket|sum|count)$", "", sample.name) if family.type == "histogram" else sample.name
            assert sample.labels.keys() - {"le"} == labels[name]
    with TestClient(create_embedding_app(SearchSettings(), model_services)) as embedding_app:
        of_both = [each for each in FAMILIES if not each.only_in_search_app]
        shown = embedding_app.get("/metrics").text
        assert documented(shown) == sorted((each.name, each.kind, each.meaning) for each in of_both)


@contextmanager
def model_services(settings: SearchSettings) -> Iterator[ModelServices]:
    with open_embedding(settings, StubEmbedder) as (embedding, caches):
        yield ModelServices(settings, embedding, caches)


def documented(text: str) -> list[tuple[str, str, str]]:
    """Name, type and help of all families."""
    return sorted((name, kind, meaning) for name, meaning, _, kind in re.findall(HELP_AND_TYPE, text))


HELP_AND_TYPE = r"# HELP (\S+) (.*)\n# TYPE (\S+) (\w+)\n"


def test_errors_are_counted_by_code(harness: AppHarness, client: TestClient) -> None:
    """Three codes have the status 503, and only one of them says that the database is away."""
    harness.add_course("c", EmbeddingStatus.PENDING)
    for course, body in (("c", {"query": "x"}), ("nobody", {"query": "x"}), ("c", {})):
        client.post(f"/courses/{course}/search", json=body)
    client.get("/no/such/path")
    client.get("/healthz")
    harness.embedder.error = KeyError("unexpected")
    client.post("/embed", json={"texts": ["x"]})
    with sqlite3.connect(harness.database) as connection:
        connection.execute("DROP TABLE course")
    connection.close()
    client.get("/courses")
    client.get("/readyz")
    search = "/courses/{course_id:path}/search"
    counted = samples(client, "course_search_http_errors_total")
    assert counted == {
        ("embedding_not_ready", search): 1,
        ("course_not_found", search): 1,
        ("invalid_request", search): 1,
        ("not_found", "none"): 1,
        ("internal_error", "/embed"): 1,
        ("database_unavailable", "/courses"): 1,
        ("not_ready", "/readyz"): 1,
    }
    assert {code for code, _ in counted} <= ERROR_CODES.keys()


def test_errors_of_middleware_are_counted(harness: AppHarness) -> None:
    with harness.client(internal_token="secret", max_request_bytes=10) as client:
        client.get("/courses")
        client.headers["x-internal-token"] = "secret"
        client.post("/embed", json={"texts": ["longer than ten bytes"]})
        assert samples(client, "course_search_http_errors_total") == {
            ("unauthorized", "none"): 1,
            ("request_too_large", "none"): 1,
        }


def test_phases_are_those_of_server_timing(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    response = client.post("/courses/c/search", json={"query": "copper"})
    named = set(re.findall(r"(\w+);dur", response.headers["server-timing"])) - {"total"}
    assert named == {"open", "embed", "search"}
    assert samples(client, "course_search_phase_duration_seconds_count") == {(phase,): 1 for phase in sorted(named)}


def test_answers_are_counted_by_kind(harness: AppHarness) -> None:
    harness.add_searchable_course("c", "copper")
    with harness.client(search_max_query_chars=20) as client:

        def search(**request: object) -> None:
            body = {"query": "copper", **request}
            assert client.post("/courses/c/search", json=body).status_code == 200

        def kinds() -> dict[str, float]:
            counted = samples(client, "course_search_answers_of_kind_total")
            return {kind: number for (kind,), number in counted.items() if number}

        search()
        assert (samples(client, "course_search_answers_total"), kinds()) == ({(): 1}, {})
        search(query="copper " * 10)
        assert kinds() == {"cut": 1}
        search(query="zebra", method="keyword")
        assert kinds() == {"cut": 1, "empty": 1, "irrelevant": 1}
        search(rerank="model")  # there is none
        assert kinds() == {"cut": 1, "empty": 1, "irrelevant": 1, "degraded": 1}
        assert client.post("/search", json={"query": "copper", "method": "keyword"}).status_code == 200
        stale: dict[str, Any] = {
            "degraded": None,
            "stale": True,
            "results": [{}],
            "answerable": None,
            "query_cut": None,
        }
        harness.app_services.measures.count_answer(stale)
        assert kinds() == {"cut": 1, "empty": 1, "irrelevant": 1, "degraded": 1, "stale": 1}
        assert samples(client, "course_search_answers_total") == {(): 6}


def test_model_queue_is_measured(harness: AppHarness) -> None:
    harness.add_searchable_course("c", "copper")
    wait, refused = "course_search_model_queue_wait_seconds_count", "course_search_model_queue_refused_total"
    with harness.client(embedding_queue_limit=1) as client, ThreadPoolExecutor(3) as callers:
        assert samples(client, refused) == {("queries",): 0, ("bulk",): 0}
        with harness.embedder.blocked():
            for waiting in (0, 1):  # one call computes, one waits
                callers.submit(client.post, "/embed", json={"texts": ["one two", "three"]})
                wait_until(partial(is_busy, harness, client, waiting), LIMIT_SECONDS, lambda: "it is not", every=0.01)
            assert client.post("/embed", json={"texts": ["x"]}).json()["error"]["code"] == "overloaded"
        callers.shutdown()
        assert client.post("/courses/c/search", json={"query": "copper via"}).status_code == 200
        assert samples(client, refused) == {("queries",): 0, ("bulk",): 1}
        assert samples(client, wait) == {("queries",): 1, ("bulk",): 2}
        assert samples(client, "course_search_model_batch_texts_sum") == {("queries",): 1, ("bulk",): 4}
        assert samples(client, "course_search_model_batch_tokens_sum") == {("queries",): 2, ("bulk",): 6}
        assert samples(client, "course_search_model_batch_seconds_count") == {("queries",): 1, ("bulk",): 2}


def is_busy(harness: AppHarness, client: TestClient, waiting: int) -> bool:
    """Whether the model computes, and so many bulk calls wait."""
    return bool(harness.embedder.embedded_texts) and samples(client, "course_search_model_queue_waiting") == {
        ("queries",): 0,
        ("bulk",): waiting,
    }


def test_open_breaker_is_shown(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    name = "course_search_embedding_breaker_open"
    assert samples(client, name) == {(): 0}
    harness.embedder.error = EmbeddingServiceUnreachableError("away")
    assert client.post("/courses/c/search", json={"query": "copper"}).status_code == 503
    assert samples(client, name) == {(): 1}


def test_snapshots_are_measured(harness: AppHarness, client: TestClient) -> None:
    collection = harness.add_searchable_course("c", "copper")
    builds, mapped = "course_search_snapshot_builds_total", "course_search_snapshots_mapped"

    def build(course_id: str) -> dict[str, float]:
        """Search a course, and return the builds so far by their result."""
        client.post(f"/courses/{course_id}/search", json={"query": "copper", "method": "keyword"})
        counted = samples(client, builds)
        assert {trigger for _, trigger in counted} == {"search", "fetch"}
        return {result: number for (result, trigger), number in counted.items() if trigger == "search" and number}

    assert (samples(client, mapped), samples(client, f"{mapped}_bytes")) == ({(): 0}, {(): 0})
    collection.error = VectorStoreError("unreadable")
    assert build("c") == {"failed": 1}
    collection.error = None
    assert build("c") == {"failed": 1, "built": 1}
    harness.add_course("without a collection")
    assert build("without a collection") == {"failed": 1, "built": 1, "not_ready": 1}


def test_mapped_snapshots_are_measured(tmp_path: Path) -> None:
    """As long as anything uses them, whether they are in a cache or not."""
    store = SnapshotStore(SnapshotSettings(snapshot_dir=tmp_path))
    built = snapshots.build({"a": "copper", "b": "via"})
    store.save("c", built)
    course = built.fingerprint
    assert store.mapped() == (0, 0)
    opened = [store.open("c", course, ANY_GENERATION) for _ in range(2)]
    number, size = store.mapped()
    path = store.find("c", course, ANY_GENERATION)
    assert path is not None
    assert (number, size <= 2 * path.stat().st_size, size > 0) == (2, True, True)
    del opened
    gc.collect()
    assert store.mapped() == (0, 0)


def test_courses_and_counters_are_read_from_the_catalogue(
    harness: AppHarness, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue_reader, "KEEP_SECONDS", LIMIT_SECONDS)
    now = datetime.now(UTC)
    assert samples(client, "course_search_catalogue_up") == {(): 1}
    assert samples(client, "course_search_oldest_due_seconds") == {(): 0}
    assert samples(client, "course_search_pipeline_tokens_total") == {(): 0}
    harness.add_course("done", embedding_due_since=now - timedelta(hours=1))
    harness.add_course("failed", EmbeddingStatus.FAILED, embedding_due_since=now - timedelta(hours=2))
    harness.add_course("retried", EmbeddingStatus.FAILED, embedding_retry_at=now)
    harness.add_course("odd", "of another program")
    with transaction(harness.engine) as session:
        counters.add(session, {("tokens", ""): 7, ("chunks", "kept"): 3, ("course_failures", "content"): 1})
    assert samples(client, "course_search_pipeline_tokens_total") == {(): 0}  # what was read is kept for a while
    with harness.client() as later:
        statuses = ("not_started", "pending", "running", "done", "failed", "other")
        assert samples(later, "course_search_courses") == dict(
            zip([(status,) for status in statuses], (0, 0, 0, 1, 2, 1), strict=True)
        )
        assert samples(later, "course_search_courses_failed") == {("scheduled",): 1, ("none",): 1}
        assert 3600 <= samples(later, "course_search_oldest_due_seconds")[()] < 3600 + LIMIT_SECONDS
        assert samples(later, "course_search_uploads") == dict.fromkeys(
            [("pending",), ("running",), ("succeeded",), ("failed",)], 0
        )
        assert samples(later, "course_search_oldest_upload_seconds") == {(): 0}
        assert samples(later, "course_search_pipeline_tokens_total") == {(): 7}
        assert samples(later, "course_search_pipeline_chunks_total")["kept",] == 3
        failures = samples(later, "course_search_pipeline_course_failures_total")
        assert failures == {(kind,): float(kind == "content") for kind in counters.FAILURE_KINDS}


def test_catalogue_that_hangs_or_fails_does_not_hold_up_the_metrics(
    harness: AppHarness, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "CHECK_SECONDS", 0.05)
    unblocked, started = threading.Event(), []
    courses = harness.app_services.courses
    read = courses.overview

    def hang() -> Overview:
        started.append(threading.current_thread())
        assert unblocked.wait(LIMIT_SECONDS)
        return read()

    monkeypatch.setattr(courses, "overview", hang)
    for _ in range(3):
        assert samples(client, "course_search_catalogue_up") == {(): 0}
        assert samples(client, "course_search_courses") == {}
        assert samples(client, REQUESTS)
    assert len(started) == 1  # a scrape comes every few seconds
    unblocked.set()
    started[0].join(LIMIT_SECONDS)
    monkeypatch.setattr(checks, "CHECK_SECONDS", LIMIT_SECONDS)
    assert samples(client, "course_search_catalogue_up") == {(): 1}
    monkeypatch.setattr(catalogue_reader, "KEEP_SECONDS", 0)
    with sqlite3.connect(harness.database) as connection:
        connection.execute("DROP TABLE course_search_counter")
    connection.close()
    assert samples(client, "course_search_catalogue_up") == {(): 0}


@pytest.fixture
def two_apps(harness: AppHarness) -> Iterator[tuple[TestClient, TestClient]]:
    with harness.client() as first, harness.client() as second:
        yield first, second


def test_apps_of_one_process_have_separate_metrics(two_apps: tuple[TestClient, TestClient]) -> None:
    first, second = two_apps
    first.get("/healthz")
    assert samples(second, REQUESTS) == {}
    assert samples(first, REQUESTS)["/healthz", "200"] == 1

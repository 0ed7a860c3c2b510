"""Which generation of a course a search uses, and how it answers while the course is not in memory."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from sqlalchemy import update
from starlette.testclient import TestClient

from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models import course_state
from models.database import transaction
from models.fingerprint import FingerprintBuilder
from models.tables import Course
from search_api.reranking.service import Reranking, RerankService
from search_api.search import service
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness, StubCollection


def ask(client: TestClient, course_id: str = "c", **body: Any) -> Any:
    response = client.post(f"/courses/{course_id}/search", json={"query": "copper", **body})
    return response.json()


def texts(answer: Any) -> list[str]:
    return [result["text"] for result in answer["results"]]


def publish(harness: AppHarness, *new_texts: str) -> None:
    """Publish new texts as a run does: claim the course, rewrite the collection, publish."""
    with transaction(harness.engine) as session:
        assert course_state.claim_course(session, "c", "run")
    rewrite_collection(harness, *new_texts)
    fingerprint = FingerprintBuilder()
    for record in harness.stub_store.by_course["c"].records:
        fingerprint.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    with transaction(harness.engine) as session:
        assert course_state.publish(session, "c", "run", str(fingerprint.build("stub-signature")))


def rewrite_collection(harness: AppHarness, *new_texts: str) -> None:
    collection = harness.stub_store.by_course["c"]
    collection.records = [Record(f"chunk-{n}", text, {}, f"hash of {text}") for n, text in enumerate(new_texts)]
    collection.vectors = np.eye(1, 3, dtype=np.float32).repeat(len(new_texts), 0)


def set_status(harness: AppHarness, status: str) -> None:
    with transaction(harness.engine) as session:
        session.execute(update(Course).values(embedding_status=status))


def test_first_search_after_a_publication_uses_the_new_generation(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c")
    for number in range(1, 4):
        publish(harness, f"copper {number}")
        answer = ask(client)
        assert (texts(answer), answer["generation"], answer["stale"]) == ([f"copper {number}"], number, False)


def test_course_in_memory_is_not_read_again(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    first = ask(client)
    harness.stub_store.by_course.clear()
    assert ask(client) == first
    assert harness.embedder.embedded_texts == ["copper"], "the query is not embedded again either"


@pytest.mark.parametrize("status", ["pending", "running", "failed"])
def test_serve_while_reembedding_searches_the_last_generation(harness: AppHarness, status: str) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper")
    with harness.client(serve_while_reembedding=True) as client:
        assert ask(client)["stale"] is False
        set_status(harness, status)
        rewrite_collection(harness, "part of the next generation")
        answer = ask(client)
        assert (texts(answer), answer["stale"], answer["generation"]) == (["copper"], True, 1)
        publish(harness, "the next generation")
        answer = ask(client)
        assert (texts(answer), answer["stale"], answer["generation"]) == (["the next generation"], False, 2)
    with harness.client() as client:
        set_status(harness, status)
        assert ask(client)["error"]["code"] == "embedding_not_ready"


def test_partly_written_collection_is_not_searched(harness: AppHarness) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper")
    set_status(harness, "running")
    with harness.client(serve_while_reembedding=True) as client:
        assert texts(ask(client)) == ["copper"], "the run has not written anything yet"
    rewrite_collection(harness, "part of the next generation")
    with harness.client(serve_while_reembedding=True) as client:
        error = ask(client)["error"]
        assert error["code"] == "embedding_not_ready"
        assert "its last published generation is not in memory" in error["message"]


def test_serve_while_reembedding_refuses_a_course_that_was_never_published(harness: AppHarness) -> None:
    harness.add_searchable_course("c", "copper")
    set_status(harness, "running")
    with harness.client(serve_while_reembedding=True) as client:
        assert ask(client)["error"]["code"] == "embedding_not_ready"


def test_course_published_while_it_is_loaded_is_loaded_again(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper")
    collection = harness.stub_store.by_course["c"]
    read = collection.contents

    def publish_then_read(page_size: int = 500) -> Iterator[tuple[list[Record], Vectors]]:
        collection.contents = read  # type: ignore[method-assign]
        publish(harness, "newer copper")
        return read()

    collection.contents = publish_then_read  # type: ignore[method-assign]
    answer = ask(client)
    assert (texts(answer), answer["generation"]) == (["newer copper"], 2)


def test_collection_that_differs_from_its_publication_is_searched_with_a_warning(
    harness: AppHarness, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper")
    rewrite_collection(harness, "changed text")
    assert texts(ask(client)) == ["changed text"]
    assert "differs from what was published" in caplog.text


class SlowCollection(StubCollection):
    """A collection that is not read before `readable` is set; its vector search answers immediately."""

    def __init__(self, collection: StubCollection) -> None:
        super().__init__(collection.signature, collection.records, [])
        self.vectors = collection.vectors
        self.readable = threading.Event()
        self.reads = 0

    def contents(self, page_size: int = 500) -> Iterator[tuple[list[Record], Vectors]]:
        self.reads += 1
        assert self.readable.wait(LIMIT_SECONDS)
        return super().contents(page_size)

    def query(self, vector: Vectors, top_k: int, filters: Any) -> list[tuple[Record, float]]:
        assert filters == {"section_id": ["1", "2"]}
        return [(Record("chunk-9", "found by Chroma", {}, ""), 0.5), (Record("chunk-8", "and this", {}, ""), 0.4)][
            :top_k
        ]


@pytest.fixture
def slow(harness: AppHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowCollection]:
    monkeypatch.setattr(service, "LOAD_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(service, "LONG_PATIENCE_SECONDS", LIMIT_SECONDS)
    collection = SlowCollection(harness.add_searchable_course("slow", "copper", metadata=[{"section_id": "1"}]))
    harness.stub_store.by_course["slow"] = collection
    yield collection
    collection.readable.set()


FILTERED: dict[str, Any] = {"filters": {"section_id": ["1", 2]}}


def test_course_that_is_loading_is_searched_in_chroma(
    harness: AppHarness, client: TestClient, slow: SlowCollection
) -> None:
    answer = ask(client, "slow", **FILTERED)
    assert texts(answer) == ["found by Chroma", "and this"]
    assert "is being loaded" in answer["degraded"]
    assert texts(ask(client, "slow", top_k=1, **FILTERED)) == ["found by Chroma"]
    assert texts(ask(client, "slow", thresholds={"vector": 0.5}, **FILTERED)) == ["found by Chroma"]
    below_threshold = ask(client, "slow", thresholds={"score": 0.6}, **FILTERED)
    assert len(texts(below_threshold)) == 2, "the score threshold does not apply to degraded answers"
    explained = ask(client, "slow", explain=True, context=1, **FILTERED)["results"][0]
    assert (explained["explanation"], explained["context"]) == (None, None)
    slow.readable.set()
    assert harness.app_services.caches["courses"].get_cache_stats().misses == 5
    while (answer := ask(client, "slow", **FILTERED))["degraded"]:
        pass
    assert texts(answer) == ["copper"]
    assert slow.reads == 1, "all searches shared one load"


def test_partly_written_collection_is_not_searched_in_chroma(harness: AppHarness, slow: SlowCollection) -> None:
    with transaction(harness.engine) as session:
        session.execute(
            update(Course).values(embedding_generation=1, embedding_fingerprint="v1", embedding_status="done")
        )
    with harness.client(serve_while_reembedding=True) as client:
        assert ask(client, "slow", **FILTERED)["degraded"]
        set_status(harness, "running")
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(ask, client, "slow", **FILTERED)
            slow.readable.set()
        assert texts(waiting.result()) == ["copper"], "it waited for the course to be loaded"


def test_search_in_chroma_fails_if_a_run_starts_meanwhile(
    harness: AppHarness, client: TestClient, slow: SlowCollection
) -> None:
    query = slow.query

    def start_run_then_query(*arguments: Any) -> list[tuple[Record, float]]:
        set_status(harness, "running")
        return query(*arguments)

    slow.query = start_run_then_query  # type: ignore[assignment, method-assign]
    assert ask(client, "slow", **FILTERED)["error"]["code"] == "embedding_not_ready"


def test_search_in_chroma_merges_equal_texts(harness: AppHarness, client: TestClient, slow: SlowCollection) -> None:
    slow.query = lambda *_: [  # type: ignore[method-assign]
        (Record("chunk-9", "same", {}, ""), 0.5),
        (Record("chunk-7", "same", {}, ""), 0.5),
        (Record("chunk-8", "other", {}, ""), 0.4),
    ]
    answer = ask(client, "slow")
    assert texts(answer) == ["same", "other"]
    assert [copy["chunk_id"] for copy in answer["results"][0]["copies"]] == ["chunk-9"]


def test_loading_course_does_not_delay_other_courses(
    harness: AppHarness, client: TestClient, slow: SlowCollection
) -> None:
    harness.add_searchable_course("c", "quick copper")
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, client, "slow", method="keyword") for _ in range(8)]
        assert texts(ask(client)) == ["quick copper"]
        assert not any(search.done() for search in waiting), "Chroma cannot answer keyword searches"
        slow.readable.set()
        assert [texts(search.result()) for search in waiting] == [["copper"]] * 8
    assert slow.reads == 1


def test_course_too_large_for_the_cache_is_searched_in_chroma(harness: AppHarness, client: TestClient) -> None:
    class LargeCollection(SlowCollection):
        def count(self) -> int:
            return 2**30

    collection = LargeCollection(harness.add_searchable_course("c", "copper"))
    collection.readable.set()
    harness.stub_store.by_course["c"] = collection
    answer = ask(client, **FILTERED)
    assert texts(answer) == ["found by Chroma", "and this"]
    assert "CACHE_MAX_MB" in answer["degraded"]
    assert "keyword search is not available" in ask(client, method="keyword")["error"]["message"]
    assert collection.reads == 1, "the search remembers that it is too large"


def test_collection_of_another_model_supports_only_keyword_search(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper").signature = "another"
    assert ask(client)["error"]["code"] == "embedding_not_ready"
    assert texts(ask(client, method="keyword")) == ["copper"]
    assert harness.embedder.embedded_texts == []


def test_illegible_query_is_answered_by_keywords(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "random neighbour", "copper")
    assert texts(ask(client))[0] == "random neighbour"
    harness.embedder.legibility_of_queries = 0.1
    answer = ask(client, query="copper?", explain=True)
    assert texts(answer)[0] == "copper"
    assert answer["results"][0]["explanation"]["weights"] == {"vector": 0, "keyword": 1}


def test_concurrent_equal_queries_do_not_block_all_threads(harness: AppHarness) -> None:
    harness.add_searchable_course("c", "copper")
    with harness.client(embedding_queue_limit=3) as client, ThreadPoolExecutor(60) as pool:
        ask(client, query="another")
        with harness.embedder.blocked():
            searches = [pool.submit(ask, client, query="copper") for _ in range(60)]
            while sum(search.done() for search in searches) < 56:
                assert client.get("/courses").status_code == 200
            refused = [search.result() for search in searches if search.done()]
        assert {answer["error"]["code"] for answer in refused} == {"overloaded"}
        assert sum("results" in search.result() for search in searches) == 4


class TestReranking:
    """With `rerank: model`, the rerank model decides the order, if it answers in time."""

    @pytest.fixture(autouse=True)
    def course(self, harness: AppHarness) -> None:
        harness.add_searchable_course("c", "first", "second", "third", "fourth")

    def stub_reranking(self, monkeypatch: pytest.MonkeyPatch, reranking: Reranking) -> list[tuple[str, list[str]]]:
        calls: list[tuple[str, list[str]]] = []

        def rerank(_: RerankService, query: str, documents: list[str]) -> Reranking:
            calls.append((query, documents))
            return reranking

        monkeypatch.setattr(RerankService, "rerank", rerank)
        return calls

    def test_results_have_its_order_and_scores(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        calls = self.stub_reranking(monkeypatch, Reranking(np.array([0.2, 0.9, 0.2, 0.1], dtype=np.float32)))
        answer = ask(client, rerank="model", top_k=3)
        assert texts(answer) == ["second", "first", "third"], "equal scores keep their order"
        assert [result["score"] for result in answer["results"]] == pytest.approx([0.9, 0.2, 0.2])
        assert answer["degraded"] is None
        assert calls == [("copper", ["first", "second", "third", "fourth"])], "more than top_k passages are reranked"

    def test_score_threshold_applies_to_its_scores(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stub_reranking(monkeypatch, Reranking(np.array([0.2, 0.9, 0.0, 0.1], dtype=np.float32)))
        assert texts(ask(client, rerank="model", thresholds={"score": 0.15})) == ["second", "first"]
        assert len(texts(ask(client, rerank="model", thresholds={"score": 0}))) == 4

    def test_failure_keeps_the_order_and_degrades_the_answer(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = self.stub_reranking(monkeypatch, Reranking(None, "timeout after 2.0 s"))
        answer = ask(client, rerank="model", top_k=2)
        assert (texts(answer), answer["degraded"]) == (["first", "second"], "not reranked: timeout after 2.0 s")
        assert ask(client, top_k=2)["degraded"] is None
        assert len(calls) == 1, "a search without `rerank: model` does not call it"

    def test_missing_model_degrades_the_answer(self, client: TestClient) -> None:
        answer = ask(client, rerank="model")
        assert texts(answer)[0] == "first"
        assert "RERANKER_MODEL_PATH" in answer["degraded"]

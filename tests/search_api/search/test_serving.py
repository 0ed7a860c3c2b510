"""Which generation of a course is searched, and what an answer does without while the course is not in memory."""

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
from tests.search_api.backstage import Backstage, StubCollection


def ask(client: TestClient, course_id: str = "c", **body: Any) -> Any:
    response = client.post(f"/courses/{course_id}/search", json={"query": "copper", **body})
    return response.json()


def texts(answer: Any) -> list[str]:
    return [result["text"] for result in answer["results"]]


def publish(backstage: Backstage, *new_texts: str) -> None:
    """As a run does it: claim, rewrite the collection, publish."""
    with transaction(backstage.engine) as session:
        assert course_state.claim_course(session, "c", "run")
    rewrite(backstage, *new_texts)
    fingerprint = FingerprintBuilder()
    for record in backstage.store.by_course["c"].records:
        fingerprint.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    with transaction(backstage.engine) as session:
        assert course_state.publish(session, "c", "run", str(fingerprint.build("stub-signature")))


def rewrite(backstage: Backstage, *new_texts: str) -> None:
    collection = backstage.store.by_course["c"]
    collection.records = [Record(f"chunk-{n}", text, {}, f"hash of {text}") for n, text in enumerate(new_texts)]
    collection.vectors = np.eye(1, 3, dtype=np.float32).repeat(len(new_texts), 0)


def set_status(backstage: Backstage, status: str) -> None:
    with transaction(backstage.engine) as session:
        session.execute(update(Course).values(embedding_status=status))


def test_a_new_generation_is_seen_by_the_first_search_after_it(backstage: Backstage, client: TestClient) -> None:
    backstage.add_searchable_course("c")
    for number in range(1, 4):
        publish(backstage, f"copper {number}")
        answer = ask(client)
        assert (texts(answer), answer["generation"], answer["stale"]) == ([f"copper {number}"], number, False)


def test_a_course_in_memory_is_not_read_again(backstage: Backstage, client: TestClient) -> None:
    backstage.add_searchable_course("c", "copper")
    first = ask(client)
    backstage.store.by_course.clear()
    assert ask(client) == first
    assert backstage.embedder.asked == ["copper"], "nor is a query embedded twice"


@pytest.mark.parametrize("status", ["pending", "running", "failed"])
def test_what_was_published_last_is_served_where_that_is_wanted(backstage: Backstage, status: str) -> None:
    backstage.add_searchable_course("c")
    publish(backstage, "copper")
    with backstage.client(serve_while_reembedding=True) as client:
        assert ask(client)["stale"] is False
        set_status(backstage, status)
        rewrite(backstage, "half of the next generation")
        answer = ask(client)
        assert (texts(answer), answer["stale"], answer["generation"]) == (["copper"], True, 1)
        publish(backstage, "the next generation")
        answer = ask(client)
        assert (texts(answer), answer["stale"], answer["generation"]) == (["the next generation"], False, 2)
    with backstage.client() as client:
        set_status(backstage, status)
        assert ask(client)["error"]["code"] == "embedding_not_ready"


def test_half_a_generation_is_never_served(backstage: Backstage) -> None:
    backstage.add_searchable_course("c")
    publish(backstage, "copper")
    set_status(backstage, "running")
    with backstage.client(serve_while_reembedding=True) as client:
        assert texts(ask(client)) == ["copper"], "the run has not written anything yet"
    rewrite(backstage, "half of the next generation")
    with backstage.client(serve_while_reembedding=True) as client:
        error = ask(client)["error"]
        assert error["code"] == "embedding_not_ready"
        assert "what was published last is not in memory" in error["message"]


def test_a_course_that_was_never_published_is_not_served(backstage: Backstage) -> None:
    backstage.add_searchable_course("c", "copper")
    set_status(backstage, "running")
    with backstage.client(serve_while_reembedding=True) as client:
        assert ask(client)["error"]["code"] == "embedding_not_ready"


def test_a_course_published_while_it_is_loaded_is_read_again(backstage: Backstage, client: TestClient) -> None:
    backstage.add_searchable_course("c")
    publish(backstage, "copper")
    collection = backstage.store.by_course["c"]
    read = collection.contents

    def overtaken(page_size: int = 500) -> Iterator[tuple[list[Record], Vectors]]:
        collection.contents = read  # type: ignore[method-assign]
        publish(backstage, "newer copper")
        return read()

    collection.contents = overtaken  # type: ignore[method-assign]
    answer = ask(client)
    assert (texts(answer), answer["generation"]) == (["newer copper"], 2)


def test_another_content_than_was_published_is_served_with_a_warning(
    backstage: Backstage, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    backstage.add_searchable_course("c")
    publish(backstage, "copper")
    rewrite(backstage, "somebody has meddled")
    assert texts(ask(client)) == ["somebody has meddled"]
    assert "does not hold what was published" in caplog.text


class SlowCollection(StubCollection):
    """Is read when the gate opens; Chroma's own search answers at once."""

    def __init__(self, collection: StubCollection) -> None:
        super().__init__(collection.signature, collection.records, [])
        self.vectors = collection.vectors
        self.gate = threading.Event()
        self.reads = 0

    def contents(self, page_size: int = 500) -> Iterator[tuple[list[Record], Vectors]]:
        self.reads += 1
        assert self.gate.wait(60)
        return super().contents(page_size)

    def query(self, vector: Vectors, top_k: int, filters: Any) -> list[tuple[Record, float]]:
        assert filters == {"section_id": ["1", "2"]}
        return [(Record("chunk-9", "found by Chroma", {}, ""), 0.5), (Record("chunk-8", "and this", {}, ""), 0.4)][
            :top_k
        ]


@pytest.fixture
def slow(backstage: Backstage, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowCollection]:
    monkeypatch.setattr(service, "LOAD_PATIENCE_SECONDS", 0.05)
    collection = SlowCollection(backstage.add_searchable_course("slow", "copper", metadata=[{"section_id": "1"}]))
    backstage.store.by_course["slow"] = collection
    yield collection
    collection.gate.set()


FILTERED: dict[str, Any] = {"filters": {"section_id": ["1", 2]}}


def test_a_course_that_is_loading_is_answered_by_chroma(
    backstage: Backstage, client: TestClient, slow: SlowCollection
) -> None:
    answer = ask(client, "slow", **FILTERED)
    assert texts(answer) == ["found by Chroma", "and this"]
    assert "is being loaded" in answer["degraded"]
    assert texts(ask(client, "slow", top_k=1, **FILTERED)) == ["found by Chroma"]
    assert texts(ask(client, "slow", thresholds={"vector": 0.5}, **FILTERED)) == ["found by Chroma"]
    unjudged = ask(client, "slow", thresholds={"score": 0.6}, **FILTERED)
    assert len(texts(unjudged)) == 2, "a threshold is for the score the course would have"
    explained = ask(client, "slow", explain=True, context=1, **FILTERED)["results"][0]
    assert (explained["explanation"], explained["context"]) == (None, None)
    slow.gate.set()
    assert backstage.opened.caches["courses"].get_cache_stats().misses == 5
    while (answer := ask(client, "slow", **FILTERED))["degraded"]:
        pass
    assert texts(answer) == ["copper"]
    assert slow.reads == 1, "all of them waited for one load"


def test_half_a_generation_is_not_found_by_chroma_either(backstage: Backstage, slow: SlowCollection) -> None:
    with transaction(backstage.engine) as session:
        session.execute(
            update(Course).values(embedding_generation=1, embedding_fingerprint="v1", embedding_status="done")
        )
    with backstage.client(serve_while_reembedding=True) as client:
        assert ask(client, "slow", **FILTERED)["degraded"]
        set_status(backstage, "running")
        slow_answer = ThreadPoolExecutor(1).submit(ask, client, "slow", **FILTERED)
        slow.gate.set()
        assert texts(slow_answer.result()) == ["copper"], "it waited for the course to be loaded"


def test_a_run_that_begins_while_chroma_searches_is_noticed(
    backstage: Backstage, client: TestClient, slow: SlowCollection
) -> None:
    chroma = slow.query

    def overtaken(*arguments: Any) -> list[tuple[Record, float]]:
        set_status(backstage, "running")
        return chroma(*arguments)

    slow.query = overtaken  # type: ignore[assignment, method-assign]
    assert ask(client, "slow", **FILTERED)["error"]["code"] == "embedding_not_ready"


def test_equal_texts_are_one_result_there_too(backstage: Backstage, client: TestClient, slow: SlowCollection) -> None:
    slow.query = lambda *_: [  # type: ignore[method-assign]
        (Record("chunk-9", "same", {}, ""), 0.5),
        (Record("chunk-7", "same", {}, ""), 0.5),
        (Record("chunk-8", "other", {}, ""), 0.4),
    ]
    answer = ask(client, "slow")
    assert texts(answer) == ["same", "other"]
    assert [copy["chunk_id"] for copy in answer["results"][0]["copies"]] == ["chunk-9"]


def test_other_courses_do_not_wait_for_it(backstage: Backstage, client: TestClient, slow: SlowCollection) -> None:
    backstage.add_searchable_course("c", "quick copper")
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, client, "slow", method="keyword") for _ in range(8)]
        assert texts(ask(client)) == ["quick copper"]
        assert not any(search.done() for search in waiting), "words alone are not known to Chroma"
        slow.gate.set()
        assert [texts(search.result()) for search in waiting] == [["copper"]] * 8
    assert slow.reads == 1


def test_a_course_too_large_for_memory_is_left_to_chroma(backstage: Backstage, client: TestClient) -> None:
    class LargeCollection(SlowCollection):
        def count(self) -> int:
            return 2**30

    collection = LargeCollection(backstage.add_searchable_course("c", "copper"))
    collection.gate.set()
    backstage.store.by_course["c"] = collection
    answer = ask(client, **FILTERED)
    assert texts(answer) == ["found by Chroma", "and this"]
    assert "CACHE_MAX_MB" in answer["degraded"]
    assert "by vector alone" in ask(client, method="keyword")["error"]["message"]
    assert collection.reads == 1, "which is remembered"


def test_a_collection_of_another_model_can_be_searched_for_words(backstage: Backstage, client: TestClient) -> None:
    backstage.add_searchable_course("c", "copper").signature = "another"
    assert ask(client)["error"]["code"] == "embedding_not_ready"
    assert texts(ask(client, method="keyword")) == ["copper"]
    assert backstage.embedder.asked == []


def test_a_query_the_model_cannot_read_is_left_to_words(backstage: Backstage, client: TestClient) -> None:
    backstage.add_searchable_course("c", "nearest by chance", "copper")
    assert texts(ask(client))[0] == "nearest by chance"
    backstage.embedder.legible = 0.1
    answer = ask(client, query="copper?", explain=True)
    assert texts(answer)[0] == "copper"
    assert answer["results"][0]["explanation"]["weights"] == {"vector": 0, "keyword": 1}


def test_many_who_ask_the_same_do_not_take_all_threads(backstage: Backstage) -> None:
    backstage.add_searchable_course("c", "copper")
    with backstage.client(embedding_queue_limit=3) as client, ThreadPoolExecutor(60) as pool:
        ask(client, query="another")
        with backstage.embedder.held():
            asking = [pool.submit(ask, client, query="copper") for _ in range(60)]
            while sum(answer.done() for answer in asking) < 56:
                assert client.get("/courses").status_code == 200
            refused = [answer.result() for answer in asking if answer.done()]
        assert {answer["error"]["code"] for answer in refused} == {"overloaded"}
        assert sum("results" in answer.result() for answer in asking) == 4


class TestReranking:
    """The model that reads query and passage together has the last word, if it speaks in time."""

    @pytest.fixture(autouse=True)
    def course(self, backstage: Backstage) -> None:
        backstage.add_searchable_course("c", "first", "second", "third", "fourth")

    def answer_with(self, monkeypatch: pytest.MonkeyPatch, reranking: Reranking) -> list[tuple[str, list[str]]]:
        asked: list[tuple[str, list[str]]] = []

        def rerank(_: RerankService, query: str, documents: list[str]) -> Reranking:
            asked.append((query, documents))
            return reranking

        monkeypatch.setattr(RerankService, "rerank", rerank)
        return asked

    def test_its_order_and_scores_are_the_answer(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = self.answer_with(monkeypatch, Reranking(np.array([0.2, 0.9, 0.2, 0.1], dtype=np.float32)))
        answer = ask(client, rerank="model", top_k=3)
        assert texts(answer) == ["second", "first", "third"], "equal scores keep the order they had"
        assert [result["score"] for result in answer["results"]] == pytest.approx([0.9, 0.2, 0.2])
        assert answer["degraded"] is None
        assert asked == [("copper", ["first", "second", "third", "fourth"])], "more are judged than asked for"

    def test_a_threshold_applies_to_its_scores(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answer_with(monkeypatch, Reranking(np.array([0.2, 0.9, 0.0, 0.1], dtype=np.float32)))
        assert texts(ask(client, rerank="model", thresholds={"score": 0.15})) == ["second", "first"]
        assert len(texts(ask(client, rerank="model", thresholds={"score": 0}))) == 4

    def test_without_it_the_order_stays_and_the_answer_says_so(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = self.answer_with(monkeypatch, Reranking(None, "time-out after 2.0 s"))
        answer = ask(client, rerank="model", top_k=2)
        assert (texts(answer), answer["degraded"]) == (["first", "second"], "not reranked: time-out after 2.0 s")
        assert ask(client, top_k=2)["degraded"] is None
        assert len(asked) == 1, "it is asked only where that is wanted"

    def test_no_model_is_no_error(self, client: TestClient) -> None:
        answer = ask(client, rerank="model")
        assert texts(answer)[0] == "first"
        assert "RERANKER_MODEL_PATH" in answer["degraded"]

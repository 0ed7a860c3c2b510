"""Which generation of a course a search uses, and how it answers while that generation is not at hand."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import delete, update
from sqlmodel import col
from starlette.testclient import TestClient

from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models import course_state, database
from models.database import transaction
from models.fingerprint import FingerprintBuilder
from models.tables import Course
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.reranking.service import Reranking, RerankService
from search_api.search import snapshots
from tests.search_api.app_harness import LIMIT_SECONDS, AppHarness, StubCollection
from tests.support.snapshots import build


def ask(client: TestClient, course_id: str = "c", **body: Any) -> Any:
    response = client.post(f"/courses/{course_id}/search", json={"query": "copper", **body})
    return response.json()


def texts(answer: Any) -> list[str]:
    return [result["text"] for result in answer["results"]]


def publish(harness: AppHarness, *new_texts: str, course_id: str = "c") -> None:
    """Publish new texts as a run on another machine does: claim the course, rewrite the collection, publish."""
    with transaction(harness.engine) as session:
        assert course_state.claim_course(session, course_id, "run")
    rewrite_collection(harness, *new_texts, course_id=course_id)
    fingerprint = FingerprintBuilder()
    for record in harness.stub_store.by_course[course_id].records:
        fingerprint.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    with transaction(harness.engine) as session:
        assert course_state.publish(session, course_id, "run", str(fingerprint.build("stub-signature")))


def rewrite_collection(harness: AppHarness, *new_texts: str, course_id: str = "c") -> None:
    collection = harness.stub_store.by_course[course_id]
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
def test_last_published_generation_answers_until_the_next_one(harness: AppHarness, status: str) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper")
    with harness.client() as client:
        assert ask(client)["stale"] is False
        set_status(harness, status)
        rewrite_collection(harness, "part of the next generation")
        answer = ask(client)
        assert (texts(answer), answer["stale"], answer["generation"]) == (["copper"], True, 1)
    with harness.client() as client:  # after a restart
        harness.stub_store.error = VectorStoreError("Chroma is away")
        answer = ask(client)
        assert (texts(answer), answer["stale"], answer["generation"]) == (["copper"], True, 1)
        harness.stub_store.error = None
        publish(harness, "the next generation")
        answer = ask(client)
        assert (texts(answer), answer["stale"], answer["generation"]) == (["the next generation"], False, 2)
    with harness.client(serve_while_reembedding=False) as client:
        set_status(harness, status)
        assert ask(client)["error"]["code"] == "embedding_not_ready"


def test_stale_generation_is_searched_for_a_limited_time(harness: AppHarness) -> None:
    """Otherwise a text that was deleted would be found for ever, if its course can no longer be embedded."""
    harness.add_searchable_course("c")
    publish(harness, "copper")
    with harness.client(max_stale_seconds=3600) as client:
        assert texts(ask(client)) == ["copper"]
        for minutes, is_searchable in ((59, True), (61, False)):
            with transaction(harness.engine) as session:
                since = datetime.now(UTC) - timedelta(minutes=minutes)
                session.execute(update(Course).values(embedding_status="failed", embedding_due_since=since))
            assert ("results" in ask(client)) == is_searchable
        assert "MAX_STALE_SECONDS" in ask(client)["error"]["message"]
        set_status(harness, "done")
        assert texts(ask(client)) == ["copper"]


def test_partly_written_collection_is_not_searched(harness: AppHarness) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper")
    set_status(harness, "running")
    rewrite_collection(harness, "part of the next generation")
    with harness.client() as client:
        error = ask(client)["error"]
        assert error["code"] == "embedding_not_ready"
        assert "no snapshot of what was published before" in error["message"]


def test_course_that_was_never_published_is_not_ready(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "copper")
    set_status(harness, "running")
    assert ask(client)["error"]["code"] == "embedding_not_ready"


def test_older_generation_answers_while_the_published_one_cannot_be_had(
    harness: AppHarness, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An app without the pipeline's disk reads the new generation from the collection, which takes time."""
    monkeypatch.setattr(snapshots, "PAUSE_SECONDS", 0)
    harness.add_searchable_course("c")
    publish(harness, "copper")
    assert texts(ask(client)) == ["copper"]
    publish(harness, "the next generation")
    harness.stub_store.error = VectorStoreError("Chroma is away")
    answer = ask(client)
    assert (texts(answer), answer["stale"], answer["generation"]) == (["copper"], True, 1)
    harness.stub_store.error = None
    answer = ask(client)
    assert (texts(answer), answer["stale"], answer["generation"]) == (["the next generation"], False, 2)


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
    """A collection that is not read before `readable` is set."""

    def __init__(self, collection: StubCollection) -> None:
        super().__init__(collection.course_id, collection.signature, collection.records, [])
        self.vectors = collection.vectors
        self.readable = threading.Event()
        self.reads = 0

    def contents(self, page_size: int = 500) -> Iterator[tuple[list[Record], Vectors]]:
        self.reads += 1
        assert self.readable.wait(LIMIT_SECONDS)
        return super().contents(page_size)


@pytest.fixture
def slow(harness: AppHarness, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowCollection]:
    """Makes reading the collection of course c slow."""
    monkeypatch.setattr(snapshots, "SHORT_PATIENCE_SECONDS", 0.05)
    monkeypatch.setattr(snapshots, "PAUSE_SECONDS", 0)
    harness.add_searchable_course("c", "copper")
    collection = SlowCollection(harness.stub_store.by_course["c"])
    harness.stub_store.by_course["c"] = collection
    yield collection
    collection.readable.set()


def test_searches_wait_for_a_snapshot_that_is_built(
    client: TestClient, slow: SlowCollection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshots, "PATIENCE_SECONDS", 0.05)
    error = ask(client)["error"]
    assert (error["code"], "still being loaded" in error["message"]) == ("overloaded", True)
    monkeypatch.setattr(snapshots, "PATIENCE_SECONDS", LIMIT_SECONDS)
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(ask, client) for _ in range(8)]
        slow.readable.set()
        assert [texts(search.result()) for search in waiting] == [["copper"]] * 8
    assert slow.reads == 1, "all searches shared one load"


def test_searches_do_not_wait_if_there_is_an_older_generation(
    harness: AppHarness, client: TestClient, slow: SlowCollection
) -> None:
    slow.readable.set()
    publish(harness, "copper")
    assert ask(client)["generation"] == 1
    slow.readable.clear()
    publish(harness, "the next generation")
    answer = ask(client)
    assert (texts(answer), answer["stale"], answer["generation"]) == (["copper"], True, 1)
    slow.readable.set()
    while (answer := ask(client))["stale"]:
        pass
    assert (texts(answer), answer["generation"]) == (["the next generation"], 2)


def test_course_of_another_model_is_searched_by_words(harness: AppHarness) -> None:
    """Vectors of different models cannot be compared."""
    harness.add_searchable_course("c", "copper", "solder").signature = "another"
    with harness.client() as client:
        answer = ask(client)
        assert (texts(answer), answer["stale"]) == (["copper"], True)
        assert "by words only" in answer["degraded"]
        assert "another model" in answer["degraded"]
        assert ask(client, method="vector")["error"]["code"] == "embedding_not_ready"
        by_keyword = ask(client, method="keyword")
        assert (texts(by_keyword), by_keyword["stale"], by_keyword["degraded"]) == (["copper"], False, None)
    with harness.client(serve_while_reembedding=False) as client:
        assert ask(client)["error"]["code"] == "embedding_not_ready"
        assert texts(ask(client, method="keyword")) == ["copper"]
    assert harness.embedder.embedded_texts == []


def test_unwritable_snapshot_directory_does_not_prevent_searches(
    harness: AppHarness, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper")
    harness.snapshot_dir.write_text("a file, where a directory should be")
    assert texts(ask(client)) == ["copper"]
    assert "SNAPSHOT_DIR" in caplog.text


@pytest.mark.parametrize("damage", ["truncated", "foreign", "changed"])
def test_damaged_snapshot_is_built_again(harness: AppHarness, damage: str) -> None:
    harness.add_searchable_course("c")
    publish(harness, "copper")
    with harness.client() as client:
        assert texts(ask(client)) == ["copper"]
    (path,) = harness.snapshot_dir.rglob("*.safetensors")
    intact = path.read_bytes()
    content = {"truncated": intact[:-1], "foreign": b"{}", "changed": intact.replace(b"copper", b"kopper")}[damage]
    path.write_bytes(content)
    with harness.client() as client:
        if damage == "changed":  # the digest is verified in the background
            assert texts(ask(client)) == ["kopper"]
            harness.app_services.snapshots.verify()
        assert texts(ask(client)) == ["copper"]
    assert path.read_bytes() == intact


class TestFetching:
    """A background thread holds the snapshot of every published course."""

    def test_new_generation_is_fetched_and_the_old_one_deleted(self, harness: AppHarness, client: TestClient) -> None:
        harness.add_searchable_course("c")
        publish(harness, "copper")
        fetcher = harness.app_services.snapshots
        fetcher.fetch()
        (first,) = harness.snapshot_dir.rglob("*.safetensors")
        publish(harness, "the next generation")
        fetcher.fetch()
        (second,) = harness.snapshot_dir.rglob("*.safetensors")
        assert first.name != second.name
        set_status(harness, "running")
        harness.stub_store.by_course.clear()
        answer = ask(client)
        assert (texts(answer), answer["stale"], answer["generation"]) == (["the next generation"], True, 2)

    def test_course_that_cannot_be_read_does_not_prevent_the_others(
        self, harness: AppHarness, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        harness.add_searchable_course("c").error = VectorStoreError("broken index")
        harness.add_searchable_course("d", "solder")
        for course_id in ("c", "d"):
            publish(harness, "copper", course_id=course_id)
        with harness.client():
            harness.app_services.snapshots.fetch()
            assert [path.parent.name for path in harness.snapshot_dir.rglob("*.safetensors")] == ["course_d"]
            harness.stub_store.by_course["c"].error = None
            harness.app_services.snapshots.fetch()
            assert len(list(harness.snapshot_dir.rglob("*.safetensors"))) == 1, "it waits before the next attempt"
            monkeypatch.setattr(snapshots, "time", SimpleNamespace(monotonic=lambda: 1e12))
            harness.app_services.snapshots.fetch()
            assert len(list(harness.snapshot_dir.rglob("*.safetensors"))) == 2

    def test_snapshots_of_a_deleted_course_are_deleted(self, harness: AppHarness) -> None:
        harness.add_searchable_course("c")
        publish(harness, "copper")
        with harness.client():
            fetcher = harness.app_services.snapshots
            fetcher.fetch()
            with transaction(harness.engine) as session:
                session.execute(delete(Course))
            fetcher.fetch()
        assert not list(harness.snapshot_dir.rglob("*.safetensors"))

    def test_newer_file_of_a_run_that_has_not_published_is_kept(self, harness: AppHarness) -> None:
        harness.add_searchable_course("c")
        publish(harness, "copper")
        with harness.client():
            harness.app_services.snapshots.fetch()
            store = SnapshotStore(SnapshotSettings(snapshot_dir=harness.snapshot_dir))
            store.save("c", build({"a": "not yet published"}, course_id="c"))
            publish(harness, "copper")
            harness.app_services.snapshots.fetch()
        assert len(list(harness.snapshot_dir.rglob("*.safetensors"))) == 2

    def test_snapshots_of_courses_that_were_deleted_while_the_app_was_down(self, harness: AppHarness) -> None:
        for course_id in ("c", "d", "e"):
            harness.add_searchable_course(course_id)
            publish(harness, "copper", course_id=course_id)
        with harness.client():
            harness.app_services.snapshots.fetch()
        for deleted, left in (("c", {"course_d", "course_e"}), ("de", {"course_d", "course_e"})):
            with transaction(harness.engine) as session:
                session.execute(delete(Course).where(col(Course.id).in_(list(deleted))))
            with harness.client():
                harness.app_services.snapshots.fetch()
            assert {path.parent.name for path in harness.snapshot_dir.rglob("*.safetensors")} == left, (
                "if most are gone, it may be another catalogue"
            )

    def test_generation_of_an_unchanged_publication_does_not_go_back(self, harness: AppHarness) -> None:
        """The file of an unchanged course is that of an earlier generation."""
        harness.add_searchable_course("c")
        with harness.client() as client:
            for _ in range(3):
                publish(harness, "copper")
                harness.app_services.snapshots.fetch()
            publish(harness, "the next generation")
            harness.stub_store.error = VectorStoreError("Chroma is away")
            answer = ask(client)
            assert (texts(answer), answer["stale"], answer["generation"]) == (["copper"], True, 3)


def test_illegible_query_is_answered_by_keywords(harness: AppHarness, client: TestClient) -> None:
    harness.add_searchable_course("c", "random neighbour", "copper")
    assert texts(ask(client, query="drill"))[0] == "random neighbour"
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
        calls = self.stub_reranking(monkeypatch, Reranking((0.2, 0.9, 0.2, 0.1)))
        answer = ask(client, rerank="model", top_k=3)
        assert texts(answer) == ["second", "first", "third"], "equal scores keep their order"
        assert [result["score"] for result in answer["results"]] == pytest.approx([0.9, 0.2, 0.2])
        assert answer["degraded"] is None
        assert calls == [("copper", ["first", "second", "third", "fourth"])], "more than top_k passages are reranked"

    def test_score_threshold_applies_to_its_scores(self, client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stub_reranking(monkeypatch, Reranking((0.2, 0.9, 0.0, 0.1)))
        assert texts(ask(client, rerank="model", thresholds={"score": 0.15})) == ["second", "first"]
        assert len(texts(ask(client, rerank="model", thresholds={"score": 0}))) == 4

    def test_failure_keeps_the_order_and_degrades_the_answer(
        self, client: TestClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = self.stub_reranking(monkeypatch, Reranking((), "timeout after 2.0 s"))
        answer = ask(client, rerank="model", top_k=2)
        assert (texts(answer), answer["degraded"]) == (["first", "second"], "not reranked: timeout after 2.0 s")
        assert ask(client, top_k=2)["degraded"] is None
        assert len(calls) == 1, "a search without `rerank: model` does not call it"

    @pytest.mark.parametrize("method", ["hybrid", "vector", "keyword"])
    def test_passages_without_a_score_follow_in_their_order(
        self, harness: AppHarness, client: TestClient, monkeypatch: pytest.MonkeyPatch, method: str
    ) -> None:
        harness.add_searchable_course("d", *(f"copper {name}" + " plate" * n for n, name in enumerate("abcde")))
        fused = texts(ask(client, "d", method=method))
        self.stub_reranking(monkeypatch, Reranking((0.2, 0.9), "timeout after 2.0 s"))
        answer = ask(client, "d", rerank="model", method=method)
        assert texts(answer) == [fused[1], fused[0], *fused[2:]]
        assert answer["degraded"] == "only the first 2 of 5 passages were reranked: timeout after 2.0 s"
        scores = [result["score"] for result in answer["results"]]
        assert scores == sorted(scores, reverse=True), "a score orders the answer"
        assert scores[:3] == pytest.approx([0.9, 0.2, 0.2])
        assert scores[-1] >= 0

    def test_missing_model_degrades_the_answer(self, client: TestClient) -> None:
        answer = ask(client, rerank="model")
        assert texts(answer)[0] == "first"
        assert "RERANKER_MODEL_PATH" in answer["degraded"]


def test_searches_do_not_ask_a_vector_store_again_that_has_just_failed(
    harness: AppHarness, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each would wait for it, and write to the log."""
    monkeypatch.setattr(snapshots, "PAUSE_SECONDS", LIMIT_SECONDS)
    harness.app_services.snapshots.close()  # only the searches ask it
    harness.add_searchable_course("c")
    publish(harness, "copper")
    ask(client)
    publish(harness, "the next generation")
    calls: list[str] = []

    def fail(course_id: str, *_: Any) -> Any:
        calls.append(course_id)
        raise VectorStoreError("Chroma is away")

    monkeypatch.setattr(harness.stub_store, "open", fail)
    for _ in range(5):
        assert texts(ask(client)) == ["copper"]
    assert calls == ["c"]


@pytest.mark.parametrize("is_row_known", [False, True])
def test_snapshot_that_was_damaged_after_it_was_verified_is_built_again(
    harness: AppHarness, monkeypatch: pytest.MonkeyPatch, is_row_known: bool
) -> None:
    """Also for a search that is answered at once, because the row of its course is known."""
    monkeypatch.setattr(database, "IDLE_SECONDS", -1 if is_row_known else LIMIT_SECONDS)
    harness.add_searchable_course("c")
    publish(harness, "copper")
    with harness.client() as client:
        assert texts(ask(client)) == ["copper"]
        snapshots_of_app = harness.app_services.snapshots
        snapshots_of_app.verify()
        (path,) = harness.snapshot_dir.rglob("*.safetensors")
        intact = path.read_bytes()
        with path.open("r+b") as file:  # the mapped bytes change
            file.seek(intact.rindex(b"copper"))  # its text
            file.write(b"\xff" * 6)
        assert texts(ask(client)) == ["copper"]
        assert path.read_bytes() == intact


def test_damaged_snapshot_does_not_fail_a_search_of_several_courses(harness: AppHarness) -> None:
    """Only its texts are damaged, so this is noticed after the courses have been compared."""
    for course_id, text in (("a", "copper"), ("b", "copper plated")):
        harness.add_searchable_course(course_id)
        publish(harness, text, course_id=course_id)
    with harness.client() as client:
        for is_damaged in (False, True):
            if is_damaged:
                harness.app_services.snapshots.verify()
                path = next(
                    path for path in harness.snapshot_dir.rglob("*.safetensors") if b"plated" in path.read_bytes()
                )
                intact = path.read_bytes()
                with path.open("r+b") as file:  # the mapped bytes change
                    file.seek(intact.index(b"copper plated"))
                    file.write(b"\xff" * 6)
            response = client.post("/search", json={"query": "copper"})
            assert (response.status_code, sorted(texts(response.json()))) == (200, ["copper", "copper plated"])
        assert path.read_bytes() == intact


class TestLongQueries:
    """A long query is searched by what fits, and the answer says what was left out."""

    @pytest.fixture(autouse=True)
    def course(self, harness: AppHarness) -> None:
        harness.add_searchable_course("c", "first", "second")

    def test_it_is_cut_at_the_end_of_a_word(self, harness: AppHarness) -> None:
        with harness.client(search_max_query_chars=12) as client:
            for _ in range(2):  # the second answer comes from the cache of queries
                answer = ask(client, query="copper plated holes")
                assert texts(answer) == ["first", "second"]
                assert answer["query_cut"] == [{"query": 0, "characters": {"used": 6, "of": 19}, "tokens": None}]
        assert harness.embedder.embedded_texts == ["copper"]

    def test_each_phrasing_is_cut_for_itself(self, harness: AppHarness) -> None:
        with harness.client(search_max_query_chars=12) as client:
            answer = ask(client, query=["copper", "a" * 13, " " * 20 + "holes" + "\n" * 20])
        assert answer["query_cut"] == [{"query": 1, "characters": {"used": 12, "of": 13}, "tokens": None}]
        assert harness.embedder.embedded_texts == ["copper", "a" * 12, "holes"], "white space is no part of a query"

    def test_tokens_that_the_model_has_not_read_are_counted(self, harness: AppHarness, client: TestClient) -> None:
        query = "word " * 10  # the stub counts words, and reads 8
        for _ in range(2):
            answer = ask(client, query=query)
            assert answer["query_cut"] == [{"query": 0, "characters": None, "tokens": {"used": 8, "of": 10}}]
        assert ask(client, query=query, method="keyword")["query_cut"] is None, "a search by words reads all"
        assert ask(client, query="word " * 8)["query_cut"] is None

    def test_embedder_that_does_not_tell_its_tokens_cuts_silently(
        self, harness: AppHarness, client: TestClient
    ) -> None:
        harness.embedder.tells_whole_token_counts = False
        assert ask(client, query="word " * 10)["query_cut"] is None

    def test_rerank_model_reads_the_same_part(self, harness: AppHarness, monkeypatch: pytest.MonkeyPatch) -> None:
        queries: list[str] = []

        def rerank(_: RerankService, query: str, documents: list[str]) -> Reranking:
            queries.append(query)
            return Reranking((0.0,) * len(documents))

        monkeypatch.setattr(RerankService, "rerank", rerank)
        with harness.client(search_max_query_chars=12) as client:
            ask(client, query="copper plated holes", rerank="model")
        assert queries == ["copper"]

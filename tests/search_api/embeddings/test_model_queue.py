"""The shared model: queries share passes and go before bulk work, and no call is forgotten or left behind."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from embedding.errors import EmbeddingError, EmbeddingServiceError
from embedding.interface import Embedder, Embeddings, Pause, concatenate_embeddings, no_pause
from search_api.embeddings import model_queue
from search_api.embeddings.model_queue import QUERY_TEXTS, ModelQueue
from search_api.http.errors import OverloadedError
from tests.support.indexed_course import DIMENSIONS, vector_of
from tests.support.product import wait_until


class StubModel(Embedder):
    """Queries are done in passes, documents one by one; each may be held, and texts that say so fail."""

    def __init__(self) -> None:
        self.max_tokens = 8
        self.passes: list[list[str]] = []
        self.threads: set[str] = set()
        self._places = threading.Semaphore(10**6)

    @contextmanager
    def held(self) -> Iterator[Callable[[], None]]:
        """No pass ends before the block does, unless it is let go: what this yields ends one."""
        self._places = threading.Semaphore(0)
        try:
            yield self._places.release
        finally:
            self._places.release(10**6)

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        parts = []
        for text in texts:
            pause()
            parts.append(self._embed("document", [text]))
        return concatenate_embeddings(parts, DIMENSIONS)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        return self._embed("query", texts)

    def legibility(self, text: str) -> float:
        return 1.0

    def _embed(self, kind: str, texts: Sequence[str]) -> Embeddings:
        self.passes.append([f"{kind} {text}" for text in texts])
        self.threads.add(threading.current_thread().name)
        assert self._places.acquire(timeout=20)
        for text in texts:
            if text == "away":
                raise EmbeddingServiceError("away")
            if text == "poison":
                raise EmbeddingError("poison got a vector that is not finite")
        counts = tuple(min(len(text), self.max_tokens) for text in texts)
        return Embeddings(
            np.stack([vector_of(text) for text in texts]), counts, sum(len(text) > self.max_tokens for text in texts)
        )


class Stage:
    """A shared model, and callers."""

    def __init__(self, queue_limit: int = 100) -> None:
        self.model = StubModel()
        self.shared = ModelQueue(lambda: self.model, queue_limit)
        self.pool = ThreadPoolExecutor(130)

    def query(self, *texts: str) -> "Future[Embeddings]":
        return self._submit(self.shared.embed_queries, texts)

    def bulk(self, *texts: str) -> "Future[Embeddings]":
        return self._submit(self.shared.embed_documents, texts)

    def busy(self) -> "Future[Embeddings]":
        """A query that has the model."""
        call = self.query("first")
        self.wait_for_a_pass()
        return call

    def wait_for_a_pass(self) -> None:
        wait_until(lambda: bool(self.model.passes), 10, lambda: "no pass began", every=0.001)

    def close(self) -> None:
        self.shared.close()
        self.pool.shutdown()

    def _submit(self, call: Callable[[Sequence[str]], Embeddings], texts: Sequence[str]) -> "Future[Embeddings]":
        """Returns when the call is in its queue or has the model: the order of calls is that of the test."""
        seen = self._seen()
        future = self.pool.submit(call, texts)
        wait_until(lambda: self._seen() > seen or future.done(), 10, lambda: "the call did not begin", every=0.001)
        return future

    def _seen(self) -> int:
        return sum(map(len, self.model.passes)) + len(self.shared._queries) + self.shared._bulk._work_queue.qsize()


@pytest.fixture
def stage() -> Iterator[Stage]:
    before = {*threading.enumerate()}
    stage = Stage()
    yield stage
    stage.close()
    assert {*threading.enumerate()} <= before


def test_queries_that_come_while_the_model_is_busy_share_a_pass(stage: Stage) -> None:
    with stage.model.held():
        stage.busy()
        calls = [stage.query(f"q{number}") for number in range(8)]
    for number, call in enumerate(calls):
        assert np.array_equal(call.result().vectors, vector_of(f"q{number}")[None])
    assert stage.model.passes == [["query first"], [f"query q{number}" for number in range(8)]]


def test_a_pass_has_an_end(stage: Stage) -> None:
    with stage.model.held():
        calls = [stage.busy(), *(stage.query(str(number)) for number in range(QUERY_TEXTS + 1))]
    assert all(call.result() for call in calls)
    assert [len(texts) for texts in stage.model.passes] == [1, QUERY_TEXTS, 1]


def test_calls_of_many_queries_take_turns_with_the_others(stage: Stage) -> None:
    many = [f"m{number}" for number in range(2 * QUERY_TEXTS + 4)]
    with stage.model.held():
        calls = [stage.busy(), stage.query(*many), stage.query("a"), stage.query("b")]
    assert np.array_equal(calls[1].result().vectors, np.stack([vector_of(text) for text in many]))
    assert all(call.result() for call in calls)
    assert [len(texts) for texts in stage.model.passes[:2]] == [1, QUERY_TEXTS]
    assert {"query a", "query b"} <= set(stage.model.passes[2]), "they wait for one pass, not for three"


def test_a_query_alone_does_not_wait_for_others(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_queue, "WINDOW_SECONDS", 20.0)
    for number in range(3):
        stage.query(str(number)).result(timeout=10)


def test_those_who_shared_a_pass_are_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come back one after the other within a millisecond or two; the first must not start a pass of its own."""
    monkeypatch.setattr(model_queue, "WINDOW_SECONDS", 20.0)
    with stage.model.held():
        calls = [stage.busy(), stage.query("a"), stage.query("b"), stage.query("c")]
    assert all(call.result() for call in calls)
    calls = [stage.query("d"), stage.query("e"), stage.query("f")]
    assert all(call.result(timeout=10) for call in calls)
    assert stage.model.passes[-1] == ["query d", "query e", "query f"]


def test_bulk_work_stops_for_queries_and_goes_on(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_queue, "LONGEST_PAUSE_SECONDS", 20.0)
    monkeypatch.setattr(model_queue, "PAUSES", 10**6)
    with stage.model.held() as let_one_go:
        bulk = stage.bulk("b0", "b1", "b2")
        stage.wait_for_a_pass()
        later = stage.bulk("later")
        queries = [stage.query("q0"), stage.query("q1")]
        let_one_go()  # b0 or q0
        let_one_go()
        assert queries[0].result(timeout=10)
        let_one_go()  # q1
        assert queries[1].result(timeout=10)
        assert not bulk.done()
    assert np.array_equal(bulk.result().vectors, np.stack([vector_of(f"b{number}") for number in range(3)]))
    assert later.result()
    assert stage.model.passes == [
        ["document b0"],
        ["query q0"],
        ["query q1"],
        ["document b1"],
        ["document b2"],
        ["document later"],
    ], "bulk calls take turns in the order they came"


def test_one_thread_has_the_queries_and_one_the_documents(stage: Stage) -> None:
    for call in [stage.query("a"), stage.bulk("b"), stage.query("c"), stage.bulk("d")]:
        call.result()
    assert stage.model.threads == {"embedding-queries", "embedding-bulk_0"}


def test_tokens_and_cuts_are_those_of_the_call(stage: Stage) -> None:
    with stage.model.held():
        calls = [stage.busy(), stage.query("short"), stage.query("much too long", "x")]
    assert [call.result().token_counts for call in calls] == [(5,), (5,), (8, 1)]
    assert [call.result().truncated for call in calls] == [0, 0, 1]
    bulk = stage.bulk(*["much too long"] * 5).result()
    assert (bulk.truncated, bulk.token_counts, bulk.vectors.shape) == (5, (8,) * 5, (5, DIMENSIONS))


# Limits


def test_each_queue_has_an_end_of_its_own() -> None:
    """Bulk work that fills its queue turns no query away."""
    stage = Stage(queue_limit=1)
    with stage.model.held():
        accepted = [stage.bulk("a"), stage.bulk("b"), stage.query("c"), stage.query("d")]
        for refused in (stage.bulk("e"), stage.query("f")):
            with pytest.raises(OverloadedError):
                refused.result()
    assert all(call.result() for call in accepted)
    assert stage.bulk("g").result()
    stage.close()


# Failures


def test_one_bad_query_does_not_fail_the_others(stage: Stage) -> None:
    with stage.model.held():
        calls = {"first": stage.busy(), **{text: stage.query(text) for text in ("good", "poison", "fine")}}
    with pytest.raises(EmbeddingError, match="poison"):
        calls.pop("poison").result()
    for text, call in calls.items():
        assert np.array_equal(call.result().vectors, vector_of(text)[None])


def test_a_service_that_is_away_is_asked_once_for_all(stage: Stage) -> None:
    with stage.model.held():
        calls = [stage.busy(), stage.query("a"), stage.query("away")]
    assert calls[0].result()
    for call in calls[1:]:
        with pytest.raises(EmbeddingServiceError):
            call.result()
    assert len(stage.model.passes) == 2


def test_a_bulk_call_that_fails_is_over(stage: Stage) -> None:
    with pytest.raises(EmbeddingError):
        stage.bulk("a", "poison", "b").result()
    assert stage.bulk("x").result()
    assert stage.model.passes == [["document a"], ["document poison"], ["document x"]]


def test_closing_ends_after_what_runs(stage: Stage) -> None:
    with stage.model.held() as let_one_go, ThreadPoolExecutor(1) as pool:
        bulk = stage.bulk("a", "b", "c")
        stage.wait_for_a_pass()
        query = stage.query("d")
        wait_until(lambda: len(stage.model.passes) == 2, 10, lambda: "the query did not begin", every=0.001)
        waiting = [stage.bulk("e"), stage.query("f")]
        closing = pool.submit(stage.shared.close)
        wait_until(lambda: stage.shared._has_closed, 10, lambda: "not closed", every=0.001)
        for call in (stage.shared.embed_queries, stage.shared.embed_documents):
            with pytest.raises(OverloadedError, match="being stopped"):
                call(["late"])
        assert not closing.done()
        let_one_go()
        let_one_go()
        closing.result(timeout=10)
        assert query.result()
        for unfinished in (bulk, *waiting):
            with pytest.raises(OverloadedError, match="being stopped"):
                unfinished.result()
    assert stage.model.passes == [["document a"], ["query d"]]


def test_bulk_work_may_stop_while_queries_go_on(stage: Stage) -> None:
    with stage.model.held():
        bulk = stage.bulk("a", "b")
        stage.wait_for_a_pass()
        stage.shared.stop_bulk()
    for call in (bulk, stage.bulk("late")):
        with pytest.raises(OverloadedError, match="being stopped"):
            call.result()
    assert stage.query("q").result()
    assert stage.model.passes == [["document a"], ["query q"]]


def test_bulk_work_goes_on_among_queries_without_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_queue, "LONGEST_PAUSE_SECONDS", 0.01)
    bulk = stage.pool.submit(stage.shared.embed_documents, [f"b{number}" for number in range(20)])
    asking = True

    def ask_on() -> None:
        while asking:
            stage.shared.embed_queries(["q"])

    callers = [stage.pool.submit(ask_on) for _ in range(16)]
    assert len(bulk.result(60).vectors) == 20
    asking = False
    for caller in callers:
        caller.result()

"""The model's thread: queries share passes and go before bulk work, and no call is forgotten or left behind."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest

from embedding.embedder import Embedder, Embeddings
from embedding.errors import EmbeddingError, EmbeddingServiceError
from search_api import model_thread
from search_api.errors import EmbeddingServiceUnavailableError, OverloadedError
from search_api.model_thread import MOST_SLICE_TEXTS, QUERY_TEXTS, ModelThread
from tests.support.indexed_course import DIMENSIONS, vector_of
from tests.support.product import wait_until


class StubModel(Embedder):
    """Each pass may be held; texts that say so fail."""

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

    def embed_documents(self, texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> Embeddings:
        return self._embed("document", texts)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        return self._embed("query", texts)

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
    """A thread with a model, and callers."""

    def __init__(self, queue_limit: int = 100) -> None:
        self.model = StubModel()
        self.thread = ModelThread(lambda: self.model, queue_limit)
        self.pool = ThreadPoolExecutor(130)

    def query(self, *texts: str) -> "Future[Embeddings]":
        return self._submit(self.thread.embed_queries, self.thread._queries, texts)

    def bulk(self, *texts: str) -> "Future[Embeddings]":
        return self._submit(self.thread.embed_documents, self.thread._bulk, texts)

    def busy(self) -> "Future[Embeddings]":
        """A query that has the model."""
        call = self.query("first")
        wait_until(lambda: bool(self.model.passes), 10, lambda: "no pass began", every=0.001)
        return call

    def _submit(
        self, call: Callable[[Sequence[str]], Embeddings], queue: model_thread._Queue, texts: Sequence[str]
    ) -> "Future[Embeddings]":
        """Returns when the call is in the queue or has the model: the order of calls is that of the test."""
        seen = sum(map(len, self.model.passes)) + len(queue.calls)
        future = self.pool.submit(call, texts)
        wait_until(
            lambda: sum(map(len, self.model.passes)) + len(queue.calls) > seen or future.done(),
            10,
            lambda: "the call did not begin",
            every=0.001,
        )
        return future


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.thread.close()
    stage.pool.shutdown()
    assert not stage.thread._thread.is_alive()


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


def test_calls_of_many_queries_are_not_torn(stage: Stage) -> None:
    many = [f"m{number}" for number in range(QUERY_TEXTS + 4)]
    with stage.model.held():
        calls = [stage.busy(), stage.query("a", "b"), stage.query(*many), stage.query("c")]
    assert np.array_equal(calls[2].result().vectors, np.stack([vector_of(text) for text in many]))
    assert np.array_equal(calls[3].result().vectors, vector_of("c")[None])
    assert [len(texts) for texts in stage.model.passes] == [1, 2, len(many), 1]


def test_a_query_alone_does_not_wait_for_others(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_thread, "WINDOW_SECONDS", 20.0)
    for number in range(3):
        stage.query(str(number)).result(timeout=10)


def test_those_who_shared_a_pass_are_waited_for(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """They come back one after the other within a millisecond or two; the first must not start a pass of its own."""
    monkeypatch.setattr(model_thread, "WINDOW_SECONDS", 20.0)
    with stage.model.held():
        calls = [stage.busy(), stage.query("a"), stage.query("b"), stage.query("c")]
    assert all(call.result() for call in calls)
    calls = [stage.query("d"), stage.query("e"), stage.query("f")]
    assert all(call.result(timeout=10) for call in calls)
    assert stage.model.passes[-1] == ["query d", "query e", "query f"]


def test_queries_go_between_the_slices_of_bulk_work(stage: Stage) -> None:
    with stage.model.held() as let_one_go:
        bulk = stage.bulk(*(f"b{number}" for number in range(9)))
        wait_until(lambda: bool(stage.model.passes), 10, lambda: "no pass began", every=0.001)
        later = stage.bulk("later")
        query = stage.query("q")
        let_one_go()
        let_one_go()
        assert query.result(timeout=10)
        assert not bulk.done()
    assert np.array_equal(bulk.result().vectors, np.stack([vector_of(f"b{number}") for number in range(9)]))
    assert later.result()
    kinds = [texts[0].split()[0] for texts in stage.model.passes]
    assert kinds[:3] == ["document", "query", "document"]
    assert stage.model.passes[-1] == ["document later"], "bulk calls take turns in the order they came"


def test_slices_grow_where_the_model_is_fast_and_shrink_where_it_is_slow(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_thread, "SLICE_SECONDS", 1000.0)
    stage.bulk(*map(str, range(200))).result()
    assert [len(texts) for texts in stage.model.passes] == [4, 8, 16, 32, 64, 64, 12]
    stage.model.passes.clear()
    monkeypatch.setattr(model_thread, "SLICE_SECONDS", 0.0)
    stage.bulk(*map(str, range(MOST_SLICE_TEXTS + 2))).result()
    assert [len(texts) for texts in stage.model.passes] == [64, 1, 1]


def test_one_thread_has_the_model(stage: Stage) -> None:
    for call in [stage.query("a"), stage.bulk("b"), stage.query("c")]:
        call.result()
    assert stage.model.threads == {"embedding"}


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
    stage.thread.close()
    stage.pool.shutdown()


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
        stage.bulk("a", "b", "c", "poison", *"defg").result()
    assert stage.bulk("x").result()
    assert [len(texts) for texts in stage.model.passes] == [4, 1]


def test_a_call_that_nobody_waits_for_any_more_is_dropped(stage: Stage) -> None:
    with stage.model.held():
        first = stage.busy()
        abandoned = [stage.query("a"), stage.bulk("b")]
        for queue in (stage.thread._queries, stage.thread._bulk):
            queue.calls[-1].is_wanted = False
    assert first.result()
    assert stage.query("after").result()
    assert stage.bulk("after").result()
    assert stage.model.passes == [["query first"], ["query after"], ["document after"]]
    assert all(isinstance(call.exception(timeout=10), CancelledError) for call in abandoned)
    for queue in (stage.thread._queries, stage.thread._bulk):
        assert not queue.calls


def test_closing_ends_after_the_pass_that_runs(stage: Stage) -> None:
    with stage.model.held(), ThreadPoolExecutor(1) as pool:
        running = stage.busy()
        waiting = [stage.bulk("a"), stage.query("b")]
        closing = pool.submit(stage.thread.close)
        wait_until(lambda: stage.thread._closed, 10, lambda: "not closed", every=0.001)
        with pytest.raises(EmbeddingServiceUnavailableError, match="being stopped"):
            stage.thread.embed_queries(["late"])
        assert not running.done()
        stage.model._places.release()
        closing.result(timeout=10)
        assert running.result()
        for call in waiting:
            with pytest.raises(EmbeddingServiceUnavailableError, match="being stopped"):
                call.result()
    assert stage.model.passes == [["query first"]]


def test_bulk_work_has_its_turn_among_queries_without_end(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_thread, "OVERDUE_SECONDS", 0.05)
    bulk = stage.pool.submit(stage.thread.embed_documents, [f"b{number}" for number in range(20)])
    asking = True

    def ask_on() -> None:
        while asking:
            stage.thread.embed_queries(["q"])

    callers = [stage.pool.submit(ask_on) for _ in range(16)]
    assert len(bulk.result(60).vectors) == 20
    asking = False
    for caller in callers:
        caller.result()


def test_slices_that_do_not_fit_together_fail_their_call_alone(stage: Stage) -> None:
    embed = stage.model.embed_documents
    sizes = iter((3, 5))

    def change(texts: Sequence[str], on_progress: Callable[[int], None] | None = None) -> Embeddings:
        made = embed(texts)
        return Embeddings(made.vectors[:, : next(sizes, 5)], made.token_counts, 0)

    stage.model.embed_documents = change  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="dimension"):
        stage.thread.embed_documents([f"b{number}" for number in range(6)])
    assert len(stage.thread.embed_queries(["still there"]).vectors) == 1

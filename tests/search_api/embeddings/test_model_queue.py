"""The model queue: queries share batches and go before bulk work, and every call ends."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager

import numpy as np
import pytest

from embedding.errors import EmbeddingError, EmbeddingServiceUnreachableError
from embedding.interface import Embedder, Embeddings, Pause, concatenate_embeddings, no_pause
from search_api.embeddings import model_queue
from search_api.embeddings.model_queue import BULK_PASS_SIZE, QUERY_BATCH_SIZE, ModelQueue
from search_api.http.errors import EmbeddingServiceUnavailableError, OverloadedError
from tests.support.indexed_course import DIMENSIONS, vector_of
from tests.support.product import wait_until

LIMIT_SECONDS = 120
FOREVER = threading.TIMEOUT_MAX
ANY_NUMBER = 10**6


class StubModel(Embedder):
    """Computes queries in batches and documents one by one. Batches can be blocked, and certain texts fail."""

    def __init__(self) -> None:
        self.max_tokens = 8
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self._permits = {"query": threading.Semaphore(ANY_NUMBER), "document": threading.Semaphore(ANY_NUMBER)}

    @contextmanager
    def blocked(self, *kinds: str) -> Iterator[Callable[[str], None]]:
        """Let no batch of these kinds (all by default) end before the block does; the yielded function lets one end."""
        blocked = {kind: threading.Semaphore(0) for kind in kinds or self._permits}
        self._permits |= blocked
        try:
            yield lambda kind: blocked[kind].release()
        finally:
            for permits in blocked.values():
                permits.release(ANY_NUMBER)

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
        self.batches.append([f"{kind} {text}" for text in texts])
        self.threads.add(threading.current_thread().name)
        assert self._permits[kind].acquire(timeout=LIMIT_SECONDS)
        for text in texts:
            if text == "unreachable":
                raise EmbeddingServiceUnreachableError("unreachable")
            if text == "bad":
                raise EmbeddingError("bad has a vector that is not finite")
        counts = tuple(min(len(text), self.max_tokens) for text in texts)
        return Embeddings(
            np.stack([vector_of(text) for text in texts]), counts, sum(len(text) > self.max_tokens for text in texts)
        )


class Calls:
    """Makes calls to a model queue on other threads."""

    def __init__(self, queue_limit: int = 100) -> None:
        self.model = StubModel()
        self.queue = ModelQueue(lambda: self.model, queue_limit)
        self.pool = ThreadPoolExecutor(130)

    def query(self, *texts: str) -> "Future[Embeddings]":
        return self.pool.submit(self.queue.embed_queries, texts)

    def bulk(self, *texts: str) -> "Future[Embeddings]":
        return self.pool.submit(self.queue.embed_documents, texts)

    def start_query(self, *texts: str) -> "Future[Embeddings]":
        """A query that the blocked model is computing."""
        return self._started(lambda: self.query(*texts))

    def start_bulk(self, *texts: str) -> "Future[Embeddings]":
        """A bulk call that the blocked model is computing."""
        return self._started(lambda: self.bulk(*texts))

    def enqueue_query(self, *texts: str) -> "Future[Embeddings]":
        """A query that waits, or was refused, while the model computes others."""
        waiting = self.queue.waiting_queries
        call = self.query(*texts)
        _wait(lambda: self.queue.waiting_queries > waiting or call.done())
        return call

    def enqueue_bulk(self, *texts: str) -> "Future[Embeddings]":
        """A bulk call that waits, or was refused, while the model computes another."""
        waiting = self.queue.waiting_bulk_calls
        call = self.bulk(*texts)
        _wait(lambda: self.queue.waiting_bulk_calls > waiting or call.done())
        return call

    def close(self) -> None:
        self.queue.close()
        self.pool.shutdown()

    def _started(self, submit: "Callable[[], Future[Embeddings]]") -> "Future[Embeddings]":
        batches = len(self.model.batches)
        call = submit()
        _wait(lambda: len(self.model.batches) > batches)
        return call


def _wait(condition: Callable[[], bool]) -> None:
    wait_until(condition, LIMIT_SECONDS, lambda: "the call is neither running nor waiting", every=0.001)


@pytest.fixture
def calls() -> Iterator[Calls]:
    before = {*threading.enumerate()}
    with closing(Calls()) as calls:
        yield calls
    assert {*threading.enumerate()} <= before


def test_waiting_queries_share_a_batch(calls: Calls) -> None:
    with calls.model.blocked():
        calls.start_query("first")
        queries = [calls.enqueue_query(f"q{number}") for number in range(8)]
    for number, query in enumerate(queries):
        assert np.array_equal(query.result().vectors, vector_of(f"q{number}")[None])
    assert calls.model.batches == [["query first"], [f"query q{number}" for number in range(8)]]


def test_batch_size_is_limited(calls: Calls) -> None:
    with calls.model.blocked():
        queries = [calls.start_query("first"), *(calls.enqueue_query(str(n)) for n in range(QUERY_BATCH_SIZE + 1))]
    assert all(query.result() for query in queries)
    assert [len(batch) for batch in calls.model.batches] == [1, QUERY_BATCH_SIZE, 1]


def test_call_with_many_queries_lets_others_interleave(calls: Calls) -> None:
    many = [f"m{number}" for number in range(2 * QUERY_BATCH_SIZE + 4)]
    with calls.model.blocked():
        queries = [
            calls.start_query("first"),
            calls.enqueue_query(*many),
            calls.enqueue_query("a"),
            calls.enqueue_query("b"),
        ]
    assert np.array_equal(queries[1].result().vectors, np.stack([vector_of(text) for text in many]))
    assert all(query.result() for query in queries)
    assert [len(batch) for batch in calls.model.batches[:2]] == [1, QUERY_BATCH_SIZE]
    assert {"query a", "query b"} <= set(calls.model.batches[2]), "they wait for one batch of the large call, not three"


def test_single_query_does_not_wait_for_others(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_queue, "BATCH_WINDOW_SECONDS", FOREVER)
    for number in range(3):
        assert calls.query(str(number)).result()


def test_batch_waits_for_as_many_queries_as_the_last_one(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients send their next queries within milliseconds; the first one must not start a batch alone."""
    monkeypatch.setattr(model_queue, "BATCH_WINDOW_SECONDS", FOREVER)
    with calls.model.blocked():
        queries = [calls.start_query("first"), *(calls.enqueue_query(text) for text in "abc")]
    assert all(query.result() for query in queries)
    queries = [calls.enqueue_query("d"), calls.enqueue_query("e"), calls.query("f")]
    assert all(query.result() for query in queries)
    assert calls.model.batches[-1] == ["query d", "query e", "query f"]


def test_bulk_work_pauses_for_queries(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_queue, "MAX_PAUSE_SECONDS", FOREVER)
    monkeypatch.setattr(model_queue, "PAUSE_FACTOR", 10**12)
    with calls.model.blocked() as release:
        bulk = calls.start_bulk("b0", "b1", "b2")
        later = calls.enqueue_bulk("later")
        queries = [calls.start_query("q0"), calls.enqueue_query("q1")]
        release("document")
        for query in queries:
            release("query")
            assert query.result()
        assert not bulk.done()
    assert np.array_equal(bulk.result().vectors, np.stack([vector_of(f"b{number}") for number in range(3)]))
    assert later.result()
    assert calls.model.batches == [
        ["document b0"],
        ["query q0"],
        ["query q1"],
        ["document b1"],
        ["document b2"],
        ["document later"],
    ], "bulk calls are computed in the order of their arrival"


def test_bulk_calls_take_turns(calls: Calls) -> None:
    """A call with thousands of documents delays the others by one pass, and gets its vectors in order."""
    texts = [str(number) for number in range(2 * BULK_PASS_SIZE + 1)]
    with calls.model.blocked("document"):
        large = calls.start_bulk(*texts)
        small = calls.enqueue_bulk("small")
    assert small.result()
    assert np.array_equal(large.result().vectors, np.stack([vector_of(text) for text in texts]))
    documents = [text for (text,) in calls.model.batches]
    assert documents.index("document small") == BULK_PASS_SIZE


def test_large_bulk_call_keeps_its_place() -> None:
    """Between its passes, no other call takes the last free place, so it is never refused after it began."""
    calls = Calls(queue_limit=0)
    with closing(calls):
        with calls.model.blocked("document"):
            large = calls.start_bulk(*["x"] * (BULK_PASS_SIZE + 1))
            with pytest.raises(OverloadedError):
                calls.bulk("other").result()
        assert len(large.result().vectors) == BULK_PASS_SIZE + 1


def test_bulk_work_resumes_although_a_query_is_still_computed(calls: Calls, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_queue, "MAX_PAUSE_SECONDS", 0.01)
    with calls.model.blocked("query"):
        query = calls.start_query("q")
        assert len(calls.bulk("a", "b", "c").result().vectors) == 3
        assert not query.done()
    assert query.result()


def test_queries_and_documents_have_one_thread_each(calls: Calls) -> None:
    for call in (calls.query, calls.bulk, calls.query, calls.bulk):
        assert call("text").result()
    assert calls.model.threads == {"embedding-queries", "embedding-bulk_0"}


def test_each_call_gets_its_own_token_counts(calls: Calls) -> None:
    with calls.model.blocked():
        queries = [calls.start_query("first"), calls.enqueue_query("short"), calls.enqueue_query("much too long", "x")]
    assert [query.result().token_counts for query in queries] == [(5,), (5,), (8, 1)]
    assert [query.result().truncated for query in queries] == [0, 0, 1]
    bulk = calls.bulk(*["much too long"] * 5).result()
    assert (bulk.truncated, bulk.token_counts, bulk.vectors.shape) == (5, (8,) * 5, (5, DIMENSIONS))


# Limits


def test_each_queue_has_a_separate_limit() -> None:
    with closing(Calls(queue_limit=1)) as calls:
        with calls.model.blocked():
            accepted = [
                calls.start_bulk("a"),
                calls.enqueue_bulk("b"),
                calls.start_query("c"),
                calls.enqueue_query("d"),
            ]
            for refused in (calls.bulk("e"), calls.query("f")):
                with pytest.raises(OverloadedError):
                    refused.result()
        assert all(call.result() for call in accepted)
        assert calls.bulk("g").result()


# Failures


def test_bad_query_does_not_fail_the_others(calls: Calls) -> None:
    with calls.model.blocked():
        queries = {"first": calls.start_query("first")}
        queries |= {text: calls.enqueue_query(text) for text in ("good", "bad", "fine")}
    with pytest.raises(EmbeddingError, match="bad"):
        queries.pop("bad").result()
    for text, query in queries.items():
        assert np.array_equal(query.result().vectors, vector_of(text)[None])


def test_unreachable_service_is_called_once_per_batch(calls: Calls) -> None:
    with calls.model.blocked():
        queries = [calls.start_query("first"), calls.enqueue_query("a"), calls.enqueue_query("unreachable")]
    assert queries[0].result()
    for query in queries[1:]:
        with pytest.raises(EmbeddingServiceUnreachableError):
            query.result()
    assert len(calls.model.batches) == 2


def test_failed_bulk_call_stops(calls: Calls) -> None:
    with pytest.raises(EmbeddingError):
        calls.bulk("a", "bad", "b").result()
    assert calls.bulk("x").result()
    assert calls.model.batches == [["document a"], ["document bad"], ["document x"]]


def test_close_finishes_running_batches_only(calls: Calls) -> None:
    with calls.model.blocked():
        bulk, query = calls.start_bulk("a", "b", "c"), calls.start_query("d")
        waiting = [calls.enqueue_bulk("e"), calls.enqueue_query("f")]
        close = calls.pool.submit(calls.queue.close)
        _wait(lambda: calls.queue.is_closed)
        for call in (calls.queue.embed_queries, calls.queue.embed_documents):
            with pytest.raises(OverloadedError, match="being stopped"):
                call(["late"])
        assert not close.done()
    close.result()
    assert query.result()
    for unfinished in (bulk, *waiting):
        with pytest.raises(OverloadedError, match="being stopped"):
            unfinished.result()
    assert calls.model.batches == [["document a"], ["query d"]]


def test_stop_bulk_does_not_stop_queries(calls: Calls) -> None:
    with calls.model.blocked():
        bulk = calls.start_bulk("a", "b")
        calls.queue.stop_bulk()
    for call in (bulk, calls.bulk("late")):
        with pytest.raises(OverloadedError, match="being stopped"):
            call.result()
    assert calls.query("q").result()
    assert calls.model.batches == [["document a"], ["query q"]]


def test_bulk_calls_end_while_the_service_is_known_to_be_away(calls: Calls) -> None:
    """Otherwise each would wait for several time-outs of the service, and hold up all others."""
    with calls.model.blocked() as let_end:
        running, waiting = calls.start_bulk("a", "b"), calls.enqueue_bulk("c")
        calls.queue._breaker.open(EmbeddingError("away for ever"))
        let_end("document")
        for call in (running, waiting, calls.bulk("d")):
            with pytest.raises(EmbeddingServiceUnavailableError, match="away for ever"):
                call.result(LIMIT_SECONDS)
    assert calls.model.batches == [["document a"]]

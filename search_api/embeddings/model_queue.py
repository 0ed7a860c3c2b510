"""Shares the embedding model between threads: one thread for queries, one for bulk work, each with a queue.

Queries that arrive while others are computed share the next batch: a batch of eight costs little more than one query.
Bulk calls are computed one after the other, large ones in passes, between which the others have their turn. A query
interrupts them before the next layer of the model, so it waits for a fraction of a second; bulk work then resumes at
that layer. Both queues are bounded: further calls are refused at once, because an unbounded queue would turn a burst of
calls into minutes of waiting. A call whose caller has gone leaves its queue.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from contextvars import copy_context
from functools import partial

from embedding.errors import EmbeddingError, EmbeddingServiceError
from embedding.interface import Embedder, Embeddings, concatenate_embeddings
from embedding.service.client import ModelFailedError, RequestRefusedError, RequestTimeoutError
from search_api.embeddings.circuit_breaker import CircuitBreaker
from search_api.http.caller import unless_caller_leaves
from search_api.http.errors import OverloadedError
from search_api.http.waits import take_slot
from search_api.operations.measures import ModelMeasures
from telemetry.traces import record_span, span

QUERY_BATCH_SIZE = 16
"""Maximum number of queries in a batch; the first query of a larger one would wait too long for the last."""
BATCH_WINDOW_SECONDS = 0.002
"""Maximum wait for a batch as large as the previous one: a busy client sends its next query when it has an answer.
After a batch of one query there is no wait."""
QUERY_SECONDS = 10.0
"""How long a search waits for an embedding service: for its place in the queue, connecting, retries and the answer."""
PAUSE_FACTOR = 2
"""Maximum pause of bulk work, as a multiple of the time it computed since its last pause. So bulk work makes progress
even if queries never stop."""
MAX_PAUSE_SECONDS = 0.2
"""Maximum pause of bulk work in seconds before a layer of the model."""
BULK_PASS_SIZE = 64
"""Number of documents of one bulk call that are computed before another call has its turn: the most that `POST /embed`
accepts by default, so a large call costs the others as much as a small one."""


class ModelQueue:
    """Queues calls for the embedding model, queries before bulk work. Threads may share it.

    Args:
        model: Returns the model; called before every batch.
        queue_limit: Maximum number of calls that may wait in each of the two queues, in addition to the running call.
        breaker: Refuses calls while the embedding service is known to be away.
        measures: What is measured.
    """

    def __init__(
        self,
        model: Callable[[], Embedder],
        queue_limit: int,
        breaker: CircuitBreaker | None = None,
        measures: ModelMeasures | None = None,
    ) -> None:
        self._model = model
        self._breaker = breaker or CircuitBreaker()
        self._measures = measures or ModelMeasures()
        self._query_slots = threading.Semaphore(queue_limit + 1)
        self._bulk_slots = threading.Semaphore(queue_limit + 1)
        self._queries: deque[_QueryCall] = deque()
        self._bulk_calls: set[Future[Embeddings]] = set()
        self._is_computing_queries = False
        self._is_bulk_stopped = self._is_closed = False
        self._changed = threading.Condition()
        self._bulk = ThreadPoolExecutor(1, thread_name_prefix="embedding-bulk")
        self._resumed = threading.local()
        self._query_thread = threading.Thread(target=self._compute_queries, name="embedding-queries", daemon=True)
        self._query_thread.start()

    @property
    def waiting_queries(self) -> int:
        """Number of queries that wait for a batch."""
        with self._changed:
            return sum(not call.result.cancelled() for call in self._queries)

    @property
    def waiting_bulk_calls(self) -> int:
        """Number of bulk calls that have not started."""
        with self._changed:
            return sum(not (call.running() or call.done()) for call in self._bulk_calls)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; all further calls are refused."""
        return self._is_closed

    def query_slot(self) -> AbstractContextManager[None]:
        """Hold a slot of the queue for queries during the block.

        Raises:
            OverloadedError: The queue is full.
        """
        return take_slot(self._query_slots, "the embedding model", self._measures.queries.refused.inc)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of queries. Calls with many queries are split into batches, with other calls in between.

        Raises:
            OverloadedError: The queue is full, or the app is stopping.
            EmbeddingServiceUnavailableError: There is no model, or its service is known to be away.
            EmbeddingError: The model failed.
        """
        self._breaker.check()
        with self.query_slot():
            parts: list[Embeddings] = []
            for start in range(0, len(texts), QUERY_BATCH_SIZE):
                if self._is_bulk_stopped and parts:
                    raise _stopping()
                parts += self._embed_one_batch(texts[start : start + QUERY_BATCH_SIZE])
            return concatenate_embeddings(parts, parts[0].vectors.shape[1] if parts else self._model().dimensions)

    def submit_queries(self, texts: Sequence[str]) -> list[Future[Embeddings]]:
        """Append queries to the queue, for a caller that holds a `query_slot`.

        Returns:
            One result per text. A text whose result is cancelled before its batch begins is not computed.

        Raises:
            OverloadedError: The app is stopping.
        """
        calls = [_QueryCall(text) for text in texts]
        with self._changed:
            if self._is_closed:
                raise _stopping()
            self._queries.extend(calls)
            self._changed.notify_all()
        return [call.result for call in calls]

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of documents, computed while no query waits; errors as `embed_queries`.

        Calls take turns: one with many documents is computed in passes, with passes of the others in between. If a
        query finds that the embedding service is away, they end before their next request to it.
        """
        self._breaker.check()
        with take_slot(self._bulk_slots, "the embedding model", self._measures.bulk.refused.inc):
            starts = range(0, max(len(texts), 1), BULK_PASS_SIZE)
            parts = [self._embed_one_pass(texts[start : start + BULK_PASS_SIZE]) for start in starts]
            return concatenate_embeddings(parts, parts[0].vectors.shape[1])

    def stop_bulk(self) -> None:
        """Stop bulk work before its next layer, and calls with many queries before their next batch; they fail."""
        with self._changed:
            self._is_bulk_stopped = True
            self._changed.notify_all()
        self._bulk.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """Stop bulk work, and queries after the current batch; waiting calls fail."""
        self.stop_bulk()
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        self._query_thread.join()
        self._bulk.shutdown()

    def _embed_one_pass(self, texts: Sequence[str]) -> Embeddings:
        has_left = threading.Event()
        queued_at, queued_ns = time.perf_counter(), time.time_ns()
        measures = self._measures.bulk

        def compute() -> Embeddings:
            started = time.perf_counter()
            measures.wait_seconds.observe(started - queued_at)
            record_span("queue", queued_ns)
            with span("batch", texts=len(texts)):
                embeddings = self._model().embed_documents(texts, pause=pause)
            measures.computed(embeddings.token_counts, time.perf_counter() - started)
            return embeddings

        def pause() -> None:
            if has_left.is_set():
                raise CancelledError
            self._breaker.check()
            self._yield_to_queries()

        def leave() -> None:
            has_left.set()
            call.cancel()

        with self._changed:
            if self._is_bulk_stopped:
                raise _stopping()
            call = self._bulk.submit(copy_context().run, compute)
            self._bulk_calls.add(call)
        try:
            with unless_caller_leaves(leave):
                return call.result()
        except CancelledError:
            raise _stopping() from None
        finally:
            with self._changed:
                self._bulk_calls.discard(call)

    def _embed_one_batch(self, texts: Sequence[str]) -> list[Embeddings]:
        results = self.submit_queries(texts)

        def leave() -> None:
            for result in results:
                result.cancel()

        try:
            with unless_caller_leaves(leave):
                return [result.result() for result in results]
        finally:
            leave()  # if one has failed, nobody waits for the others

    # On the threads that compute bulk work

    def _yield_to_queries(self) -> None:
        """Wait while there are queries.

        The wait is at most `PAUSE_FACTOR` times as long as this thread has computed since its last pause, and at most
        MAX_PAUSE_SECONDS.

        Raises:
            OverloadedError: Bulk work was stopped.
        """
        computed_seconds = time.monotonic() - getattr(self._resumed, "at", 0.0)
        with self._changed:
            self._changed.wait_for(self._may_resume_bulk, min(PAUSE_FACTOR * computed_seconds, MAX_PAUSE_SECONDS))
            if self._is_bulk_stopped:
                raise _stopping()
        self._resumed.at = time.monotonic()

    def _may_resume_bulk(self) -> bool:
        return self._is_bulk_stopped or not (self._queries or self._is_computing_queries)

    # On the thread that computes queries

    def _compute_queries(self) -> None:
        batch: list[_QueryCall] = []
        while True:
            with self._changed:
                self._is_computing_queries = False
                self._changed.notify_all()
                self._changed.wait_for(partial(self._has_queries, 1))
                self._changed.wait_for(partial(self._has_queries, len(batch)), BATCH_WINDOW_SECONDS)
                if self._is_closed:
                    break
                batch = self._take_batch()
                self._is_computing_queries = bool(batch)
            if batch:
                self._embed_batch(batch)
        for call in self._queries:
            if call.result.set_running_or_notify_cancel():
                call.result.set_exception(_stopping())

    def _has_queries(self, number: int) -> bool:
        return self._is_closed or len(self._queries) >= number

    def _take_batch(self) -> "list[_QueryCall]":
        """Remove the first calls from the queue, as many as fit into a batch, and those whose callers have gone."""
        batch: list[_QueryCall] = []
        now = time.perf_counter()
        while self._queries and len(batch) < QUERY_BATCH_SIZE:
            call = self._queries.popleft()
            if call.result.set_running_or_notify_cancel():
                batch.append(call)
                self._measures.queries.wait_seconds.observe(now - call.queued_at)
        return batch

    def _embed_batch(self, calls: Sequence["_QueryCall"]) -> None:
        """Compute the queries together. If the model refuses them, compute each alone, so that a bad one fails alone.

        If the embedding service cannot be reached, or there is no model, all fail at once. So do those for which there
        is no time after QUERY_SECONDS.
        """
        deadline = time.monotonic() + QUERY_SECONDS
        try:
            results = self._compute_traced(calls)
        except Exception as error:  # noqa: BLE001 - the callers raise it
            repeats = len(calls) > 1 and is_about_texts(error)
            for call in calls:
                if repeats and time.monotonic() < deadline:
                    self._embed_batch([call])
                else:
                    call.result.set_exception(error)
            return
        for call, result in zip(calls, results, strict=True):
            call.result.set_result(result)

    def _compute_traced(self, calls: Sequence["_QueryCall"]) -> list[Embeddings]:
        """The same as `_compute`. Each caller's trace shows its time in the queue and the batch.

        Requests to an embedding service are parts of the trace of the first caller.
        """
        first, *others = calls
        started_ns = time.time_ns()
        for call in calls:
            call.context.run(record_span, "queue", call.queued_ns)

        def compute() -> list[Embeddings]:
            with span("batch", texts=len(calls)):
                return self._compute([call.text for call in calls])

        try:
            return first.context.run(compute)
        finally:
            for call in others:
                call.context.run(record_span, "batch", started_ns, texts=len(calls))

    def _compute(self, texts: Sequence[str]) -> list[Embeddings]:
        """Embed the queries at once; one result per text."""
        model = self._model()
        with self._breaker.attempt():
            started = time.perf_counter()
            together = model.embed_queries(texts)
            self._measures.queries.computed(together.token_counts, time.perf_counter() - started)
        results = []
        for index, used in enumerate(together.token_counts):
            whole = together.whole_token_counts
            if whole is not None:
                truncated = whole[index] > used
            else:
                # The model reports only how many texts of the batch it truncated. Those have max_tokens tokens; an
                # untruncated text of exactly max_tokens tokens is counted too.
                truncated = bool(together.truncated) and used >= model.max_tokens
            results.append(
                Embeddings(
                    together.vectors[index : index + 1],
                    (used,),
                    int(truncated),
                    None if whole is None else (whole[index],),
                )
            )
        return results


class _QueryCall:
    """A query in the queue, and its future result."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.queued_at = time.perf_counter()
        self.result: Future[Embeddings] = Future()
        self.queued_ns = time.time_ns()
        self.context = copy_context()  # has the trace and the id of the request


def is_about_texts(error: Exception) -> bool:
    """Whether an error may be about one text of a batch, and not about the service or its connection."""
    if isinstance(error, EmbeddingServiceError):
        return isinstance(error, (RequestRefusedError, ModelFailedError)) and not isinstance(error, RequestTimeoutError)
    return isinstance(error, EmbeddingError)


def _stopping() -> OverloadedError:
    """A retryable error: another instance may answer, or this app after its restart."""
    return OverloadedError("The app is being stopped; try again in a moment")

"""Shares the embedding model between threads: one thread for queries, one for bulk work, each with a queue.

Queries that arrive while others are computed share the next batch: a batch of eight costs little more than one query.
Bulk calls are computed one after the other. A query interrupts them before the next layer of the model, so it waits for
a fraction of a second; bulk work then resumes at that layer. Both queues are bounded: further calls are refused at
once, because an unbounded queue would turn a burst of calls into minutes of waiting.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

from embedding.errors import EmbeddingServiceError
from embedding.interface import Embedder, Embeddings, concatenate_embeddings
from search_api.http.errors import EmbeddingServiceUnavailableError, OverloadedError

QUERY_BATCH_SIZE = 16
"""Maximum number of queries in a batch; the first query of a larger one would wait too long for the last."""
BATCH_WINDOW_SECONDS = 0.002
"""Maximum wait for a batch as large as the previous one: a busy client sends its next query when it has an answer.
After a batch of one query there is no wait."""
PAUSE_FACTOR = 2
"""Maximum pause of bulk work, as a multiple of the time it computed since its last pause. So bulk work makes progress
even if queries never stop."""
MAX_PAUSE_SECONDS = 0.2
"""Maximum pause of bulk work in seconds before a layer of the model."""


@contextmanager
def take_slot(slots: threading.Semaphore) -> Iterator[None]:
    """Hold one of the slots during the block.

    Raises:
        OverloadedError: No slot is free.
    """
    if not slots.acquire(blocking=False):
        raise OverloadedError
    try:
        yield
    finally:
        slots.release()


class ModelQueue:
    """Queues calls for the embedding model, queries before bulk work. Threads may share it.

    Args:
        model: Returns the model; called before every batch.
        queue_limit: Maximum number of calls that may wait in each of the two queues, in addition to the running call.
    """

    def __init__(self, model: Callable[[], Embedder], queue_limit: int) -> None:
        self._model = model
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
        """Number of query calls that wait for a batch."""
        with self._changed:
            return len(self._queries)

    @property
    def waiting_bulk_calls(self) -> int:
        """Number of bulk calls that have not started."""
        with self._changed:
            return sum(not (call.running() or call.done()) for call in self._bulk_calls)

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called; all further calls are refused."""
        return self._is_closed

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of queries. Calls with many queries are split into batches, with other calls in between.

        Raises:
            OverloadedError: The queue is full, or the app is stopping.
            EmbeddingServiceUnavailableError: There is no model.
            EmbeddingError: The model failed.
        """
        with take_slot(self._query_slots):
            parts = [self._embed_one_batch(texts[:QUERY_BATCH_SIZE])]
            for start in range(QUERY_BATCH_SIZE, len(texts), QUERY_BATCH_SIZE):
                if self._is_bulk_stopped:
                    raise _stopping()
                parts.append(self._embed_one_batch(texts[start : start + QUERY_BATCH_SIZE]))
            return concatenate_embeddings(parts, parts[0].vectors.shape[1])

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of documents, computed while no query waits; errors as `embed_queries`."""
        with take_slot(self._bulk_slots):
            with self._changed:
                if self._is_bulk_stopped:
                    raise _stopping()
                call = self._bulk.submit(lambda: self._model().embed_documents(texts, pause=self._yield_to_queries))
                self._bulk_calls.add(call)
            try:
                return call.result()
            except CancelledError:
                raise _stopping() from None
            finally:
                with self._changed:
                    self._bulk_calls.discard(call)

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

    def _embed_one_batch(self, texts: Sequence[str]) -> Embeddings:
        call = _QueryCall(texts)
        with self._changed:
            if self._is_closed:
                raise _stopping()
            self._queries.append(call)
            self._changed.notify_all()
        return call.result.result()

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
                self._is_computing_queries = True
            self._embed_batch(batch)
        for call in self._queries:
            call.result.set_exception(_stopping())

    def _has_queries(self, number: int) -> bool:
        return self._is_closed or len(self._queries) >= number

    def _take_batch(self) -> "list[_QueryCall]":
        """Remove the first calls from the queue, as many as fit into a batch."""
        batch = [self._queries.popleft()]
        room = QUERY_BATCH_SIZE - len(batch[0].texts)
        while self._queries and len(self._queries[0].texts) <= room:
            batch.append(self._queries.popleft())
            room -= len(batch[-1].texts)
        return batch

    def _embed_batch(self, calls: Sequence["_QueryCall"]) -> None:
        """Compute the calls together. If that fails, compute each alone, so that one bad text fails only its call.

        If the embedding service failed or there is no model, all calls fail at once.
        """
        try:
            results = self._compute([call.texts for call in calls])
        except Exception as error:  # noqa: BLE001 - the callers raise it
            if len(calls) == 1 or isinstance(error, (EmbeddingServiceError, EmbeddingServiceUnavailableError)):
                for call in calls:
                    call.result.set_exception(error)
            else:
                for call in calls:
                    self._embed_batch([call])
            return
        for call, result in zip(calls, results, strict=True):
            call.result.set_result(result)

    def _compute(self, calls: Sequence[Sequence[str]]) -> list[Embeddings]:
        """Embed the texts of several calls at once; one result per call."""
        model = self._model()
        together = model.embed_queries([text for texts in calls for text in texts])
        results = []
        start = 0
        for texts in calls:
            end = start + len(texts)
            counts, whole = together.token_counts[start:end], together.whole_token_counts
            if whole is not None:
                whole = whole[start:end]
                truncated = sum(all_tokens > used for all_tokens, used in zip(whole, counts, strict=True))
            else:
                # The model reports only how many texts of the batch it truncated. Those have max_tokens tokens; an
                # untruncated text of exactly max_tokens tokens is counted too.
                truncated = sum(count >= model.max_tokens for count in counts) if together.truncated else 0
            results.append(Embeddings(together.vectors[start:end], counts, truncated, whole))
            start = end
        return results


class _QueryCall:
    """Queries that are computed in one batch: all of a call, or a part of them."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.result: Future[Embeddings] = Future()


def _stopping() -> OverloadedError:
    """A retryable error: another instance may answer, or this app after its restart."""
    return OverloadedError("The app is being stopped; try again in a moment")

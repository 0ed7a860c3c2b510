"""The embedding model as many threads share it: a thread for queries, one for bulk work, and a queue before each.

Queries that come while others are computed share the next pass: eight cost little more than one. Bulk calls are done
one after the other. They stop before the next layer of the model as soon as a query comes, so it waits for a small part
of a second at most, and go on from there. Both queues have an end: beyond it a call is turned away at once, since a
queue without one turns a burst into minutes of waiting.
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

QUERY_TEXTS = 16
"""Queries of a pass: more would make the first of them wait for the last."""
WINDOW_SECONDS = 0.002
"""How long a pass waits for those who shared the last one: they come back with their next query at once, if at all. A
query that comes alone never waits."""
PAUSES = 2
"""Bulk work that is stopped again and again goes on after so many times its own time: queries may come without end."""
LONGEST_PAUSE_SECONDS = 0.2
"""How long a layer of bulk work waits for queries at most."""


@contextmanager
def one_slot(places: threading.Semaphore) -> Iterator[None]:
    """Take a place for as long as the block lasts.

    Raises:
        OverloadedError: none is free.
    """
    if not places.acquire(blocking=False):
        raise OverloadedError
    try:
        yield
    finally:
        places.release()


class ModelQueue:
    """Safe to call from many threads.

    Args:
        model: The model; asked for at each pass.
        queue_limit: How many calls may wait in each of the queues, beside one that has the model.
    """

    def __init__(self, model: Callable[[], Embedder], queue_limit: int) -> None:
        self._model = model
        self._query_places = threading.Semaphore(queue_limit + 1)
        self._bulk_places = threading.Semaphore(queue_limit + 1)
        self._queries: deque[_Query] = deque()
        self._is_computing_queries = False
        self._has_stopped_bulk = self._has_closed = False
        self._changed = threading.Condition()
        self._bulk = ThreadPoolExecutor(1, thread_name_prefix="embedding-bulk")
        self._went_on = threading.local()
        self._thread = threading.Thread(target=self._compute_queries, name="embedding-queries", daemon=True)
        self._thread.start()

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of queries, before all bulk work; calls of many queries take turns with the others.

        Raises:
            OverloadedError: the queue is full, or the app stops.
            EmbeddingServiceUnavailableError: the model is not there.
            EmbeddingError: the model failed.
        """
        with one_slot(self._query_places):
            parts = [self._embed_pass(texts[:QUERY_TEXTS])]
            for start in range(QUERY_TEXTS, len(texts), QUERY_TEXTS):
                if self._has_stopped_bulk:
                    raise _stopping()
                parts.append(self._embed_pass(texts[start : start + QUERY_TEXTS]))
            return concatenate_embeddings(parts, parts[0].vectors.shape[1])

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of documents, while no query is there; errors as `embed_queries`."""
        with one_slot(self._bulk_places):
            with self._changed:
                if self._has_stopped_bulk:
                    raise _stopping()
                call = self._bulk.submit(lambda: self._model().embed_documents(texts, pause=self._let_queries_go_first))
            try:
                return call.result()
            except CancelledError:
                raise _stopping() from None

    def stop_bulk(self) -> None:
        """End bulk work before its next layer, and calls of many queries before their next pass; such calls fail."""
        with self._changed:
            self._has_stopped_bulk = True
            self._changed.notify_all()
        self._bulk.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End bulk work, and queries after the pass that runs; calls that wait fail."""
        self.stop_bulk()
        with self._changed:
            self._has_closed = True
            self._changed.notify_all()
        self._thread.join()
        self._bulk.shutdown()

    def _embed_pass(self, texts: Sequence[str]) -> Embeddings:
        query = _Query(texts)
        with self._changed:
            if self._has_closed:
                raise _stopping()
            self._queries.append(query)
            self._changed.notify_all()
        return query.result.result()

    # The threads that compute bulk work

    def _let_queries_go_first(self) -> None:
        """Wait while there are queries, for `PAUSES` times as long as was computed since the last time at most."""
        computed = time.monotonic() - getattr(self._went_on, "at", 0.0)
        with self._changed:
            self._changed.wait_for(self._may_go_on, min(PAUSES * computed, LONGEST_PAUSE_SECONDS))
            if self._has_stopped_bulk:
                raise _stopping()
        self._went_on.at = time.monotonic()

    def _may_go_on(self) -> bool:
        return self._has_stopped_bulk or not (self._queries or self._is_computing_queries)

    # The thread of queries

    def _compute_queries(self) -> None:
        queries: list[_Query] = []
        while True:
            with self._changed:
                self._is_computing_queries = False
                self._changed.notify_all()
                self._changed.wait_for(partial(self._has_queries, 1))
                self._changed.wait_for(partial(self._has_queries, len(queries)), WINDOW_SECONDS)
                if self._has_closed:
                    break
                queries = self._take()
                self._is_computing_queries = True
            self._embed_together(queries)
        for query in self._queries:
            query.result.set_exception(_stopping())

    def _has_queries(self, number: int) -> bool:
        return self._has_closed or len(self._queries) >= number

    def _take(self) -> "list[_Query]":
        """The first ones, as many as make a pass."""
        taken = [self._queries.popleft()]
        room = QUERY_TEXTS - len(taken[0].texts)
        while self._queries and len(self._queries[0].texts) <= room:
            taken.append(self._queries.popleft())
            room -= len(taken[-1].texts)
        return taken

    def _embed_together(self, calls: Sequence["_Query"]) -> None:
        """One pass for all; if it fails one for each, lest one query's text fail the others."""
        try:
            answers = self._pass([call.texts for call in calls])
        except Exception as error:  # noqa: BLE001 - the callers raise it
            if len(calls) == 1 or isinstance(error, (EmbeddingServiceError, EmbeddingServiceUnavailableError)):
                for call in calls:
                    call.result.set_exception(error)
            else:
                for call in calls:
                    self._embed_together([call])
            return
        for call, answer in zip(calls, answers, strict=True):
            call.result.set_result(answer)

    def _pass(self, calls: Sequence[Sequence[str]]) -> list[Embeddings]:
        model = self._model()
        together = model.embed_queries([text for texts in calls for text in texts])
        answers = []
        start = 0
        for texts in calls:
            end = start + len(texts)
            counts = together.token_counts[start:end]
            # Who was cut is known of all together. Who was has as many tokens as can be; so may one who was not.
            cut = sum(count >= model.max_tokens for count in counts) if together.truncated else 0
            answers.append(Embeddings(together.vectors[start:end], counts, cut))
            start = end
        return answers


class _Query:
    """Texts of a pass, or of a part of one."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.result: Future[Embeddings] = Future()


def _stopping() -> OverloadedError:
    """It is for the caller to try again: another instance may take over, or this one start anew."""
    return OverloadedError("The app is being stopped; try again in a moment")

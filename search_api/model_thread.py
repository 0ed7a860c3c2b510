"""One thread that owns the embedding model, and two queues before it: queries, and bulk work.

Two forward passes at a time would only slow each other down, and queries that come while the model is busy share the
next pass: eight cost little more than one. Queries go first. Bulk calls are done in slices of a fraction of a second,
between which queries get in. Both queues have an end: beyond it a call is turned away at once, since a queue without
one turns a burst into minutes of waiting.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from embedding.embedder import Embedder, Embeddings, joined
from embedding.errors import EmbeddingServiceError
from search_api.errors import EmbeddingServiceUnavailableError, OverloadedError

QUERY_TEXTS = 16
"""Queries of a forward pass: more would make the first of them wait for the last."""
WINDOW_SECONDS = 0.002
"""How long a pass waits for those who shared the last one: they come back with their next query at once, if at all. A
query that comes alone never waits."""
SLICE_SECONDS = 0.2
"""How long a slice of bulk work should take: a query waits for that much of it at most."""
MOST_SLICE_TEXTS = 64
OVERDUE_SECONDS = 1.0
"""After so long without a slice, bulk work has its turn: queries may come without end."""


@contextmanager
def one_of(places: threading.Semaphore) -> Iterator[None]:
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


class ModelThread:
    """Safe to call from many threads.

    Args:
        model: The model; asked for at each pass.
        queue_limit: How many calls may wait in each of the queues, beside one that has the model.
    """

    def __init__(self, model: Callable[[], Embedder], queue_limit: int) -> None:
        self._model = model
        self._queries = _Queue(queue_limit)
        self._bulk = _Queue(queue_limit)
        self._changed = threading.Condition()
        self._closed = False
        self._slice_texts = 4
        self._sliced_at = 0.0
        self._thread = threading.Thread(target=self._work, name="embedding", daemon=True)
        self._thread.start()

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of queries, before all bulk work.

        Raises:
            OverloadedError: the queue is full.
            EmbeddingServiceUnavailableError: the model is not there, or the app stops.
            EmbeddingError: the model failed.
        """
        return self._call(self._queries, texts)

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of documents, slice by slice; errors as `embed_queries`."""
        return self._call(self._bulk, texts)

    def close(self) -> None:
        """End after the pass that runs; calls that wait fail."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _call(self, queue: "_Queue", texts: Sequence[str]) -> Embeddings:
        with one_of(queue.places):
            call = _Call(texts)
            try:
                with self._changed:
                    if self._closed:
                        raise _stopping()
                    queue.calls.append(call)
                    self._changed.notify()
                return call.result.result()
            finally:
                call.is_wanted = False  # an interrupted caller's is dropped when its turn comes

    # The thread's own

    def _work(self) -> None:
        shared = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._queries.calls or self._bulk.calls)
                if self._queries.calls:
                    self._wait_for_company(shared)
                if self._closed:
                    break
                if not self._bulk.calls:
                    self._sliced_at = time.monotonic()
                is_overdue = time.monotonic() - self._sliced_at > OVERDUE_SECONDS
                queries = [] if is_overdue else self._queries.take(QUERY_TEXTS)
                bulk = self._bulk.first() if not queries else None
            shared = len(queries)
            if queries:
                self._embed_together(queries)
            elif bulk:
                self._embed_slice(bulk)
                self._sliced_at = time.monotonic()
        for call in (*self._queries.calls, *self._bulk.calls):
            call.result.set_exception(_stopping())

    def _wait_for_company(self, queries: int) -> None:
        self._changed.wait_for(lambda: self._closed or len(self._queries.calls) >= queries, WINDOW_SECONDS)

    def _embed_together(self, calls: Sequence["_Call"]) -> None:
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
            # who was cut is known of all together; who was has as many tokens as can be
            cut = sum(count >= model.max_tokens for count in counts) if together.truncated else 0
            answers.append(Embeddings(together.vectors[start:end], counts, cut))
            start = end
        return answers

    def _embed_slice(self, call: "_Call") -> None:
        start = sum(len(part.token_counts) for part in call.parts)
        texts = call.texts[start : start + self._slice_texts]
        started = time.perf_counter()
        try:
            part = self._model().embed_documents(texts)
            call.parts.append(part)
            is_last = start + len(texts) == len(call.texts)
            answer = joined(call.parts, part.vectors.shape[1]) if is_last else None
        except Exception as error:  # noqa: BLE001 - the caller raises it
            self._leave_queue(call)
            call.result.set_exception(error)
            return
        seconds = max(time.perf_counter() - started, 1e-6)
        fitting = int(len(texts) * SLICE_SECONDS / seconds)
        self._slice_texts = min(MOST_SLICE_TEXTS, 2 * self._slice_texts, max(1, fitting))
        if answer:
            self._leave_queue(call)
            call.result.set_result(answer)

    def _leave_queue(self, call: "_Call") -> None:
        with self._changed:
            self._bulk.calls.remove(call)


class _Call:
    """Texts that somebody waits for."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts
        self.parts: list[Embeddings] = []
        self.result: Future[Embeddings] = Future()
        self.is_wanted = True


class _Queue:
    """Calls in the order they came, and places for so many."""

    def __init__(self, limit: int) -> None:
        self.places = threading.Semaphore(limit + 1)
        self.calls: deque[_Call] = deque()

    def first(self) -> _Call | None:
        """The one to go on with; those that nobody waits for any more are dropped."""
        while self.calls and not self.calls[0].is_wanted:
            self.calls.popleft().result.cancel()
        return self.calls[0] if self.calls else None

    def take(self, texts: int) -> list[_Call]:
        """The first calls, of so many texts together, or one that has more."""
        taken: list[_Call] = []
        while (call := self.first()) and (not taken or len(call.texts) <= texts):
            taken.append(self.calls.popleft())
            texts -= len(call.texts)
        return taken


def _stopping() -> EmbeddingServiceUnavailableError:
    return EmbeddingServiceUnavailableError("The app is being stopped")

"""The embedding model of the app: one instance, loaded (or connected to) once and shared by all calls.

The app also runs without a model: calls that need it fail with the reason. An embedding service that was unavailable
is tried again when it is needed.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import copy_context
from functools import partial
from typing import NamedTuple

from embedding.errors import EmbeddingError, EmbeddingServiceError, EmbeddingServiceUnreachableError
from embedding.interface import Embedder, Embeddings
from embedding.service.remote_embedder import RemoteEmbedder
from embedding.vectors import Vectors
from retrieval.cache import InstanceCache
from search_api.embeddings.circuit_breaker import CircuitBreaker
from search_api.embeddings.model_queue import QUERY_SECONDS, ModelQueue, is_about_texts
from search_api.http.caller import unless_caller_leaves
from search_api.http.errors import EmbeddingServiceUnavailableError
from search_api.operations.measures import ModelMeasures

logger = logging.getLogger(__name__)

_KEY = "embedding"


class EmbeddedQuery(NamedTuple):
    """The vector of a query, and how much of the query the model can read, and did read."""

    vector: Vectors
    """Unit vector (dimensions,)."""
    legibility: float
    """Share of the query that the model can read, 0.0 to 1.0; see `embedding.engine.legibility`."""
    tokens: int = 0
    """Tokens that the model has read, including its prompt."""
    all_tokens: int = 0
    """The same before the query was truncated to EMBEDDING_MAX_TOKENS; equal to `tokens` if that is not known."""


class QueryKey(NamedTuple):
    """Cache key of an embedded query. An embedding service may be restarted with another model."""

    model_signature: str
    text: str

    def __repr__(self) -> str:
        """Without the text, because logs show it: a hash that differs from process to process tells keys apart."""
        return f"query {hash(self) & 0xFFFFFFFF:08x}"


class EmbeddingService:
    """Shares the embedding model between threads. Calls wait in a queue, queries before bulk calls.

    Args:
        load: Loads the model, or connects to the service that runs it.
        queue_limit: Queries, and bulk calls, that may wait while another call uses the model.
        models: Cache whose statistics count the computations. If its entry expires, the model stays loaded.
        queries: Cache of embedded queries.
    """

    def __init__(
        self,
        load: Callable[[], Embedder],
        queue_limit: int,
        models: InstanceCache[str, Embedder],
        queries: InstanceCache[QueryKey, EmbeddedQuery],
    ) -> None:
        self._load_model = load
        self._models = models
        self._queries = queries
        self._embedder: Embedder | None = None
        self._breaker = CircuitBreaker()
        self.measures = ModelMeasures()
        """What is measured of the computations."""
        self._shared: dict[QueryKey, _SharedQuery] = {}
        self._sharing = threading.RLock()
        try:
            self._models.get(_KEY, self._load)
        except EmbeddingError as error:
            logger.error("The embedding model is not available: %s", error)
        self._queue = ModelQueue(self._use_model, queue_limit, self._breaker, self.measures)

    @property
    def model(self) -> Embedder:
        """The model.

        Raises:
            EmbeddingServiceUnavailableError: It could not be loaded or reached; the message says why.
        """
        return self._embedder or self._use_model()

    def _use_model(self) -> Embedder:
        """The model for a computation, which the cache counts. Raises the same errors as `model`."""
        if self._embedder is None:
            self._breaker.check()
        try:
            return self._models.get(_KEY, self._load)
        except EmbeddingError as error:
            raise EmbeddingServiceUnavailableError(str(error)) from error

    @property
    def is_known_to_be_away(self) -> bool:
        """Whether calls are refused, because there is no model, or its service does not answer."""
        return self._breaker.is_open

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many queries and bulk calls wait for the model, by the name of their queue."""
        return {"queries": self._queue.waiting_queries, "bulk": self._queue.waiting_bulk_calls}

    def check(self) -> None:
        """Check that texts can be embedded. If a remote embedding service is used, this sends a request.

        Raises:
            EmbeddingServiceUnavailableError: There is no model.
            EmbeddingServiceError: The embedding service is unavailable.
        """
        model = self.model
        if isinstance(model, RemoteEmbedder):
            model.check()

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of documents, without a prompt.

        Raises:
            EmbeddingServiceUnavailableError: There is no model.
            EmbeddingError: The model failed.
            OverloadedError: The queue is full.
        """
        return self._queue.embed_documents(texts)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """The vectors of queries, with the model's query prompt; errors as `embed_documents`."""
        return self._queue.embed_queries(texts)

    def embedded_queries(self, texts: Sequence[str]) -> Mapping[str, EmbeddedQuery]:
        """The queries of a search by text: from the cache, and those that are not there embedded at once.

        Searches for the same query share its computation. If the model refuses some of the queries, they are left out.

        Raises:
            EmbeddingServiceUnavailableError: There is no model, or its service is known to be away.
            EmbeddingServiceUnreachableError: The service does not answer within QUERY_SECONDS.
            EmbeddingError: The model refuses all of the queries.
            OverloadedError: The queue is full.
            ClientDisconnect: The caller has gone.
        """
        embedded = {text: known for text in texts if (known := self.known_query(text)) is not None}
        missing = [text for text in dict.fromkeys(texts) if text not in embedded]
        if not missing:
            return embedded
        signature = self.model.signature
        self._breaker.check()
        remote = self._embedder if isinstance(self._embedder, RemoteEmbedder) else None
        deadline = time.monotonic() + (QUERY_SECONDS if remote else threading.TIMEOUT_MAX)
        refusal: EmbeddingError | None = None
        # Also calls that wait for queries of others take a slot, because each blocks a thread.
        with self._queue.query_slot(), self._join([QueryKey(signature, text) for text in missing]) as shared:
            for query in shared:
                try:
                    embedded[query.key.text] = query.answer.result(max(0.0, deadline - time.monotonic()))
                except TimeoutError:
                    late = EmbeddingServiceUnreachableError(
                        f"The embedding service at {remote and remote.url} did not answer within {QUERY_SECONDS:g} s"
                    )
                    self._breaker.open(late)
                    raise late from None
                except EmbeddingError as error:
                    if not is_about_texts(error):
                        raise
                    refusal = refusal or error
        if refusal is not None:
            if not embedded:
                raise refusal
            logger.warning("A query of a search was left out: %s", refusal)
        return embedded

    def known_query(self, text: str) -> EmbeddedQuery | None:
        """The same, if the query is in the cache; otherwise None. Never waits for the model."""
        return None if self._embedder is None else self._queries.peek(QueryKey(self._embedder.signature, text))

    def stop_bulk(self) -> None:
        """Stop bulk calls, which may take minutes; they fail."""
        self._queue.stop_bulk()

    def close(self) -> None:
        """Stop the threads of the queue; waiting calls fail."""
        self._queue.close()

    @contextmanager
    def _join(self, keys: Sequence[QueryKey]) -> "Iterator[Sequence[_SharedQuery]]":
        """Share the computation of queries with other callers, until the block ends or the caller leaves."""
        caller = object()
        shared: list[_SharedQuery] = []

        def leave() -> None:
            with self._sharing:
                for query in shared:
                    query.callers.discard(caller)
                    if not query.callers and query.queued is not None:
                        query.queued.cancel()

        try:
            with self._sharing:
                for key in keys:
                    shared.append(self._shared.get(key) or _SharedQuery(key, self._queries.peek(key)))
                    shared[-1].callers.add(caller)
                self._submit([query for query in shared if query.queued is None and not query.answer.done()])
            with unless_caller_leaves(leave):
                yield shared
        finally:
            leave()

    def _submit(self, new: "Sequence[_SharedQuery]") -> None:
        if not new:
            return
        results = self._queue.submit_queries([query.key.text for query in new])
        for query, result in zip(new, results, strict=True):
            self._shared[query.key], query.queued = query, result
            result.add_done_callback(partial(self._finish, query))

    def _finish(self, query: "_SharedQuery", result: "Future[Embeddings]") -> None:
        """Pass the result on and cache it. Called by the thread that computed it, or that cancelled it."""
        embedded, error = None, None
        if not result.cancelled():
            try:
                embedded = self._embedded(query.key, result.result())
            except Exception as failure:  # noqa: BLE001 - the callers raise it
                error = failure
        with self._sharing:  # the query is in the cache before others can no longer share it
            if embedded is not None:
                seconds = time.perf_counter() - query.started
                query.context.run(self._queries.put, query.key, embedded, seconds)
            del self._shared[query.key]
        if embedded is not None:
            query.answer.set_result(embedded)
        elif error is not None:
            query.answer.set_exception(error)
        else:
            query.answer.cancel()

    def _embedded(self, key: QueryKey, embeddings: Embeddings) -> EmbeddedQuery:
        if self.model.signature != key.model_signature:
            raise EmbeddingServiceError("The model of the embedding service has changed meanwhile; try again")
        tokens, whole = embeddings.token_counts[0], embeddings.whole_token_counts
        legibility = self.model.legibility(key.text)
        return EmbeddedQuery(embeddings.vectors[0], legibility, tokens, whole[0] if whole else tokens)

    def _load(self) -> Embedder:
        """Called by the cache, by one thread at a time."""
        if self._embedder is None:
            with self._breaker.attempt(EmbeddingError):
                self._embedder = self._load_model()
        return self._embedder


class _SharedQuery:
    """A query that is being embedded, or was embedded meanwhile, and the callers that wait for it."""

    def __init__(self, key: QueryKey, known: EmbeddedQuery | None) -> None:
        self.key = key
        self.callers: set[object] = set()
        self.queued: Future[Embeddings] | None = None
        self.answer: Future[EmbeddedQuery] = Future()
        self.started = time.perf_counter()
        self.context = copy_context()  # has the id of the request, for the log
        if known is not None:
            self.answer.set_result(known)

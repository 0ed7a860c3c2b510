"""The embedding model of the app: one instance, loaded (or connected to) once and shared by all calls.

The app also runs without a model: calls that need it fail with the reason. An embedding service that was unavailable
is tried again when it is needed.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from embedding.errors import EmbeddingError, EmbeddingServiceError
from embedding.interface import Embedder, Embeddings
from embedding.service.remote_embedder import RemoteEmbedder
from embedding.vectors import Vectors
from retrieval.cache import InstanceCache
from search_api.embeddings.model_queue import ModelQueue, take_slot
from search_api.http.errors import EmbeddingServiceUnavailableError

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""Time after a failed connection before the next attempt, because each may take seconds."""
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
        self._query_slots = threading.Semaphore(queue_limit + 1)
        self._embedder: Embedder | None = None
        self._failed_at = 0.0
        self._failure: EmbeddingError | None = None
        try:
            self._models.get(_KEY, self._load)
        except EmbeddingError as error:
            logger.error("The embedding model is not available: %s", error)
        self._queue = ModelQueue(self._use_model, queue_limit)

    @property
    def model(self) -> Embedder:
        """The model.

        Raises:
            EmbeddingServiceUnavailableError: It could not be loaded or reached; the message says why.
        """
        return self._embedder or self._use_model()

    def _use_model(self) -> Embedder:
        """The model for a computation, which the cache counts. Raises the same errors as `model`."""
        if self._failure is not None:
            may_pass = isinstance(self._failure, EmbeddingServiceError)
            if not may_pass or time.monotonic() - self._failed_at <= RETRY_SECONDS:
                raise EmbeddingServiceUnavailableError(str(self._failure))
        try:
            return self._models.get(_KEY, self._load)
        except EmbeddingError as error:
            raise EmbeddingServiceUnavailableError(str(error)) from error

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

    def embed_query(self, text: str) -> EmbeddedQuery:
        """A query's vector and legibility, from the cache if it was embedded before; errors as `embed_documents`."""
        known = self.known_query(text)
        if known is not None:
            return known
        key = QueryKey(self.model.signature, text)
        with take_slot(self._query_slots):  # also for calls that wait for the same query: each blocks a thread
            return self._queries.get(key, lambda: self._embed_query(text))

    def known_query(self, text: str) -> EmbeddedQuery | None:
        """The same, if the query is in the cache; otherwise None. Never waits for the model."""
        return None if self._embedder is None else self._queries.peek(QueryKey(self._embedder.signature, text))

    def stop_bulk(self) -> None:
        """Stop bulk calls, which may take minutes; they fail."""
        self._queue.stop_bulk()

    def close(self) -> None:
        """Stop the threads of the queue; waiting calls fail."""
        self._queue.close()

    def _embed_query(self, text: str) -> EmbeddedQuery:
        embedded = self._queue.embed_queries([text])
        tokens = embedded.token_counts[0]
        whole = embedded.whole_token_counts
        return EmbeddedQuery(embedded.vectors[0], self.model.legibility(text), tokens, whole[0] if whole else tokens)

    def _load(self) -> Embedder:
        """Called by the cache, by one thread at a time."""
        if self._embedder is None:
            try:
                self._embedder = self._load_model()
            except EmbeddingError as error:
                self._failure, self._failed_at = error, time.monotonic()
                raise
            self._failure = None
        return self._embedder

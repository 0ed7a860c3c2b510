"""The embedding model as the app shares it: loaded or connected to once.

A model that is not there does not stop the app: what needs no model goes on working, and the rest says why it does
not. A service that was away when the app started is looked for again whenever it is wanted.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from embedding.embedder import Embedder, Embeddings
from embedding.errors import EmbeddingError, EmbeddingServiceError
from embedding.remote import RemoteEmbedder
from embedding.vectors import Vectors
from retrieval.cache import InstanceCache
from search_api.errors import EmbeddingServiceUnavailableError
from search_api.shared_model import SharedModel, one_of

logger = logging.getLogger(__name__)

RETRY_SECONDS = 1.0
"""How long a service that could not be reached is not looked for again: to find out may take seconds."""


class EmbeddedQuery(NamedTuple):
    """What the model makes of a query."""

    vector: Vectors
    """(dimensions,), of length one."""
    legibility: float
    """How much of the query the model can read, 0.0 to 1.0."""


class QueryKey(NamedTuple):
    """What the vector of a query is kept under: a service may come back with another model."""

    model_signature: str
    text: str


class EmbeddingService:
    """Safe to call from many threads; a call waits for its turn, queries before bulk work.

    Args:
        load: Loads the model, or connects to the service that has it.
        queue_limit: How many queries, and how many bulk calls, may wait while another has the model.
        models: Counts that the model was loaded. Its time to live ends the entry only: the model itself stays.
        queries: Keeps queries that were embedded.
    """

    def __init__(
        self,
        load: Callable[[], Embedder],
        queue_limit: int,
        models: InstanceCache[str, Embedder],
        queries: InstanceCache[QueryKey, EmbeddedQuery],
    ) -> None:
        self._load = load
        self._models = models
        self._queries = queries
        self._places = threading.Semaphore(queue_limit + 1)
        self._embedder: Embedder | None = None
        self._failed_at = 0.0
        self._failure: EmbeddingError | None = self._try_to_load()
        if self._failure:
            logger.error("The embedding model is not available: %s", self._failure)
        self._shared = SharedModel(lambda: self.model, queue_limit)

    @property
    def model(self) -> Embedder:
        """The model, to ask for its name and signature.

        Raises:
            EmbeddingServiceUnavailableError: it could not be loaded or reached; the message says why.
        """
        if isinstance(self._failure, EmbeddingServiceError) and time.monotonic() - self._failed_at > RETRY_SECONDS:
            self._failure = self._try_to_load()
        if self._embedder is None:
            raise EmbeddingServiceUnavailableError(str(self._failure))
        return self._embedder

    def check(self) -> None:
        """Ask whether vectors can be made; costs a request where a service makes them.

        Raises:
            EmbeddingServiceUnavailableError: there is no model.
            EmbeddingServiceError: the service is away.
        """
        model = self.model
        if isinstance(model, RemoteEmbedder):
            model.check()

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of documents, which carry no prompt.

        Raises:
            EmbeddingServiceUnavailableError: the model is not there.
            EmbeddingError: the model failed.
            OverloadedError: the queue is full.
        """
        return self._shared.embed_documents(texts)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of queries, the model's query prompt included; errors as `embed_documents`."""
        return self._shared.embed_queries(texts)

    def embed_query(self, text: str) -> EmbeddedQuery:
        """The vector of a query, kept for the next time; errors as `embed_documents`."""
        key = QueryKey(self.model.signature, text)
        known = self._queries.peek(key)
        if known is not None:
            return known
        with one_of(self._places):  # many who ask the same wait, too, each on a thread of its own
            return self._queries.get(key, lambda: self._embed_query(text))

    def stop_bulk(self) -> None:
        """End bulk work, which may take minutes; calls of it fail."""
        self._shared.stop_bulk()

    def close(self) -> None:
        """End its threads; calls that still wait fail."""
        self._shared.close()

    def _embed_query(self, text: str) -> EmbeddedQuery:
        vector = self._shared.embed_queries([text]).vectors[0]
        return EmbeddedQuery(vector, self.model.legibility(text))

    def _try_to_load(self) -> EmbeddingError | None:
        try:
            self._embedder = self._models.get("embedding", self._load)
        except EmbeddingError as error:
            self._failed_at = time.monotonic()
            return error
        return None

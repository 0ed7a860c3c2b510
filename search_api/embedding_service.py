"""The embedding model as the app shares it: loaded once, one call at a time, with a bounded queue.

Two forward passes at a time would only slow each other down, and a queue without an end turns a burst of calls into
minutes of waiting, so a call that finds the queue full is turned away at once. A model that cannot be loaded does not
stop the app: what needs no model goes on working, and the rest says why it does not.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from embedding.embedder import Embedder, Embeddings
from embedding.errors import EmbeddingError
from embedding.vectors import Vectors
from retrieval.cache import InstanceCache
from search_api.errors import EmbeddingServiceUnavailableError, OverloadedError

logger = logging.getLogger(__name__)


class EmbeddedQuery(NamedTuple):
    """What the model makes of a query."""

    vector: Vectors
    """(dimensions,), of length one."""
    legibility: float
    """How much of the query the model can read, 0.0 to 1.0."""


class EmbeddingService:
    """Safe to call from many threads; a call waits for its turn.

    Args:
        load: Loads the model; called once, here.
        queue_limit: How many calls may wait while another has the model.
        models: Counts that the model was loaded. Its time to live ends the entry only: the model itself stays.
        queries: Keeps queries that were embedded.
    """

    def __init__(
        self,
        load: Callable[[], Embedder],
        queue_limit: int,
        models: InstanceCache[str, Embedder],
        queries: InstanceCache[str, EmbeddedQuery],
    ) -> None:
        self._embedder: Embedder | None = None
        self._failure = ""
        self._queries = queries
        self._places = threading.Semaphore(queue_limit + 1)
        self._turn = threading.Lock()
        try:
            self._embedder = models.get("embedding", load)
        except EmbeddingError as error:
            self._failure = str(error)
            logger.error("The embedding model is not available: %s", error)

    @property
    def model(self) -> Embedder:
        """The loaded model, to ask for its name and signature.

        Raises:
            EmbeddingServiceUnavailableError: it could not be loaded; the message says why.
        """
        if self._embedder is None:
            raise EmbeddingServiceUnavailableError(self._failure)
        return self._embedder

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """Vectors of documents, which carry no prompt.

        Raises:
            EmbeddingServiceUnavailableError: the model is not there.
            EmbeddingError: the model failed.
            OverloadedError: the queue is full.
        """
        with self._one_at_a_time():
            return self.model.embed_documents(texts)

    def embed_query(self, text: str) -> EmbeddedQuery:
        """The vector of a query, the model's query prompt included; errors as `embed_documents`."""
        return self._queries.get(text, lambda: self._embed_query(text))

    def _embed_query(self, text: str) -> EmbeddedQuery:
        with self._one_at_a_time():
            vector = self.model.embed_queries([text]).vectors[0]
        return EmbeddedQuery(vector, self.model.legibility(text))

    @contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        if not self._places.acquire(blocking=False):
            raise OverloadedError
        try:
            with self._turn:
                yield
        finally:
            self._places.release()

"""The rerank model as the app shares it: loaded when it is first wanted, one call at a time, and never waited for long.

A search has an order without this model, so nothing here is an error: what takes too long or fails becomes a reason,
which the search tells beside the order it has. A forward pass cannot be interrupted; a call that nobody waits for any
more stops at its next batch.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from retrieval.cache import InstanceCache, StillLoadingError
from retrieval.reranker import Reranker, RerankerError, RerankerSettings

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 8
"""Calls that may wait while another has the model: more would only wait for their time-out."""
RETRY_SECONDS = 60.0
"""How long a failed load is remembered: each attempt may cost seconds, and a model may be fetched meanwhile."""


@dataclass(frozen=True)
class Reranking:
    """Scores, or the reason why there are none."""

    scores: NDArray[np.float32] | None
    """Probabilities that the documents answer the query, in their order."""
    reason: str = ""


class RerankService:
    """Safe to call from many threads.

    Args:
        load: Loads the model.
        cache: Tells how often the model was asked for. Its time to live ends the entry only: the model itself stays,
            or every half-hour a search would have to do without.
        settings: The model's directory, how many documents, for how long.
        clock: Seconds.
    """

    def __init__(
        self,
        load: Callable[[], Reranker],
        cache: InstanceCache[Path, Reranker],
        settings: RerankerSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load_model = load
        self._cache = cache
        self._path = settings.reranker_model_path
        self.top_n: int = settings.reranker_top_n  # how many of a ranking are worth judging
        self._timeout = settings.reranker_timeout_seconds
        self._clock = clock
        self._model: Reranker | None = None
        self._failure = ""
        self._failed_at = float("-inf")
        self._places = threading.Semaphore(QUEUE_LIMIT + 1)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rerank")
        self._closed = threading.Event()

    def rerank(self, query: str, documents: Sequence[str]) -> Reranking:
        """Judge documents, unique as fusion leaves them; never raises.

        Returns after RERANKER_TIMEOUT_SECONDS at the latest. While the model is loading, which goes on in the
        background, that is without scores.
        """
        if not documents:
            return Reranking(np.empty(0, dtype=np.float32))
        if not self._places.acquire(blocking=False):
            return Reranking(None, "too many calls wait for the rerank model")
        deadline = self._clock() + self._timeout
        try:
            self._require_no_recent_failure()
            model = self._cache.get(self._path, self._load, patience_seconds=self._timeout)
            return Reranking(self._scores(model, query, documents, deadline))
        except StillLoadingError:
            reason = f"the rerank model is being loaded, for more than {self._timeout} s"
        except _NotAvailableError as error:
            reason = f"the rerank model is not available: {error}"
        except TimeoutError:
            reason = f"time-out after {self._timeout} s"
        except RerankerError as error:
            logger.warning("A search was not reranked: %s", error)
            reason = str(error)
        except Exception as error:
            logger.exception("A search was not reranked")
            reason = f"the rerank model failed: {type(error).__name__}"
        finally:
            self._places.release()
        return Reranking(None, reason)

    def close(self) -> None:
        """End the call that has the model, after its batch, and those that wait."""
        self._closed.set()
        self._worker.shutdown(cancel_futures=True)

    def _scores(self, model: Reranker, query: str, documents: Sequence[str], deadline: float) -> NDArray[np.float32]:
        def is_over() -> bool:
            return self._closed.is_set() or self._clock() >= deadline

        call = self._worker.submit(model.scores, query, documents, is_over)
        try:
            return call.result(max(0.0, deadline - self._clock()))
        finally:
            call.cancel()  # if its turn has not come yet

    def _require_no_recent_failure(self) -> None:
        if self._clock() - self._failed_at < RETRY_SECONDS:
            raise _NotAvailableError(self._failure)

    def _load(self) -> Reranker:
        """Called by the cache, for one thread at a time."""
        if self._model is not None:
            return self._model
        try:
            self._model = self._load_model()
        except Exception as error:
            self._failure, self._failed_at = str(error), self._clock()
            logger.error("The rerank model is not available: %s", error)
            raise _NotAvailableError(self._failure) from error
        return self._model


class _NotAvailableError(Exception):
    """The model could not be loaded, now or a little while ago."""

"""Shares the rerank model between threads: loaded on first use, one call at a time, with a time limit.

A search has an order without reranking, so failures and timeouts raise nothing: the result then contains the scores of
the first passages, as many as could be computed, and a reason. A forward pass cannot be interrupted. So a call starts
with a single passage, and then computes batches that will end in time by the speed of the earlier ones.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from retrieval.cache import InstanceCache, StillLoadingError
from retrieval.reranker import QueryTooLongError, Reranker, RerankerError, RerankerSettings
from search_api.http.errors import ApiError, InvalidRequestError, OverloadedError, RerankModelUnavailableError
from search_api.http.waits import take_slot

logger = logging.getLogger(__name__)

QUEUE_LIMIT = 8
"""Calls that may wait while another call uses the model; with more, the last ones would only time out."""
RETRY_SECONDS = 60.0
"""Time after a failed load before the next attempt: each takes seconds. The model may be downloaded in the meantime."""


@dataclass(frozen=True)
class Reranking:
    """Scores, and the reason if they are not complete."""

    scores: Sequence[float]
    """Probability that each of the first documents answers the query, 0.0 to 1.0."""
    reason: str = ""
    """Why not all documents have a score; empty if all have one."""
    error: type[ApiError] = RerankModelUnavailableError
    """The error to answer with where an answer without any score is of no use."""


class RerankService:
    """Reranks for many threads. Calls wait in a queue.

    Args:
        load: Loads the model.
        cache: Its statistics count the uses of the model. If its entry expires, the model stays loaded; otherwise the
            first search after each expiry would not be reranked.
        settings: Model directory, time limit and number of documents.
        clock: A monotonic clock, in seconds.
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
        self.model_name: str = self._path.resolve().name
        """The name of the model: that of its directory."""
        self.top_n: int = settings.reranker_top_n  # number of hits that are reranked
        self._timeout = settings.reranker_timeout_seconds
        self._clock = clock
        self._model: Reranker | None = None
        self._failure = ""
        self._failed_at = float("-inf")
        self._slots = threading.Semaphore(QUEUE_LIMIT + 1)
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="rerank")
        self._closed = threading.Event()

    def rerank(self, query: str, documents: Sequence[str]) -> Reranking:
        """The scores of distinct documents for the query; never raises.

        Returns after at most RERANKER_TIMEOUT_SECONDS. If the model is still loading then, the load continues in the
        background and the result has no scores.

        Args:
            query: The query.
            documents: Best first: if there is no time for all, the first ones are scored.
        """
        if not documents:
            return Reranking(())
        deadline = self._clock() + self._timeout
        scores: list[float] = []
        kind: type[ApiError] = RerankModelUnavailableError
        try:
            with take_slot(self._slots, "the rerank model"):
                self._require_no_recent_failure()
                model = self._cache.get(self._path, self._load, timeout_seconds=self._timeout)
                self._score(model, query, documents, deadline, scores)
            reason = "" if len(scores) == len(documents) else f"timeout after {self._timeout} s"
        except OverloadedError:
            reason, kind = "too many calls wait for the rerank model", OverloadedError
        except StillLoadingError:
            reason = f"the rerank model is still loading after {self._timeout} s"
        except _NotAvailableError as error:
            reason = f"the rerank model is not available: {error}"
        except _NotStartedError:
            reason, kind = f"timeout after {self._timeout} s", OverloadedError
        except TimeoutError:
            reason = f"timeout after {self._timeout} s"
        except QueryTooLongError as error:
            reason, kind = str(error), InvalidRequestError
        except RerankerError as error:
            logger.warning("Passages were not reranked: %s", error)
            reason = str(error)
        except Exception as error:
            logger.exception("Passages were not reranked")
            reason = f"the rerank model failed: {type(error).__name__}"
        return Reranking(tuple(scores), reason, kind)  # a copy: the model may still compute a batch

    def count_tokens(self, query: str, documents: Sequence[str]) -> int:
        """Number of tokens that the model reads to score the documents; 0 if it was never loaded."""
        return 0 if self._model is None else sum(self._model.token_counts(query, documents))

    def close(self) -> None:
        """Stop the running call after its current batch, and cancel waiting calls."""
        self._closed.set()
        self._worker.shutdown(cancel_futures=True)

    def _score(
        self, model: Reranker, query: str, documents: Sequence[str], deadline: float, scores: list[float]
    ) -> None:
        """Append the scores of the first documents, as many as can be computed before the deadline.

        Raises:
            TimeoutError: The model is still computing a batch, whose scores are too late; or, as `_NotStartedError`, it
                is still busy with earlier calls.
        """
        call = self._worker.submit(self._compute, model, query, documents, deadline, scores)
        try:
            call.result(max(0.0, deadline - self._clock()))
        except TimeoutError:
            if call.cancel():  # has no effect on a call that has started
                raise _NotStartedError from None
            raise

    def _compute(
        self, model: Reranker, query: str, documents: Sequence[str], deadline: float, scores: list[float]
    ) -> None:
        """On the thread that uses the model."""
        started = 0.0

        def room(computed_tokens: int) -> float:
            nonlocal started
            now = self._clock()
            if self._closed.is_set() or now >= deadline:
                return 0
            if not computed_tokens:
                started = now
                return 1  # a single passage, because the speed is not known
            return (deadline - now) * computed_tokens / max(now - started, 1e-6)

        for batch in model.scores_by_batch(query, documents, room):
            scores.extend(batch.tolist())

    def _require_no_recent_failure(self) -> None:
        if self._clock() - self._failed_at < RETRY_SECONDS:
            raise _NotAvailableError(self._failure)

    def _load(self) -> Reranker:
        """Called by the cache, by one thread at a time."""
        if self._model is not None:
            return self._model
        try:
            self._model = self._load_model()
        except Exception as error:
            self._failure, self._failed_at = str(error), self._clock()
            logger.error("The rerank model is not available: %s", error)
            raise _NotAvailableError(self._failure) from error
        return self._model


class _NotStartedError(TimeoutError):
    """The model was busy with earlier calls until the deadline."""


class _NotAvailableError(Exception):
    """The model could not be loaded, now or in the last RETRY_SECONDS."""

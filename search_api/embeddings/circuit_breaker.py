"""A circuit breaker: calls of a service that is known to be away fail at once."""

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from embedding.errors import EmbeddingError, EmbeddingServiceError, EmbeddingServiceUnreachableError
from search_api.http.errors import EmbeddingServiceUnavailableError

RETRY_SECONDS = 1.0
"""Time after a failure before the service is tried again, by one call. All others fail at once until it succeeds."""


class CircuitBreaker:
    """Remembers whether the embedding service can be reached. Threads may share it.

    One failure is enough to open it, because a call fails only after several attempts or a time-out.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._failure: str | None = None
        self._retry_at = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the service is known to be away, or there is no model."""
        return self._failure is not None

    def check(self) -> None:
        """Check that the service is not known to be away.

        Raises:
            EmbeddingServiceUnavailableError: It is; the message is that of the last failure.
        """
        failure = self._failure
        if failure is not None and time.monotonic() < self._retry_at:
            raise EmbeddingServiceUnavailableError(failure)

    def open(self, failure: EmbeddingError) -> None:
        """Refuse calls after a failure: for RETRY_SECONDS, or for ever if no service is involved."""
        with self._lock:
            self._failure = str(failure)
            may_pass = isinstance(failure, EmbeddingServiceError)
            self._retry_at = time.monotonic() + RETRY_SECONDS if may_pass else math.inf

    @contextmanager
    def attempt(self, failures: type[EmbeddingError] = EmbeddingServiceUnreachableError) -> Iterator[None]:
        """Call the service in the block. Such failures open the breaker, everything else closes it.

        Raises:
            EmbeddingServiceUnavailableError: The service is known to be away, or another thread is trying it.
        """
        with self._lock:
            self.check()
            self._retry_at = math.inf  # if there was a failure, only this call tries whether it has passed
        try:
            yield
        except failures as error:
            self.open(error)
            raise
        except BaseException:
            self._failure = None
            raise
        self._failure = None

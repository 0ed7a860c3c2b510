"""Reaching the Chroma server: connections, time-outs, waiting, errors.

Chroma's client has no setting for a time-out and raises whatever happens; here every call ends in time, and every
failure is a `VectorStoreError`.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from pydantic import Field
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from models.settings import Settings

if TYPE_CHECKING:
    from chromadb.api.client import Client


T = TypeVar("T")

logger = logging.getLogger(__name__)


class VectorStoreSettings(Settings):
    """Where the Chroma server is, and where it keeps its files."""

    chroma_db_dir: Path = Field(Path("./data/chroma"), description="Directory the Chroma server keeps its files in.")
    chroma_url: str = Field("http://127.0.0.1:8001", description="Where the pipeline and the search app reach Chroma.")
    chroma_timeout_seconds: float = Field(10.0, gt=0, description="Longest wait for an answer of Chroma.")


def anybody() -> None:
    """Any process may write."""


class ChromaConnection:
    """The server at CHROMA_URL.

    Connects on first use, so that neither side needs the other to start first, and finds a server again that was away.
    Safe to share between threads.

    Args:
        settings: Where the server is.
        patience_seconds: How long a call waits for a server that is away before it raises.
    """

    def __init__(self, settings: VectorStoreSettings, patience_seconds: float = 0.0) -> None:
        self._url = settings.chroma_url.rstrip("/")
        self._timeout = settings.chroma_timeout_seconds
        self._patience = patience_seconds
        self._client: Client | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Read something, since a heartbeat says only that the server listens.

        Raises:
            VectorStoreError: the server does not answer a read.
        """
        self.call(lambda: self._connect().count_collections())

    def answers(self) -> bool:
        """Whether the server listens: a quick question without Chroma's client."""
        try:
            return httpx.get(f"{self._url}/api/v2/heartbeat", timeout=self._timeout).is_success
        except httpx.HTTPError:
            return False

    def call(self, operation: Callable[[], T], before_attempt: Callable[[], None] = anybody) -> T:
        """What the operation returns, which is tried again while the server is away: it must bear being done twice.

        Raises:
            VectorStoreUnreachableError: the server is still away.
            CollectionNotFoundError: what was asked for is not there.
            VectorStoreError: anything else.
        """

        def attempt() -> T:
            before_attempt()
            with self._translated_errors():
                return operation()

        patiently = Retrying(
            retry=retry_if_exception_type(VectorStoreUnreachableError),
            stop=stop_after_delay(self._patience),
            wait=wait_exponential(multiplier=0.1, max=5),
            before_sleep=self._tell_of_waiting,
            reraise=True,
        )
        return patiently(attempt)

    def close(self) -> None:
        """Close the connections; the next use opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            for session in _http_sessions(client):
                session.close()
            client.close()

    def _tell_of_waiting(self, attempts: RetryCallState) -> None:
        if attempts.attempt_number == 1 and attempts.outcome:
            logger.warning("%s. Waiting for it, %g s at most", attempts.outcome.exception(), self._patience)

    def _connect(self) -> "Client":
        if self._client is None:
            if not self._lock.acquire(timeout=self._timeout):
                raise httpx.ConnectTimeout("another thread is still connecting")
            try:
                self._client = self._client or self._new_client()
            finally:
                self._lock.release()
        return self._client

    def _new_client(self) -> "Client":
        from chromadb import HttpClient
        from chromadb.config import Settings as ChromaSettings

        # The constructor calls the server without a time-out: only go there when the server answers.
        httpx.get(f"{self._url}/api/v2/heartbeat", timeout=self._timeout).raise_for_status()
        url = urlsplit(self._url)
        try:
            connected = HttpClient(
                host=url.hostname or "localhost",
                port=url.port or (443 if url.scheme == "https" else 80),
                ssl=url.scheme == "https",
                settings=ChromaSettings(anonymized_telemetry=False),
            )
        except ValueError as error:  # it has vanished since
            raise httpx.ConnectError(str(error)) from error
        client = cast("Client", connected)
        for session in _http_sessions(client):
            session.timeout = httpx.Timeout(self._timeout)
        return client

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        from chromadb.errors import NotFoundError

        try:
            yield
        except NotFoundError as error:
            raise CollectionNotFoundError(str(error)) from error
        except httpx.TimeoutException as error:
            raise VectorStoreUnreachableError(
                f"Chroma at {self._url} did not answer within {self._timeout:g} s"
            ) from error
        except httpx.HTTPError as error:
            raise VectorStoreUnreachableError(
                f"Chroma at {self._url} cannot be reached ({error}); start it with `make up` "
                "or `course-search vector-store`, or set CHROMA_URL"
            ) from error
        except Exception as error:
            # The client raises a bare Exception for an answer that is not JSON, and errors of its own for the rest.
            raise VectorStoreError(f"Chroma at {self._url} failed: {error}") from error


def _http_sessions(client: "Client") -> list[httpx.Client]:
    """Chroma offers no setting for the time-out, and its `close` leaves the connections open; a test pins both."""
    return [part._server._session for part in (client, client._admin_client)]  # type: ignore[union-attr]

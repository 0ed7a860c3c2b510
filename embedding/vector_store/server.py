"""The connection to the Chroma server, with timeouts, retries and translated errors.

Chroma's client has no setting for a timeout and raises errors of many types. `ChromaConnection` gives every call a
timeout and raises every failure as a `VectorStoreError`.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeVar, cast
from urllib.parse import urlsplit

import httpx
from pydantic import Field
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from embedding.http_client import UnusableProxyError, http_client
from embedding.vector_store.errors import CollectionNotFoundError, VectorStoreError, VectorStoreUnreachableError
from models.settings import Settings, without_password

if TYPE_CHECKING:
    from chromadb.api.client import Client


T = TypeVar("T")

logger = logging.getLogger(__name__)

SERVER_NAME = "Chroma"

_construction = threading.Lock()
"""Held while a client of Chroma is constructed, because the name `httpx` in its module is replaced meanwhile."""


class VectorStoreSettings(Settings):
    """The address of the Chroma server, and the directory of its files."""

    chroma_db_dir: Path = Field(Path("./data/chroma"), description="Directory of the Chroma server's files.")
    chroma_url: str = Field(
        "http://127.0.0.1:8001", description="URL of the Chroma server. If set, `course-search up` starts none."
    )
    chroma_timeout_seconds: float = Field(10.0, gt=0, description="Timeout of a request to Chroma, in seconds.")
    chroma_max_memory_mb: int = Field(
        4096,
        gt=0,
        description="Memory in MiB at which `course-search vector-store` restarts the Chroma server, which takes "
        "seconds. A collection that was used stays in its memory: 3 to 4 MiB for 150 chunks.",
    )


def no_check() -> None:
    """The default check before a write: it allows every write."""


class ChromaConnection:
    """The connection to the server at CHROMA_URL. Threads may share it.

    The first call connects, so the server may start later than this process. After an outage the next call reconnects.

    Args:
        settings: The address of the server.
        patience_seconds: How long a call is retried while the server is unreachable.
    """

    def __init__(self, settings: VectorStoreSettings, patience_seconds: float = 0.0) -> None:
        self._url_with_password = settings.chroma_url.rstrip("/")
        self._url = without_password(self._url_with_password)
        self._timeout = settings.chroma_timeout_seconds
        self._patience = patience_seconds
        self._client: Client | None = None
        self._lock = threading.Lock()

    def check(self) -> None:
        """Check that the server can read its database; a heartbeat shows only that the server is running.

        Raises:
            VectorStoreError: The server cannot read its database.
        """
        self.call(lambda: self.connect().count_collections())

    def answers(self) -> bool:
        """Whether the server answers a heartbeat. Fast, because it does not import Chroma's client."""
        try:
            return self._heartbeat().is_success
        except (httpx.HTTPError, httpx.InvalidURL, UnusableProxyError):
            return False

    def call(self, operation: Callable[[], T], before_attempt: Callable[[], None] = no_check) -> T:
        """Run an operation, which must be idempotent: it is retried while the server is unreachable.

        Args:
            operation: Calls Chroma's client.
            before_attempt: Called before every attempt; it may raise to prevent it.

        Raises:
            VectorStoreUnreachableError: The server was unreachable at every attempt.
            CollectionNotFoundError: The collection does not exist.
            VectorStoreError: The operation failed for any other reason.
        """

        def attempt() -> T:
            before_attempt()
            with self._translated_errors():
                return operation()

        retrying = Retrying(
            retry=retry_if_exception_type(VectorStoreUnreachableError),
            stop=stop_after_delay(self._patience),
            wait=wait_exponential(multiplier=0.1, max=5),
            before_sleep=self._log_retrying,
            reraise=True,
        )
        return retrying(attempt)

    def close(self) -> None:
        """Close the connections; the next call opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            for session in _http_sessions(client):
                session.close()
            client.close()

    def _log_retrying(self, attempts: RetryCallState) -> None:
        if attempts.attempt_number == 1 and attempts.outcome:
            logger.warning("%s. Retrying for up to %g s", attempts.outcome.exception(), self._patience)

    def connect(self) -> "Client":
        """Chroma's client, connected to the server. Its calls bypass the retries and the error translation of `call`.

        Raises:
            httpx.HTTPError: The server is unreachable.
            httpx.InvalidURL: CHROMA_URL is not a URL.
            UnusableProxyError: The server needs a proxy, and the configured one cannot be used.
        """
        if self._client is None:
            if not self._lock.acquire(timeout=self._timeout):
                raise httpx.ConnectTimeout("another thread is still connecting")
            try:
                self._client = self._client or self._new_client()
            finally:
                self._lock.release()
        return self._client

    def _new_client(self) -> "Client":
        import chromadb.api.fastapi
        from chromadb import HttpClient
        from chromadb.config import Settings as ChromaSettings

        # The constructor translates the errors of its first calls to others, so check first that the server answers.
        self._heartbeat().raise_for_status()

        def new_session(*, limits: httpx.Limits, **_: object) -> httpx.Client:
            return http_client(self._url_with_password, SERVER_NAME, limits=limits, timeout=self._timeout)

        url = urlsplit(self._url)
        with _construction:
            # Chroma's client has no setting for its timeout or its proxy.
            setattr(chromadb.api.fastapi, "httpx", SimpleNamespace(Client=new_session))  # noqa: B010 - not exported
            try:
                connected = HttpClient(
                    host=url.hostname or "localhost",
                    port=url.port or (443 if url.scheme == "https" else 80),
                    ssl=url.scheme == "https",
                    settings=ChromaSettings(anonymized_telemetry=False),
                )
            except ValueError as error:  # the server has stopped since
                raise httpx.ConnectError(str(error)) from error
            finally:
                setattr(chromadb.api.fastapi, "httpx", httpx)  # noqa: B010 - not exported
        return cast("Client", connected)

    def _heartbeat(self) -> httpx.Response:
        with http_client(self._url_with_password, SERVER_NAME, timeout=self._timeout) as client:
            return client.get(f"{self._url}/api/v2/heartbeat")

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
                f"Chroma at {self._url} cannot be reached ({error}); start it with `course-search up` "
                "or `course-search vector-store`, or set CHROMA_URL"
            ) from error
        except httpx.InvalidURL:
            # Without the cause, which may quote a part of the password.
            raise VectorStoreError("CHROMA_URL is not a URL, like http://127.0.0.1:8001") from None
        except Exception as error:
            # The client raises a plain Exception if the answer is not JSON, and Chroma's errors otherwise.
            raise VectorStoreError(f"Chroma at {self._url} failed: {error}") from error


def _http_sessions(client: "Client") -> list[httpx.Client]:
    """The client's HTTP connections, which are private: Chroma's `close` leaks them."""
    return [part._server._session for part in (client, client._admin_client)]  # type: ignore[union-attr]

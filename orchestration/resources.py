"""What a run or a sensor needs from outside: the catalogue, the vector store, the model on the GPU.

Each reads its settings from the environment when it is first used, so that importing the code location costs nothing
and works anywhere. A run outlasts a database or a vector store that is away for a moment (a restart, a long lock): it
waits, and fails only after `PATIENCE_SECONDS`.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import dagster as dg
from pydantic import PrivateAttr
from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_delay, wait_exponential

from embedding.embedder import Embedder
from embedding.opening import open_embedder
from embedding.settings import EmbeddingSettings, VectorStoreSettings
from embedding.vector_store import VectorStore
from models.database import (
    DatabaseNotMigratedError,
    DatabaseUnavailableError,
    Engine,
    Session,
    create_catalogue_engine,
    transaction,
)
from models.settings import CatalogueSettings

PATIENCE_SECONDS = 60.0

T = TypeVar("T")

logger = logging.getLogger(__name__)


class CatalogueResource(dg.ConfigurableResource[None]):
    """Stage one's database, at `DATABASE_URL`."""

    _engine: Engine | None = PrivateAttr(default=None)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """One transaction: commits at the end, rolls back on an error."""
        if self._engine is None:
            self._engine = create_catalogue_engine(CatalogueSettings())
        with transaction(self._engine) as session:
            yield session

    def attempt(self, work: Callable[[Session], T]) -> T:
        """Do the work in one transaction, again while the database is away: the work must bear being done twice.

        Raises:
            DatabaseUnavailableError: it is still away.
        """

        def once() -> T:
            with self.transaction() as session:
                return work(session)

        patient = Retrying(
            retry=retry_if_exception(_may_pass),
            stop=stop_after_delay(PATIENCE_SECONDS),
            wait=wait_exponential(multiplier=0.2, max=5),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        return patient(once)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - the interface
        """Close the connections."""
        if self._engine is not None:
            self._engine.dispose()


class VectorStoreResource(dg.ConfigurableResource[None]):
    """The Chroma server, at `CHROMA_URL`."""

    _stores: dict[float, VectorStore] = PrivateAttr(default_factory=dict)

    def store(self, patience_seconds: float = 0.0) -> VectorStore:
        """A connection, opened on first use; one for each patience.

        Args:
            patience_seconds: How long an operation is tried while the server is away; a sensor has no time for that.
        """
        if patience_seconds not in self._stores:
            self._stores[patience_seconds] = VectorStore(VectorStoreSettings(), patience_seconds)
        return self._stores[patience_seconds]

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - the interface
        """Close the connections."""
        for store in self._stores.values():
            store.close()


class GpuResource(dg.ConfigurableResource[None]):
    """The GPU with the embedding model on it (or the CPU, where there is none), or the embedding service that has one.

    Loaded once a run, on first use, whatever the number of courses; the pool of the same name keeps two runs from
    sharing the device.
    """

    _embedder: Embedder | None = PrivateAttr(default=None)

    def embedder(self) -> Embedder:
        """The model.

        Raises:
            ModelUnavailableError: there are no usable weights at `EMBEDDING_MODEL_PATH`.
            EmbeddingServiceError: the service at `EMBEDDING_SERVICE_URL` cannot be used.
        """
        if self._embedder is None:
            self._embedder = open_embedder(EmbeddingSettings(), PATIENCE_SECONDS)
        return self._embedder


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, DatabaseUnavailableError) and not isinstance(error, DatabaseNotMigratedError)

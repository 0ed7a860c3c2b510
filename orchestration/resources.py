"""The Dagster resources: catalogue, vector store, snapshots, examination, embedding model and search app.

Every field is a setting of the product (`.env.example`). So the Dagster UI shows the configuration of the code
location, and a run can be launched with other values. Connections are opened and the model is loaded on first use. If
the database, the vector store or the embedding service is unavailable, a run waits up to `PATIENCE_SECONDS` and then
fails.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeVar

import dagster as dg
from pydantic import Field, PrivateAttr, SecretStr
from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_delay, wait_exponential

from documents.settings import DocumentSettings
from documents.uploads import Uploads
from embedding.factory import configured_signature, open_embedder
from embedding.interface import Embedder
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from models.context import ContextFields
from models.database import (
    CatalogueSettings,
    Engine,
    Session,
    create_catalogue_engine,
    is_temporary,
    transaction,
)
from models.settings import Settings
from orchestration.examination_settings import ExaminationSettings
from orchestration.search_link import SearchLinkSettings
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore

PATIENCE_SECONDS = 60.0
"""How long a run waits for an unavailable database, vector store or embedding service."""

T = TypeVar("T")

logger = logging.getLogger(__name__)


def setting(settings: type[Settings], name: str) -> Any:
    """A resource field for the setting `name`. Its default is the current value of the setting."""

    def current_value() -> Any:
        value = getattr(settings(), name)
        return value if value is None or isinstance(value, int | float) else _as_text(value)

    return Field(
        default_factory=current_value, description=f"{name.upper()}: {settings.model_fields[name].description}"
    )


def _as_text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


class SettingsResource(dg.ConfigurableResource[None]):
    """Base class of resources whose fields are settings, with the same names."""

    SETTINGS: ClassVar[type[Settings]]
    SECRETS: ClassVar[tuple[str, ...]] = ()
    """Fields for which the Dagster UI shows the name of the environment variable instead of the value. The same applies
    to every URL that contains `@`, because it may contain a password."""

    @classmethod
    def from_environment(cls) -> Self:
        """The resource with the values of the environment and `.env`. Secrets refer to environment variables."""
        configured, resource = cls.SETTINGS(), cls()
        values = {name: getattr(resource, name) for name in cls.model_fields}
        for name in configured.model_fields_set.intersection(values):
            if name in cls.SECRETS or _has_password(values[name]):
                os.environ[name.upper()] = values[name]  # `dg.EnvVar` does not read `.env`
                values[name] = dg.EnvVar(name.upper())
        return cls(**values)

    def settings(self) -> Any:
        """The settings with the values of this resource.

        Only values that differ from the environment are passed on, so `model_fields_set` of the result contains only
        settings that the environment or the run has set.
        """
        configured = self.SETTINGS()
        values = {name: getattr(self, name) for name in type(self).model_fields}
        changed = {name: value for name, value in values.items() if _differs(getattr(configured, name), value)}
        return self.SETTINGS(**changed) if changed else configured


def _has_password(value: object) -> bool:
    return isinstance(value, str) and "://" in value and "@" in value


def _differs(configured: object, value: object) -> bool:
    return value != configured if configured is None or value is None else str(value) != _as_text(configured)


class CatalogueResource(SettingsResource):
    """The catalogue: stage one's database, with the embedding state of every course."""

    SETTINGS = CatalogueSettings
    SECRETS = ("database_url",)

    database_url: str = setting(CatalogueSettings, "database_url")
    database_timeout_seconds: int = setting(CatalogueSettings, "database_timeout_seconds")

    _engine: Engine | None = PrivateAttr(default=None)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """A transaction that is committed at the end, or rolled back on an error."""
        with transaction(self.engine()) as session:
            yield session

    def engine(self) -> Engine:
        """The connections to the database, which this resource closes."""
        if self._engine is None:
            self._engine = create_catalogue_engine(self.settings())
        return self._engine

    def attempt(self, operation: Callable[[Session], T]) -> T:
        """Run an idempotent operation in a transaction, and retry it while the database is unavailable.

        Returns:
            The result of the operation.

        Raises:
            DatabaseUnavailableError: The database is still unavailable after `PATIENCE_SECONDS`. Raised at once if the
                database is not migrated, or if a row cannot be read.
        """

        def run_operation() -> T:
            with self.transaction() as session:
                return operation(session)

        retrying = Retrying(
            retry=retry_if_exception(is_temporary),
            stop=stop_after_delay(PATIENCE_SECONDS),
            wait=wait_exponential(multiplier=0.2, max=5),
            before_sleep=before_sleep_log(logger, logging.WARNING),
            reraise=True,
        )
        return retrying(run_operation)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - the interface
        """Close the connections."""
        if self._engine is not None:
            self._engine.dispose()


class VectorStoreResource(SettingsResource):
    """The Chroma server, which holds one collection per course."""

    SETTINGS = VectorStoreSettings
    chroma_url: str = setting(VectorStoreSettings, "chroma_url")
    chroma_timeout_seconds: float = setting(VectorStoreSettings, "chroma_timeout_seconds")

    _stores: dict[float, VectorStore] = PrivateAttr(default_factory=dict)

    def store(self, patience_seconds: float = 0.0) -> VectorStore:
        """The vector store. It connects on first use and is cached per value of `patience_seconds`.

        Args:
            patience_seconds: How long an operation is retried while the server is unavailable. Sensors pass 0, because
                a tick must be short.
        """
        if patience_seconds not in self._stores:
            self._stores[patience_seconds] = VectorStore(self.settings(), patience_seconds)
        return self._stores[patience_seconds]

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002 - the interface
        """Close the connections."""
        for store in self._stores.values():
            store.close()


class SnapshotResource(SettingsResource):
    """The directory that contains the snapshots of all courses."""

    SETTINGS = SnapshotSettings
    snapshot_dir: str = setting(SnapshotSettings, "snapshot_dir")

    def store(self) -> SnapshotStore:
        """The snapshots in the directory."""
        return SnapshotStore(self.settings())


class DocumentResource(SettingsResource):
    """The uploaded files, and the limits for the process that reads one."""

    SETTINGS = DocumentSettings
    upload_dir: str = setting(DocumentSettings, "upload_dir")
    document_timeout_seconds: float = setting(DocumentSettings, "document_timeout_seconds")
    document_max_memory_mb: int = setting(DocumentSettings, "document_max_memory_mb")
    document_max_characters: int = setting(DocumentSettings, "document_max_characters")

    def uploads(self) -> Uploads:
        """The files in UPLOAD_DIR."""
        return Uploads(self.settings().upload_dir)


class ExaminationResource(SettingsResource):
    """The examination of each new generation."""

    SETTINGS = ExaminationSettings
    examination_blocks: bool = setting(ExaminationSettings, "examination_blocks")


class GpuResource(SettingsResource):
    """The embedding model: on a GPU, on the CPU, or behind an embedding service. Loaded once per run."""

    SETTINGS = EmbeddingSettings
    SECRETS = ("embedding_service_token",)

    embedding_model_name: str = setting(EmbeddingSettings, "embedding_model_name")
    embedding_model_path: str = setting(EmbeddingSettings, "embedding_model_path")
    embedding_device: str = setting(EmbeddingSettings, "embedding_device")
    embedding_max_tokens: int = setting(EmbeddingSettings, "embedding_max_tokens")
    embedding_document_prompt: str | None = setting(EmbeddingSettings, "embedding_document_prompt")
    context_fields: str = setting(EmbeddingSettings, "context_fields")
    embedding_dtype: str = setting(EmbeddingSettings, "embedding_dtype")
    embedding_batch_tokens: int | None = setting(EmbeddingSettings, "embedding_batch_tokens")
    embedding_service_url: str | None = setting(EmbeddingSettings, "embedding_service_url")
    embedding_service_token: str | None = setting(EmbeddingSettings, "embedding_service_token")
    embedding_service_timeout_seconds: float = setting(EmbeddingSettings, "embedding_service_timeout_seconds")
    embedding_service_input_types: str | None = setting(EmbeddingSettings, "embedding_service_input_types")

    _embedder: Embedder | None = PrivateAttr(default=None)

    def embedder(self) -> Embedder:
        """The embedder. The first call loads the model.

        Raises:
            ModelUnavailableError: `EMBEDDING_MODEL_PATH` contains no usable model.
            EmbeddingServiceError: The service at `EMBEDDING_SERVICE_URL` cannot be used.
        """
        if self._embedder is None:
            self._embedder = open_embedder(self.settings(), PATIENCE_SECONDS)
        return self._embedder

    def signature(self) -> str:
        """The signature of the configured model, for sensors. Does not load the weights; errors as `embedder`.

        The settings are read again, because a run reads them anew: with old settings, a sensor would not recognize what
        the run has published.
        """
        return configured_signature(EmbeddingSettings())

    def context(self) -> ContextFields:
        """What is embedded with the texts, for sensors. The settings are read again, as by `signature`."""
        return EmbeddingSettings().context


class SearchAppResource(SettingsResource):
    """The search app. Materializations link to its search page and to the status of the course."""

    SETTINGS = SearchLinkSettings
    search_url: str = setting(SearchLinkSettings, "search_url")

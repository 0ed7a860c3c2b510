"""Creates the configured embedder: a local model, or the client of an embedding service."""

import math

from embedding.embedder import LocalEmbedder
from embedding.interface import Embedder
from embedding.model_files.model_directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder

SIGNATURE_TIMEOUT_SECONDS = 5.0
"""Upper limit of the timeout when only the signature is read: sensors and the doctor must not block for long."""


def open_embedder(
    settings: EmbeddingSettings, patience_seconds: float = 0.0, query_seconds: float = math.inf
) -> Embedder:
    """Return the configured embedder, ready to use. Loading a local model takes seconds.

    Args:
        settings: If EMBEDDING_SERVICE_URL is set, no local model is loaded and no model files are needed.
        patience_seconds: How long a call is retried while the service is unreachable or busy.
        query_seconds: How long a call of the service with queries takes at most.

    Raises:
        EmbeddingError: The model cannot be loaded, or the service is unreachable or runs another model.
    """
    if settings.embedding_service_url:
        return RemoteEmbedder(settings, patience_seconds, query_seconds)
    return LocalEmbedder.load(settings)


def configured_signature(settings: EmbeddingSettings) -> str:
    """Return the model signature of the configured embedder without loading the model.

    Raises:
        ModelUnavailableError: The model directory is missing or incomplete.
        EmbeddingServiceError: The service is unreachable or runs another model.
    """
    if not settings.embedding_service_url:
        return model_signature(settings)
    timeout = min(SIGNATURE_TIMEOUT_SECONDS, settings.embedding_service_timeout_seconds)
    return RemoteEmbedder(settings.model_copy(update={"embedding_service_timeout_seconds": timeout})).signature

"""The one place that decides where vectors come from: a model loaded here, or a service that is asked over HTTP."""

from embedding.embedder import LocalEmbedder
from embedding.interface import Embedder
from embedding.model_files.directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder

SIGNATURE_SECONDS = 5.0
"""Who asks for the signature alone has little time: a sensor, a diagnosis."""


def open_embedder(settings: EmbeddingSettings, patience_seconds: float = 0.0) -> Embedder:
    """The model as it is configured, ready to use; loading one takes seconds.

    Args:
        settings: With EMBEDDING_SERVICE_URL, no model is loaded here, and none need be here.
        patience_seconds: How long a call waits for a service that is away or busy.

    Raises:
        EmbeddingError: the model cannot be loaded; with a service, it is away or runs another model.
    """
    if settings.embedding_service_url:
        return RemoteEmbedder(settings, patience_seconds)
    return LocalEmbedder.load(settings)


def configured_signature(settings: EmbeddingSettings) -> str:
    """The signature of that model, without loading it.

    Raises:
        ModelUnavailableError: the model directory is missing or incomplete.
        EmbeddingServiceError: the service is away or runs another model.
    """
    if not settings.embedding_service_url:
        return model_signature(settings)
    seconds = min(SIGNATURE_SECONDS, settings.embedding_service_timeout_seconds)
    return RemoteEmbedder(settings.model_copy(update={"embedding_service_timeout_seconds": seconds})).signature

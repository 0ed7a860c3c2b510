"""`course-search embedding-service`: serve the embedding model to pipelines and search apps on other machines."""

from typing import Annotated

import typer

from cli.web_server import serve
from embedding.errors import ModelUnavailableError
from embedding.model_files.model_directory import read_model_directory
from embedding.model_settings import EmbeddingSettings
from search_api.app_settings import SearchSettings

APP = "search_api.app:create_embedding_app"


def embedding_service(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 9001,
) -> None:
    """Run the embedding model as a service: POST /embed, and POST /v1/embeddings for clients of OpenAI's API.

    If INTERNAL_TOKEN is set, clients must send it. Pipelines and search apps use the service at EMBEDDING_SERVICE_URL.
    """
    SearchSettings()  # an invalid setting is reported here, in one line
    try:
        read_model_directory(EmbeddingSettings().embedding_model_path)
    except ModelUnavailableError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    serve(APP, host, port)

"""`course-search search-app`: run the search app alone, as one process or several."""

from typing import Annotated

import typer

from cli.courses import fail
from cli.launcher_settings import LauncherSettings
from cli.web_server import serve
from embedding.model_settings import EmbeddingSettings
from search_api.app_settings import SearchSettings

APP = "search_api.app:create_app"


def search_app(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8000,
) -> None:
    """Run the search app; `up` does this too.

    With SEARCH_WORKERS, several processes share the port and the snapshots. They need an embedding service, because
    each would load the model.
    """
    SearchSettings()  # an invalid setting is reported here, in one line
    workers = LauncherSettings().search_workers
    if workers > 1 and not EmbeddingSettings().embedding_service_url:
        fail(
            f"{workers} processes (SEARCH_WORKERS) would each load the embedding model. Start `course-search "
            "embedding-service`, and set EMBEDDING_SERVICE_URL to its address, like http://127.0.0.1:9001."
        )
    serve(APP, host, port, workers)

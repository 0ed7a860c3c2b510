"""`course-search fetch-model`: download weights from the Hugging Face Hub to the configured directory."""

from pathlib import Path
from typing import Annotated

import typer

from embedding.errors import ModelFetchError
from embedding.model_files.download import DEFAULT_REPOSITORY
from embedding.model_files.download import fetch_model as fetch
from embedding.model_files.model_directory import check_model_files, read_model_directory
from embedding.model_settings import EmbeddingSettings
from retrieval.reranker import RerankerSettings

RERANKER_REPOSITORY = "Qwen/Qwen3-Reranker-0.6B"


def fetch_model(
    repository: Annotated[
        str | None,
        typer.Option(
            help=f"Repository on the Hugging Face Hub; {DEFAULT_REPOSITORY} or {RERANKER_REPOSITORY} by default."
        ),
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit; the newest commit by default.")] = None,
    destination: Annotated[
        Path | None,
        typer.Option(help="Directory for the files; EMBEDDING_MODEL_PATH or RERANKER_MODEL_PATH by default."),
    ] = None,
    reranker: Annotated[
        bool, typer.Option("--reranker", help="Download the rerank model instead of the embedding model.")
    ] = False,
) -> None:
    """Download the embedding model or the rerank model (1.2 GB each).

    Run it again to continue an interrupted download.
    """
    if reranker:
        name = repository or RERANKER_REPOSITORY
        target = destination or RerankerSettings().reranker_model_path
    else:
        name = repository or DEFAULT_REPOSITORY
        target = destination or EmbeddingSettings().embedding_model_path
    target = target.expanduser()
    typer.echo(f"Fetching {name} to {target}")
    try:
        fetch(target, name, revision, check=check_model_files if reranker else read_model_directory)
    except ModelFetchError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(f"{name} is complete. Start everything with `course-search up`.")

"""`course-search vector-store`: the Chroma server, one a directory."""

import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Annotated

import typer

from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory
from embedding.vector_store.files import SERVER_ADDRESS, SERVER_LOCK, orphaned_directories
from embedding.vector_store.server import VectorStoreSettings

ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def vector_store(
    host: Annotated[str, typer.Option(help="Address to listen on. Chroma knows no password: keep it private.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8001,
) -> None:
    """Run the Chroma server over CHROMA_DB_DIR until it is stopped.

    Two servers over one directory would corrupt it and Chroma does not notice, so a second one is refused here. The
    files of deleted collections, which Chroma leaves behind, are removed before it starts.
    """
    directory = VectorStoreSettings().chroma_db_dir
    try:
        lock_directory(directory, SERVER_LOCK)
    except DirectoryInUseError as error:
        typer.echo(f"{error}: a Chroma server runs there already.", err=True)
        raise typer.Exit(1) from error
    try:
        for orphan in orphaned_directories(directory.absolute()):
            typer.echo(f"Removing {orphan}, the files of a deleted collection")
            shutil.rmtree(orphan)
    except (OSError, sqlite3.Error) as error:
        typer.echo(f"Files of deleted collections stay: {error}", err=True)
    (directory / SERVER_ADDRESS).write_text(f"http://{'127.0.0.1' if host in ANY_HOST else host}:{port}")
    chroma = Path(sys.executable).with_name("chroma")
    # The lock's descriptor survives the exec: it is held for as long as Chroma runs.
    os.execv(chroma, [str(chroma), "run", "--path", str(directory), "--host", host, "--port", str(port)])  # noqa: S606

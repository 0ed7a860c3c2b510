"""`course-search vector-store`: the Chroma server, one a directory."""

import os
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer

from cli.locks import DirectoryInUseError, lock_directory, lock_holder
from embedding.settings import VectorStoreSettings

LOCK = ".server.lock"
ADDRESS = ".server.url"
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
        lock_directory(directory, LOCK)
    except DirectoryInUseError as error:
        typer.echo(f"{error}: a Chroma server runs there already.", err=True)
        raise typer.Exit(1) from error
    try:
        for orphan in orphaned_directories(directory.absolute()):
            typer.echo(f"Removing {orphan}, the files of a deleted collection")
            shutil.rmtree(orphan)
    except (OSError, sqlite3.Error) as error:
        typer.echo(f"Files of deleted collections stay: {error}", err=True)
    (directory / ADDRESS).write_text(f"http://{'127.0.0.1' if host in ANY_HOST else host}:{port}")
    chroma = Path(sys.executable).with_name("chroma")
    # The lock's descriptor survives the exec: it is held for as long as Chroma runs.
    os.execv(chroma, [str(chroma), "run", "--path", str(directory), "--host", host, "--port", str(port)])  # noqa: S606


def vector_store_settings() -> VectorStoreSettings:
    """The settings; a server that runs over CHROMA_DB_DIR says itself where, unless CHROMA_URL is set."""
    settings = VectorStoreSettings()
    directory, address = settings.chroma_db_dir, settings.chroma_db_dir / ADDRESS
    if "chroma_url" in settings.model_fields_set or not address.exists() or not lock_holder(directory, LOCK):
        return settings
    return settings.model_copy(update={"chroma_url": address.read_text()})


def orphaned_directories(directory: Path) -> list[Path]:
    """Directories of collections that Chroma has deleted; it never removes them itself.

    They are listed before the table is read: Chroma writes the row of a new one first.

    Args:
        directory: Chroma's, absolute.
    """
    database = directory / "chroma.sqlite3"
    if not database.exists():
        return []
    candidates = sorted(path for path in directory.iterdir() if path.is_dir() and _is_uuid(path.name))
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        known = {segment for (segment,) in connection.execute("SELECT id FROM segments")}
    return [path for path in candidates if path.name not in known]


def _is_uuid(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False

"""`course-search vector-store`: run the Chroma server, at most one per directory."""

import os
import shutil
import sqlite3
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli.courses import fail, open_catalogue, print_error
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory
from embedding.vector_store.files import SERVER_ADDRESS, SERVER_LOCK, removable_directories
from embedding.vector_store.purge import CannotPurgeError, clear_unused
from embedding.vector_store.server import VectorStoreSettings
from embedding.vector_store.server_process import run_server
from maintenance.restore import finish_restore, is_unfinished
from models.text import counted

OVERWRITE_FREED_MEMORY = "glibc.malloc.perturb=85:glibc.malloc.tcache_count=0"
"""Makes the C library of Linux (glibc) overwrite memory that is freed, also of up to 1,032 bytes, which it does not
overwrite while it keeps a cache of them for each thread. Chroma writes a part of its uninitialised memory to the files
of a new index, which otherwise contain texts of other courses.
"""
FEWER_LOG_LINES = {"RUST_LOG": "warn"}
"""By default Chroma logs every request with 2 KB, and its log is not rotated. The environment may set another level."""
ANY_HOST = ("0.0.0.0", "::")  # noqa: S104 - only compared with the option


def vector_store(
    host: Annotated[
        str, typer.Option(help="Address to listen on. Chroma has no authentication: use a private network.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="Port to listen on.")] = 8001,
) -> None:
    """Run a Chroma server with the data in CHROMA_DB_DIR.

    A second server for the same directory is refused: it would corrupt the data, and Chroma does not prevent it. Before
    the start, an interrupted restore is completed, which needs the catalogue. The files of deleted collections are
    removed, because Chroma does not remove them, and parts of files that contain nothing are cleared. A server that
    uses more than CHROMA_MAX_MEMORY_MB, or most of the files that it may open, is restarted: Chroma keeps in memory
    what it has read or written.
    """
    settings = VectorStoreSettings()
    directory = settings.chroma_db_dir.resolve()
    try:
        lock = lock_directory(directory, SERVER_LOCK)
    except DirectoryInUseError as error:
        typer.echo(f"{error}: a Chroma server runs there already.", err=True)
        raise typer.Exit(1) from error
    if is_unfinished(directory):
        _finish_restore(directory)
    (directory / SERVER_ADDRESS).write_text(f"http://{'127.0.0.1' if host in ANY_HOST else host}:{port}")
    chroma = Path(sys.executable).with_name("chroma")
    code = run_server(
        [str(chroma), "run", "--path", str(directory), "--host", host, "--port", str(port)],
        {**FEWER_LOG_LINES, **os.environ, "GLIBC_TUNABLES": _tunables()},
        lock,
        max_memory_mb=settings.chroma_max_memory_mb,
        before_start=lambda: _clean(directory),
        on_message=typer.echo,
    )
    raise typer.Exit(code if code >= 0 else 128 - code)


def _tunables() -> str:
    """Those of the environment and ours, which come last and so apply."""
    return ":".join(filter(None, (os.environ.get("GLIBC_TUNABLES"), OVERWRITE_FREED_MEMORY)))


def _clean(directory: Path) -> None:
    try:
        for orphan in removable_directories(directory.absolute()):
            typer.echo(f"Removing {orphan}, the files of a deleted collection")
            shutil.rmtree(orphan)
    except (OSError, sqlite3.Error) as error:
        typer.echo(f"The files of deleted collections could not be removed: {error}", err=True)
    try:
        clear_unused(directory)
    except CannotPurgeError as error:
        typer.echo(f"{error}, so that they may contain deleted texts.", err=True)


def _finish_restore(directory: Path) -> None:
    typer.echo(f"A restore of {directory} was interrupted. It is completed before the server starts.")
    with open_catalogue() as engine:
        try:
            courses = finish_restore(engine, directory, print_error)
        except OSError as error:
            fail(f"The restore cannot be completed: {error}")
    typer.echo(f"{counted(courses, 'course')} restored.")

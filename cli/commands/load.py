"""`course-search load`: load Ready-to-Embed rows from files into the catalogue, as stage one would."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import Annotated, BinaryIO, NoReturn, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from models.database import CatalogueSettings, DatabaseUnavailableError, create_catalogue_engine, transaction
from models.loading import LoadError, Source
from models.loading import load as load_sources

STANDARD_INPUT = "-"
MAX_BYTES_IN_MEMORY = 16 * 2**20


def load(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="JSON Lines file, or - for standard input.")],
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Also delete those chunks of the loaded courses that are not in the input."),
    ] = False,
) -> None:
    """Load courses from Ready-to-Embed rows (JSON Lines) in one transaction.

    Each line is an object with id, course_id, lecture_id, section_id, order_in_section, text, language, source_type
    and, optionally, metadata. Afterwards the courses are marked as ingested, so the pipeline embeds them.
    """
    settings = CatalogueSettings()
    try:
        engine = create_catalogue_engine(settings)
    except ValueError as error:
        _fail(str(error))
    try:
        with _open_all(files) as sources, transaction(engine) as session:
            courses = load_sources(session, sources, replace=replace)
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (LoadError, DatabaseUnavailableError) as error:
        _fail(str(error))
    finally:
        engine.dispose()
    for course in courses:
        typer.echo(course)


def _fail(message: str) -> NoReturn:
    typer.echo(message, err=True)
    typer.echo("Nothing was loaded.", err=True)
    raise typer.Exit(1)


@contextmanager
def _open_all(files: list[str]) -> Iterator[list[Source]]:
    """Open all inputs before any is read; reading them advances a progress bar on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    with ExitStack() as stack:
        streams = [(name, _open(stack, name)) for name in files]
        progress = stack.enter_context(
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        )
        yield [(name, progress.wrap_file(stream, _size(stream), description=name)) for name, stream in streams]


def _open(stack: ExitStack, name: str) -> BinaryIO:
    stream: BinaryIO = sys.stdin.buffer
    if name != STANDARD_INPUT:
        stream = stack.enter_context(Path(name).open("rb"))  # noqa: SIM115 - the stack closes it
    if stream.seekable():
        return stream
    # Read to the end before the transaction begins: a slow writer upstream must not keep the database locked.
    spool = cast(BinaryIO, stack.enter_context(SpooledTemporaryFile(MAX_BYTES_IN_MEMORY)))  # noqa: SIM115
    shutil.copyfileobj(stream, spool)
    spool.seek(0)
    return spool


def _size(stream: BinaryIO) -> int:
    size = stream.seek(0, 2)
    stream.seek(0)
    return size

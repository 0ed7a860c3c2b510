"""`course-search restore`: replace all collections by those of a backup, while everything is stopped."""

import shutil
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cli.courses import catalogue, complain, fail
from cli.launcher_settings import PRODUCT_LOCK, LauncherSettings
from embedding.vector_store.archive import ArchiveError, open_archive
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.server import VectorStoreSettings
from maintenance.restore import (
    CannotRestoreError,
    courses_to_restore,
    everything_stopped,
    new_directory,
    swap_directories,
)
from models.database import DatabaseUnavailableError


def restore(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A file that `course-search backup` wrote.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Replace the vectors of all courses by those of a backup. Everything must be stopped.

    The catalogue (stage one's database) says as before which courses there are; it is not in the backup. Those that the
    backup lacks, or that changed since, are embedded at the next start. Works on CHROMA_DB_DIR, which is on the machine
    of the Chroma server, and needs room beside it for a second one. If it was interrupted, run it again.
    """
    directory = VectorStoreSettings().chroma_db_dir.resolve()
    with ExitStack() as stack:
        try:
            backup = stack.enter_context(open_archive(archive))
            product_lock = (LauncherSettings().dagster_home.absolute(), PRODUCT_LOCK)
            stack.enter_context(everything_stopped(directory, [product_lock]))
            engine = stack.enter_context(catalogue())
            courses, unknown, not_saved = courses_to_restore(engine, backup)
            for course_id in unknown:
                complain(f"Left out: {course_id}: it is not in the catalogue")
            typer.echo(
                f"{archive}: {len(courses)} courses, saved on {backup.manifest.created_at:%Y-%m-%d at %H:%M} UTC"
            )
            if not yes:
                _confirm(f"Replace everything in {directory}?")
            new = stack.enter_context(new_directory(directory, backup, courses))
        except (ArchiveError, CannotRestoreError, DatabaseUnavailableError, VectorStoreError, OSError) as error:
            complain(str(error))
            fail("Nothing was changed.")
        try:
            old = swap_directories(engine, directory, new, courses)
        except (DatabaseUnavailableError, OSError, KeyboardInterrupt) as error:
            complain(str(error) or "Interrupted")
            fail("The restore is half done, and no course can be searched: run it again.")
        try:
            shutil.rmtree(old)
        except OSError as error:
            complain(f"The old files are of no use any more, and remain: {error}")
    typer.echo(f"{len(courses)} courses are restored. Start everything again.")
    if not_saved:
        typer.echo(f"{not_saved} courses are not in the backup: they will be embedded when everything runs.")


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CannotRestoreError("There is no terminal to ask for a confirmation: say --yes")
    if not typer.confirm(question):
        raise CannotRestoreError("Not confirmed")

"""`course-search restore`: replace all collections with those of a backup, while everything is stopped."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from cli.courses import fail, open_catalogue, print_error
from cli.launcher_settings import PRODUCT_LOCK, LauncherSettings
from embedding.vector_store.archive import ArchiveError, open_archive
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.server import VectorStoreSettings
from maintenance.restore import (
    CannotRestoreError,
    build_directory,
    courses_to_restore,
    everything_stopped,
    finish_restore,
    is_unfinished,
)
from models.database import DatabaseUnavailableError
from models.text import counted


def restore(
    archive: Annotated[Path, typer.Argument(metavar="ARCHIVE", help="A file that `course-search backup` wrote.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Replace the vectors of all courses with those of a backup. Everything must be stopped.

    The catalogue (stage one's database) is not in the backup and keeps its courses. Courses that are missing in the
    backup, or have changed since, are embedded at the next start. Run the command on the machine of the Chroma server:
    it replaces CHROMA_DB_DIR, and needs disk space for a second copy next to it. If it is interrupted, the next start
    of the Chroma server completes it, or run it again.
    """
    directory = VectorStoreSettings().chroma_db_dir.resolve()
    with ExitStack() as stack:
        try:
            backup = stack.enter_context(open_archive(archive.expanduser()))
            product_lock = (LauncherSettings().dagster_home.absolute(), PRODUCT_LOCK)
            stack.enter_context(everything_stopped(directory, [product_lock]))
            engine = stack.enter_context(open_catalogue())
            courses, unknown, not_saved = courses_to_restore(engine, backup)
            for course_id in unknown:
                print_error(f"Left out: {course_id}: it is not in the catalogue")
            typer.echo(
                f"{archive}: {len(courses)} courses, saved on {backup.manifest.created_at:%Y-%m-%d at %H:%M} UTC"
            )
            if not yes:
                _confirm(f"Replace everything in {directory}?")
            if is_unfinished(directory):
                finished = finish_restore(engine, directory, print_error)
                typer.echo(f"A restore of {counted(finished, 'course')} had been interrupted, and is complete now.")
            build_directory(directory, backup, courses)
        except (ArchiveError, CannotRestoreError, DatabaseUnavailableError, VectorStoreError, OSError) as error:
            print_error(str(error))
            fail("Nothing was changed.")
        try:
            finish_restore(engine, directory, print_error)
        except (DatabaseUnavailableError, OSError, KeyboardInterrupt) as error:
            print_error(str(error) or "Interrupted")
            fail("The restore is incomplete. The next start of the Chroma server completes it, or run it again.")
    typer.echo(f"{len(courses)} courses are restored. Start everything again.")
    if not_saved:
        typer.echo(f"{not_saved} courses are not in the backup: they will be embedded when everything runs.")


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CannotRestoreError("There is no terminal to ask for a confirmation: use --yes")
    if not typer.confirm(question):
        raise CannotRestoreError("Not confirmed")

"""`course-search restore`: the collections of a backup in place of those there are, while everything is stopped.

Each step leaves something that a second restore, or the pipeline, takes up, whenever the process or the machine dies:

1. a complete new directory is built beside CHROMA_DB_DIR: nothing has changed yet;
2. the catalogue takes back what it says of every course: nothing is searchable, and the old collections are kept;
3. the directories are swapped, by two renames;
4. the catalogue declares the courses of the backup done, with the fingerprints they were saved with: the pipeline then
   embeds what changed since, and no more;
5. the old directory is removed.
"""

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cli.courses import catalogue, complain, fail
from cli.locks import DirectoryInUseError, lock_directory
from cli.progress import progress
from cli.settings import LauncherSettings
from cli.up import LOCK as PRODUCT_LOCK
from cli.vector_store import LOCK as SERVER_LOCK
from embedding.archive import Archive, ArchiveError, SavedCourse, open_archive
from embedding.offline_store import OfflineVectorStore
from embedding.settings import VectorStoreSettings
from embedding.vector_store import VectorStore, VectorStoreError
from models.catalogue import course_ids, restore_course, set_back_all
from models.database import DatabaseUnavailableError, Engine, transaction

NEW, OLD = ".restoring", ".before-restore"
"""End the names of the directory that is being built, and of the one it replaces until that is removed."""
ROOM, ROOM_PER_COURSE = 4, 2**20
"""Chroma's files take about three times the bytes of what they hold, and half a megabyte a collection."""


class CannotRestoreError(Exception):
    """The archive can't be restored here and now; the message says why."""


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
            stack.enter_context(_everything_stopped(directory))
            engine = stack.enter_context(catalogue())
            courses, lacking = _courses_to_restore(engine, backup)
            typer.echo(
                f"{archive}: {len(courses)} courses, saved on {backup.manifest.created_at:%Y-%m-%d at %H:%M} UTC"
            )
            if not yes:
                _confirm(f"Replace everything in {directory}?")
            new = stack.enter_context(_built(directory, backup, courses))
        except (ArchiveError, CannotRestoreError, DatabaseUnavailableError, VectorStoreError, OSError) as error:
            complain(str(error))
            fail("Nothing was changed.")
        try:
            old = _replace(engine, directory, new, courses)
        except (DatabaseUnavailableError, OSError, KeyboardInterrupt) as error:
            complain(str(error) or "Interrupted")
            fail("The restore is half done, and no course can be searched: run it again.")
        try:
            shutil.rmtree(old)
        except OSError as error:
            complain(f"The old files are of no use any more, and remain: {error}")
    typer.echo(f"{len(courses)} courses are restored. Start everything again.")
    if lacking:
        typer.echo(f"{lacking} courses are not in the backup: they will be embedded when everything runs.")


@contextmanager
def _everything_stopped(directory: Path) -> Iterator[None]:
    """Makes sure that nobody uses the vectors, and that nobody starts to until the block ends."""
    if directory.is_mount():
        raise CannotRestoreError(f"{directory} is a mount point: set CHROMA_DB_DIR to a directory inside of it")
    with ExitStack() as stack:
        for place, name in ((LauncherSettings().dagster_home.absolute(), PRODUCT_LOCK), (directory, SERVER_LOCK)):
            try:
                stack.callback(os.close, lock_directory(place, name))
            except DirectoryInUseError as error:
                raise CannotRestoreError(f"{error}: stop everything first") from error
        settings = VectorStoreSettings()
        if VectorStore(settings).answers():
            raise CannotRestoreError(
                f"A Chroma server answers at {settings.chroma_url}: stop it first. A restore replaces {directory} "
                "(CHROMA_DB_DIR), so run it on the machine that has the server's files"
            )
        yield


def _courses_to_restore(engine: Engine, backup: Archive) -> tuple[list[SavedCourse], int]:
    """The courses of the backup that there still are, and how many there are besides."""
    with transaction(engine) as session:
        known = set(course_ids(session))
    courses = [course for course in backup.manifest.courses if course.course_id in known]
    if not courses:
        raise CannotRestoreError("The catalogue at DATABASE_URL has no course of this backup: is it the right one?")
    for course in backup.manifest.courses:
        if course.course_id not in known:
            complain(f"Left out: {course.course_id}: it is not in the catalogue")
    return courses, len(known) - len(courses)


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CannotRestoreError("There is no terminal to ask for a confirmation: say --yes")
    if not typer.confirm(question):
        raise CannotRestoreError("Not confirmed")


@contextmanager
def _built(directory: Path, backup: Archive, courses: Sequence[SavedCourse]) -> Iterator[Path]:
    """A complete directory of these collections beside the one in use; removed at the end unless it was moved away."""
    new = directory.with_name(directory.name + NEW)
    if new.exists():
        shutil.rmtree(new)
    needed = ROOM * backup.size + ROOM_PER_COURSE * len(courses)
    free = shutil.disk_usage(directory.parent).free
    if free < needed:
        raise CannotRestoreError(
            f"{directory.parent} has {free >> 20} MB of free space, and the new files need about {needed >> 20} MB"
        )
    # Locked like the one in use, whose lock will move away with it.
    lock = lock_directory(new, SERVER_LOCK)
    try:
        with progress("Restoring", sum(course.chunks for course in courses)) as advance:
            _fill(new, backup, courses, advance)
        os.sync()
        yield new
    finally:
        os.close(lock)
        shutil.rmtree(new, ignore_errors=True)


def _fill(new: Path, backup: Archive, courses: Sequence[SavedCourse], on_page: Callable[[int], None]) -> None:
    store = OfflineVectorStore(new)
    try:
        for course in courses:
            collection = store.create(course.info)
            for records, vectors in backup.pages(course):
                collection.upsert(records, vectors)
                on_page(len(records))
            store.close()  # or it would keep every course in memory; and what is counted comes from the files
            stored = store.open(course.course_id).count()
            if stored != course.chunks:
                raise CannotRestoreError(f"Course {course.course_id} has {stored} documents, not {course.chunks}")
    finally:
        store.close()


def _replace(engine: Engine, directory: Path, new: Path, courses: Sequence[SavedCourse]) -> Path:
    """Puts the new directory into the place of the one in use, and returns where that is now."""
    old = directory.with_name(directory.name + OLD)
    with transaction(engine) as session:
        set_back_all(session)
    if old.exists():
        shutil.rmtree(old)  # of a restore that was interrupted
    directory.rename(old)
    new.rename(directory)
    os.sync()
    with transaction(engine) as session:
        for course in courses:
            restore_course(session, course.course_id, course.fingerprint)
    return old

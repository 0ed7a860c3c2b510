"""Restores a backup: replaces all collections, while all processes are stopped.

A restore has five steps:

1. It builds a complete new directory next to CHROMA_DB_DIR.
2. It resets all courses in the catalogue, so that none is searchable. The old collections are kept.
3. It swaps the directories by two renames.
4. It marks the courses of the backup as `done` with the fingerprints from the backup, so the pipeline embeds only what
   has changed since.
5. It removes the old directory.

After an interruption at any step, a second restore or the pipeline completes the work.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from embedding.vector_store.archive import Archive, SavedCourse
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory
from embedding.vector_store.files import SERVER_LOCK, foreign_files
from embedding.vector_store.offline import OfflineVectorStore
from embedding.vector_store.server import VectorStoreSettings
from maintenance.progress import progress
from models.course_state import mark_restored, reset_all
from models.courses import list_course_ids
from models.database import Engine, transaction

NEW_SUFFIX, OLD_SUFFIX = ".restoring", ".before-restore"
"""Suffixes of the new directory until the swap, and of the old directory from the swap until its removal."""
SPACE_FACTOR, SPACE_PER_COURSE = 4, 2**20
"""Required disk space per byte of the backup's uncompressed contents, and bytes per course.

Chroma's files are about three times as large as their contents, plus half a megabyte per collection.
"""


class CannotRestoreError(Exception):
    """The backup cannot be restored; the message says why."""


class CoursesToRestore(NamedTuple):
    """The courses of a backup compared with those of the catalogue."""

    courses: list[SavedCourse]
    """Courses of the backup that are in the catalogue."""
    unknown: list[str]
    """Ids of courses of the backup that are not in the catalogue; they are left out."""
    not_saved: int
    """Number of courses of the catalogue that are not in the backup; they will be embedded."""


@contextmanager
def everything_stopped(directory: Path, other_locks: Sequence[tuple[Path, str]] = ()) -> Iterator[None]:
    """Check that no process uses the vectors, and hold the locks until the end of the block, so that none starts.

    Args:
        directory: Chroma's directory.
        other_locks: Directory and name of each further lock to hold.

    Raises:
        CannotRestoreError: A process is running, or the directory is a mount point or contains other files.
    """
    if foreign := foreign_files(directory):
        raise CannotRestoreError(
            f"{directory} contains {foreign[0].name}, which is not a file of Chroma. A restore would delete it: set "
            "CHROMA_DB_DIR to a directory that contains nothing else"
        )
    if directory.is_mount():
        raise CannotRestoreError(f"{directory} is a mount point: set CHROMA_DB_DIR to a directory inside it")
    with ExitStack() as stack:
        for locked_directory, name in (*other_locks, (directory, SERVER_LOCK)):
            try:
                stack.callback(os.close, lock_directory(locked_directory, name))
            except DirectoryInUseError as error:
                raise CannotRestoreError(f"{error}: stop everything first") from error
        settings = VectorStoreSettings()
        if VectorStore(settings).answers():
            raise CannotRestoreError(
                f"A Chroma server answers at {settings.chroma_url}: stop it first. A restore replaces {directory} "
                "(CHROMA_DB_DIR), so run it on the machine that has the server's files"
            )
        yield


def courses_to_restore(engine: Engine, backup: Archive) -> CoursesToRestore:
    """Compare the backup with the catalogue.

    Raises:
        CannotRestoreError: The backup and the catalogue have no course in common.
    """
    with transaction(engine) as session:
        known = set(list_course_ids(session))
    courses = [course for course in backup.manifest.courses if course.course_id in known]
    if not courses:
        raise CannotRestoreError("The catalogue at DATABASE_URL has no course of this backup: is it the right one?")
    unknown = [course.course_id for course in backup.manifest.courses if course.course_id not in known]
    return CoursesToRestore(courses, unknown, len(known) - len(courses))


@contextmanager
def new_directory(directory: Path, backup: Archive, courses: Sequence[SavedCourse]) -> Iterator[Path]:
    """Build a directory of these collections next to the present one. It is removed at the end unless it was moved.

    Raises:
        CannotRestoreError: There is too little space, or a collection could not be written completely.
        ArchiveError: The archive cannot be read.
        VectorStoreError: Chroma failed.
        OSError: The files cannot be written.
    """
    new = directory.with_name(directory.name + NEW_SUFFIX)
    if new.exists():
        shutil.rmtree(new)
    needed = SPACE_FACTOR * backup.size + SPACE_PER_COURSE * len(courses)
    free = shutil.disk_usage(directory.parent).free
    if free < needed:
        raise CannotRestoreError(
            f"{directory.parent} has {free >> 20} MB of free space, and the new files need about {needed >> 20} MB"
        )
    # The new directory becomes CHROMA_DB_DIR. The swap moves the present lock file away with the old directory.
    lock = lock_directory(new, SERVER_LOCK)
    try:
        with progress("Restoring", sum(course.chunks for course in courses)) as advance:
            _write_collections(new, backup, courses, advance)
        os.sync()
        yield new
    finally:
        os.close(lock)
        shutil.rmtree(new, ignore_errors=True)


def swap_directories(engine: Engine, directory: Path, new: Path, courses: Sequence[SavedCourse]) -> Path:
    """Replace the present directory by the new one, and mark the courses as restored.

    Returns:
        The old directory, which can be removed.
    """
    old = directory.with_name(directory.name + OLD_SUFFIX)
    with transaction(engine) as session:
        reset_all(session)
    if old.exists():
        shutil.rmtree(old)  # left by an interrupted restore
    directory.rename(old)
    new.rename(directory)
    os.sync()
    with transaction(engine) as session:
        for course in courses:
            mark_restored(session, course.course_id, course.fingerprint)
    return old


def _write_collections(
    directory: Path, backup: Archive, courses: Sequence[SavedCourse], on_page: Callable[[int], None]
) -> None:
    store = OfflineVectorStore(directory)
    try:
        for course in courses:
            collection = store.create(course.info)
            for records, vectors in backup.pages(course):
                collection.upsert(records, vectors)
                on_page(len(records))
            store.close()  # frees the course's memory, and makes the count below read the files
            stored = store.open(course.course_id).count()
            if stored != course.chunks:
                raise CannotRestoreError(f"Course {course.course_id} has {stored} documents, not {course.chunks}")
    finally:
        store.close()

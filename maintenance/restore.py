"""Restores a backup: replaces all collections, while all processes are stopped.

A restore has six steps:

1. It builds a complete new directory next to CHROMA_DB_DIR. The file that it writes last is the plan: the courses and
   their fingerprints in the backup.
2. It resets all courses in the catalogue, so that none is searchable.
3. It swaps the directories by two renames.
4. It marks the courses of the plan as `done` with the fingerprints of the backup, so the pipeline embeds only what has
   changed since.
5. It removes the old directory.
6. It removes the plan.

A restore that is interrupted before the plan exists has changed nothing. After that, `finish_restore` repeats steps 2
to 6 as needed. Every start of the Chroma server calls it, and so does the next restore. So no process ever uses a
directory that does not match the catalogue, and nothing of the backup is embedded again.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from embedding.vector_store.archive import Archive, SavedCourse
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.directory_lock import DirectoryInUseError, lock_directory
from embedding.vector_store.files import RESTORE_PLAN, SERVER_LOCK, foreign_files
from embedding.vector_store.offline import OfflineVectorStore
from embedding.vector_store.server import VectorStoreSettings
from maintenance.progress import progress
from models.course_state import mark_restored, reset_all
from models.courses import list_course_ids
from models.database import Engine, transaction
from models.settings import without_password

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
                f"A Chroma server answers at {without_password(settings.chroma_url)}: stop it first. A restore "
                f"replaces {directory} (CHROMA_DB_DIR), so run it on the machine that has the server's files"
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


def build_directory(directory: Path, backup: Archive, courses: Sequence[SavedCourse]) -> None:
    """Build a directory of these collections next to the present one; `finish_restore` replaces the present one by it.

    Args:
        directory: Chroma's directory. The caller holds its lock, and has finished an interrupted restore.
        backup: The backup.
        courses: The courses to restore.

    Raises:
        CannotRestoreError: There is too little space, or a collection could not be written completely.
        ArchiveError: The archive cannot be read.
        VectorStoreError: Chroma failed.
        OSError: The files cannot be written.
    """
    new = _with_suffix(directory, NEW_SUFFIX)
    if new.exists():
        shutil.rmtree(new)
    needed = SPACE_FACTOR * backup.size + SPACE_PER_COURSE * len(courses)
    free = shutil.disk_usage(directory.parent).free
    if free < needed:
        raise CannotRestoreError(
            f"{directory.parent} has {free >> 20} MB of free space, and the new files need about {needed >> 20} MB"
        )
    plan = new / RESTORE_PLAN
    partial = plan.with_suffix(".partial")
    try:
        new.mkdir()
        with progress("Restoring", sum(course.chunks for course in courses)) as advance:
            _write_collections(new, backup, courses, advance)
        partial.write_text(json.dumps({course.course_id: course.fingerprint for course in courses}))
        os.sync()
        partial.rename(plan)
        os.sync()
    except BaseException:
        plan.unlink(missing_ok=True)  # first, because a directory with a plan counts as complete
        shutil.rmtree(new, ignore_errors=True)
        raise


def is_unfinished(directory: Path) -> bool:
    """Whether a restore was interrupted after it had built a complete directory, so that `finish_restore` is due."""
    return any((path / RESTORE_PLAN).exists() for path in (directory, _with_suffix(directory, NEW_SUFFIX)))


def finish_restore(engine: Engine, directory: Path, on_message: Callable[[str], None]) -> int:
    """Replace the present directory by the new one, and mark its courses as restored. Can be repeated at any point.

    Args:
        engine: The catalogue.
        directory: Chroma's directory. The caller holds its lock, which is then the lock of the new directory.
        on_message: Called with a line if the old directory cannot be removed.

    Returns:
        Number of courses in the new directory.

    Raises:
        DatabaseUnavailableError: The catalogue is unavailable.
        OSError: The directories cannot be renamed.
    """
    new, old = _with_suffix(directory, NEW_SUFFIX), _with_suffix(directory, OLD_SUFFIX)
    if (new / RESTORE_PLAN).exists():
        # Also if the present directory was renamed already: the lock has created it again.
        if old.exists():
            shutil.rmtree(old)
        with transaction(engine) as session:
            reset_all(session)
        (new / SERVER_LOCK).unlink(missing_ok=True)
        (new / SERVER_LOCK).hardlink_to(directory / SERVER_LOCK)
        directory.rename(old)
        new.rename(directory)
        os.sync()
    plan = directory / RESTORE_PLAN
    fingerprints: dict[str, str] = json.loads(plan.read_text())
    with transaction(engine) as session:
        for course_id, fingerprint in fingerprints.items():
            mark_restored(session, course_id, fingerprint)
    if old.exists():
        try:
            shutil.rmtree(old)
        except OSError as error:
            on_message(f"The old files are no longer needed, but could not be deleted: {error}")
    plan.unlink()
    return len(fingerprints)


def _with_suffix(directory: Path, suffix: str) -> Path:
    return directory.with_name(directory.name + suffix)


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

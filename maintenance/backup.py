"""Backs up the collections of all courses into one file, while the pipeline and the search app run.

Chroma's directory cannot be copied while its server writes to it, so the courses are read through the server, one by
one. A course is saved if its row is `done` and has not changed while its collection was read, because a run changes the
row before it changes the collection.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import Field

from embedding.vector_store.archive import ArchiveError, ArchiveWriter, SavedCourse, create_archive
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError, VectorStoreUnreachableError
from maintenance.progress import progress
from models.courses import get_course, list_courses
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint
from models.settings import Settings
from models.tables import EmbeddingStatus

PAUSES_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Pause in seconds before each round. A round retries the courses that were being embedded in the previous one."""


class BackupSettings(Settings):
    """Where backups are written, and how many are kept."""

    backup_dir: Path = Field(Path("./data/backups"), description="Directory of the backups.")
    backup_keep: int = Field(
        7, gt=0, description="Number of scheduled backups that are kept. A backup made by hand is never deleted."
    )


def archive_path(directory: Path, made_by: str = "") -> Path:
    """The path of a new backup: its name contains the time, after a prefix that tells who makes it."""
    return directory / f"course-search-{made_by}{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip"


class CourseBusyError(Exception):
    """The course is being embedded, so its collection cannot be read now."""


class CourseLeftOutError(Exception):
    """The course is not embedded, or was deleted: there is nothing to save."""


class CourseDamagedError(Exception):
    """The course is published, but its collection is missing, damaged or does not match the fingerprint."""


class Publication(NamedTuple):
    """The columns of a course's row that change before its collection changes."""

    status: str
    generation: int
    fingerprint: str | None


@dataclass
class BackupReport:
    """The result of a backup."""

    saved: list[SavedCourse] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Reason by course id."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Problem by course id."""


def back_up(engine: Engine, store: VectorStore, path: Path, on_message: Callable[[str], None]) -> BackupReport:
    """Save the collections of all published courses to a new file, which appears when it is complete.

    Args:
        engine: The catalogue.
        store: The vector store.
        path: The file; it must not exist.
        on_message: Called with a line for each pause, and for each course that is left out.

    Raises:
        ArchiveError: No course can be saved, the file exists, or its verification failed.
        VectorStoreError: The vector store is unavailable.
        OSError: The file cannot be written.
        DatabaseUnavailableError: The catalogue is unavailable.
    """
    with create_archive(path) as archive:
        report = _save_all(engine, store, archive, on_message)
        for course_id, reason in (report.left_out | report.damaged).items():
            on_message(f"Left out: {course_id}: {reason}")
    return report


def _save_all(
    engine: Engine, store: VectorStore, archive: ArchiveWriter, on_message: Callable[[str], None]
) -> BackupReport:
    report = BackupReport(archive.courses)
    with transaction(engine) as session:
        courses = list_courses(session)
    published = (CourseFingerprint.parse(course.embedding_fingerprint) for course in courses)
    busy = {course.id: "" for course in courses}
    with progress("Saving", sum(fingerprint.chunks for fingerprint in published if fingerprint)) as advance:
        for pause in PAUSES_SECONDS:
            if pause and busy:
                on_message(f"Waiting {pause:g} s: {len(busy)} of {len(courses)} courses are being embedded …")
                time.sleep(pause)
            for course_id in list(busy):
                try:
                    _save(course_id, engine, store, archive, advance)
                except CourseBusyError as error:
                    busy[course_id] = str(error)
                    continue
                except CourseLeftOutError as error:
                    report.left_out[course_id] = str(error)
                except CourseDamagedError as error:
                    report.damaged[course_id] = str(error)
                del busy[course_id]
    report.left_out |= busy
    return report


def _save(
    course_id: str, engine: Engine, store: VectorStore, archive: ArchiveWriter, on_page: Callable[[int], None]
) -> None:
    before = _publication(engine, course_id)
    if before.status in (EmbeddingStatus.PENDING, EmbeddingStatus.RUNNING):
        raise CourseBusyError(f"it is being embedded ({before.status})")
    if before.status != EmbeddingStatus.DONE:
        raise CourseLeftOutError(f"it is not embedded ({before.status})")
    fingerprint = CourseFingerprint.parse(before.fingerprint)
    if fingerprint is None:
        raise CourseDamagedError(f"its fingerprint cannot be read ({before.fingerprint}); rebuild it")
    try:
        collection = store.open(course_id)
        with archive.spool(collection.contents(), on_page) as spool:
            if _publication(engine, course_id) != before:
                raise CourseBusyError("it was embedded again while it was read")
            archive.add(spool, collection.info, before.generation, fingerprint)
    except VectorStoreUnreachableError:
        raise
    except (VectorStoreError, ArchiveError) as error:
        if _publication(engine, course_id) != before:
            raise CourseBusyError("it was embedded again while it was read") from error
        raise CourseDamagedError(f"its collection is damaged ({error}); rebuild it") from error


def _publication(engine: Engine, course_id: str) -> Publication:
    with transaction(engine) as session:
        course = get_course(session, course_id)
    if course is None:
        raise CourseLeftOutError("it is no longer in the catalogue")
    return Publication(course.embedding_status, course.embedding_generation, course.embedding_fingerprint)

"""`course-search backup`: the collections of all courses into one file, while everything goes on.

Chroma's directory can't be copied while its server writes to it, so the courses are read through the server, one by
one. A course is taken when its row says that it is published, and says the same after the reading: a run changes the
row before it changes anything else.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, NamedTuple

import typer
from rich.filesize import decimal

from cli.courses import Json, catalogue, complain, fail
from cli.progress import progress
from cli.vector_store import vector_store_settings
from embedding.archive import ArchiveError, ArchiveWriter, SavedCourse, new_archive
from embedding.vector_store import VectorStore, VectorStoreAwayError, VectorStoreError
from models.catalogue import get_course, list_courses
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus

BACKUPS = Path("./data/backups")
WAITS = (0.0, 1.0, 2.0, 4.0, 8.0, 15.0)
"""Seconds before each round over the courses that were busy in the last one."""


class CourseBusyError(Exception):
    """The course is being embedded: its collection is not to be read now."""


class CourseLeftOutError(Exception):
    """The course is not embedded, so there is nothing to save."""


class CourseDamagedError(Exception):
    """The course is published, and its collection is not what was published."""


class Publication(NamedTuple):
    """What a course's row says of its collection: the same before and after a reading means all of one making."""

    status: str
    generation: int
    fingerprint: str | None


@dataclass
class Outcome:
    """What became of each course."""

    saved: list[SavedCourse] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    """Course id → why."""
    damaged: dict[str, str] = field(default_factory=dict)
    """Course id → what is wrong."""


def backup(
    output: Annotated[
        Path, typer.Option(metavar="FILE_OR_DIR", help="The archive, or an existing directory for one of a usual name.")
    ] = BACKUPS,
    as_json: Json = False,
) -> None:
    """Save the vectors of all embedded courses in one file, while everything goes on.

    Exit code 1 means that no file was written, or that it lacks a course whose collection is damaged. A course that is
    not embedded yet, or that is being embedded the whole time, is left out by name; a restore has it embedded again.

    The catalogue (stage one's database) is not in the file: save it with the database's own tools.
    """
    path = output
    if output == BACKUPS or output.is_dir():
        path = output / f"course-search-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip"
    store = VectorStore(vector_store_settings())
    try:
        with catalogue() as engine, new_archive(path) as archive:
            outcome = _save_all(engine, store, archive)
            for course_id, reason in (outcome.left_out | outcome.damaged).items():
                complain(f"Left out: {course_id}: {reason}")
    except (ArchiveError, VectorStoreError, OSError) as error:
        complain(str(error))
        fail("No backup was written.")
    finally:
        store.close()
    size, chunks = path.stat().st_size, sum(course.chunks for course in outcome.saved)
    if as_json:
        saved = [course.model_dump(include={"course_id", "chunks", "dimensions"}) for course in outcome.saved]
        summary = {"archive": str(path), "bytes": size, "courses": saved}
        summary |= {"left_out": outcome.left_out, "damaged": outcome.damaged}
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        typer.echo(f"{path}: {len(outcome.saved)} courses, {chunks} chunks, {decimal(size)}")
    if outcome.damaged:
        raise typer.Exit(1)


def _save_all(engine: Engine, store: VectorStore, archive: ArchiveWriter) -> Outcome:
    outcome = Outcome(archive.courses)
    with transaction(engine) as session:
        courses = list_courses(session)
    published = (CourseFingerprint.parse(course.embedding_fingerprint) for course in courses)
    busy = {course.id: "" for course in courses}
    with progress("Saving", sum(fingerprint.chunks for fingerprint in published if fingerprint)) as advance:
        for wait in WAITS:
            if wait and busy:
                complain(f"Waiting {wait:g} s for {len(busy)} courses that are being embedded …")
                time.sleep(wait)
            for course_id in list(busy):
                try:
                    _save(course_id, engine, store, archive, advance)
                except CourseBusyError as error:
                    busy[course_id] = str(error)
                    continue
                except CourseLeftOutError as error:
                    outcome.left_out[course_id] = str(error)
                except CourseDamagedError as error:
                    outcome.damaged[course_id] = str(error)
                del busy[course_id]
    outcome.left_out |= busy
    return outcome


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
        raise CourseDamagedError(f"nobody can tell what it was made from ({before.fingerprint}); rebuild it")
    try:
        collection = store.open(course_id)
        with archive.spooled(collection.contents(), on_page) as spool:
            if _publication(engine, course_id) != before:
                raise CourseBusyError("it was embedded anew while it was read")
            archive.add(spool, collection.info, before.generation, fingerprint)
    except VectorStoreAwayError:
        raise
    except (VectorStoreError, ArchiveError) as error:
        if _publication(engine, course_id) != before:
            raise CourseBusyError("it was embedded anew while it was read") from error
        raise CourseDamagedError(f"its collection is damaged ({error}); rebuild it") from error


def _publication(engine: Engine, course_id: str) -> Publication:
    with transaction(engine) as session:
        course = get_course(session, course_id)
    if course is None:
        raise CourseLeftOutError("it is no longer in the catalogue")
    return Publication(course.embedding_status, course.embedding_generation, course.embedding_fingerprint)

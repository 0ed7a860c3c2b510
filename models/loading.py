"""Loads Ready-to-Embed rows into the catalogue, in place of stage one.

One load is one transaction. If a line is invalid, or a chunk belongs to another course, all such lines are reported and
nothing is written. Rows are processed in batches, so memory holds one batch and a digest of every row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import BinaryIO

from sqlalchemy import delete, func, insert, select, text, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session
from sqlmodel import col

from models.fingerprint import chunk_hash
from models.ids import IdColumns, is_id
from models.ingestion import ingestion_by_course
from models.ready_to_embed import Position, read_lines
from models.tables import Chunk, Course, Resource

BATCH = 500
MAX_PROBLEMS = 20
_GENERATED_ALWAYS = "428C9"
"""PostgreSQL's error code for writing an id that the database generates."""
_UNSYNCED = {"synchronize_session": False}

Source = tuple[str, BinaryIO]
"""A name for error messages, and the content."""


class LoadError(Exception):
    """Nothing was loaded. The message has one line for each reason."""


@dataclass
class LoadedCourse:
    """What a load changed in one course."""

    course_id: str
    new: int = 0
    changed: int = 0
    removed: int = 0
    chunks: int = 0
    """All chunks the course has now, including those that were not in the input."""

    def __str__(self) -> str:
        counts = f"{self.new} new, {self.changed} changed, {self.removed} removed"
        return f"{self.course_id}: {self.chunks} chunks ({counts})"


def load(session: Session, sources: Iterable[Source], *, replace: bool = False) -> list[LoadedCourse]:
    """Write courses and their chunks, and set the status of their resources to `succeeded`, so that they are embedded.

    A course that does not exist is created with one resource. Unchanged rows are not written, so loading is idempotent.

    Args:
        session: An open transaction, which must be rolled back if this raises.
        sources: The inputs, read one after the other.
        replace: Delete the chunks of these courses that are not in the input.

    Returns:
        The courses of the input, in the order they appear.

    Raises:
        LoadError: A source is empty, a line is invalid, or the database rejects a row.
    """
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text("BEGIN IMMEDIATE"))  # takes the write lock before anything is read
    loading = _Loading(session)
    try:
        for name, stream in sources:
            empty = True
            for position, row in read_lines(name, stream):
                empty = False
                loading.add(position, row)
            if empty:
                raise LoadError(f"{name}: holds no chunks")
        return loading.finish(replace=replace)
    except DBAPIError as error:
        rejected = isinstance(error, DataError | IntegrityError)
        if rejected or getattr(error.orig, "pgcode", None) == _GENERATED_ALWAYS:
            raise LoadError(f"The database refuses the rows: {str(error.orig).strip().splitlines()[0]}") from error
        raise


class _Loading:
    """The state of one load: its courses, the rows read so far, and the problems found."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ids = IdColumns.reflect(session)
        self._courses: dict[str, LoadedCourse] = {}
        self._seen: dict[str, tuple[str, str]] = {}
        self._batch: list[tuple[Position, Chunk | str]] = []
        self._problems: list[str] = []
        self._problem_count = 0

    def add(self, position: Position, row: Chunk | str) -> None:
        """Add a line: a chunk, or the problem with it."""
        if isinstance(row, Chunk):
            row = self._id_problem(row) or row
        if isinstance(row, Chunk):
            identity = _identity(row)
            if self._seen.setdefault(row.id, identity) != identity:
                row = f"id {row.id!r} stands on an earlier line with other content"
        self._batch.append((position, row))
        if len(self._batch) == BATCH:
            self._flush()

    def finish(self, *, replace: bool) -> list[LoadedCourse]:
        """Write the last batch.

        Raises:
            LoadError: Problems were found; the message lists them.
        """
        self._flush()
        if self._problems:
            more = self._problem_count - len(self._problems)
            raise LoadError("\n".join([*self._problems, *([f"and {more} more bad lines"] if more else [])]))
        if replace:
            for course in self._courses.values():
                course.removed = self._remove_unseen(course.course_id)
        ids = list(self._courses)
        for start in range(0, len(ids), BATCH):
            self._mark_ingested(ids[start : start + BATCH])
        return list(self._courses.values())

    def _flush(self) -> None:
        """Compare the batch with the database and, unless there was a problem, write new and changed rows."""
        chunks = {row.id: row for _, row in self._batch if isinstance(row, Chunk)}
        stored = {chunk.id: chunk for chunk in self._session.scalars(select(Chunk).where(col(Chunk.id).in_(chunks)))}
        for chunk in stored.values():
            self._session.expunge(chunk)
        for position, row in self._batch:
            if isinstance(row, str):
                self._refuse(position, row)
            elif row.id in stored and stored[row.id].course_id != row.course_id:
                self._refuse(position, f"id {row.id!r} belongs to course {stored[row.id].course_id!r} already")
        self._batch.clear()
        if self._problems:
            return
        self._ensure_courses(list(dict.fromkeys(chunk.course_id for chunk in chunks.values())))
        new = [chunk for chunk in chunks.values() if chunk.id not in stored]
        changed = [c for c in chunks.values() if c.id in stored and self._seen[c.id] != _identity(stored[c.id])]
        if new:
            self._session.execute(insert(Chunk), [chunk.model_dump() for chunk in new])
        if changed:
            self._session.execute(update(Chunk), [chunk.model_dump() for chunk in changed])
        for chunk in new:
            self._courses[chunk.course_id].new += 1
        for chunk in changed:
            self._courses[chunk.course_id].changed += 1

    def _refuse(self, position: Position, problem: str) -> None:
        self._problem_count += 1
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(f"{position}: {problem}")

    def _ensure_courses(self, course_ids: list[str]) -> None:
        known = set(self._session.scalars(select(col(Course.id)).where(col(Course.id).in_(course_ids))))
        if missing := [{"id": course_id} for course_id in course_ids if course_id not in known]:
            self._session.execute(insert(Course), missing)
        for course_id in course_ids:
            self._courses.setdefault(course_id, LoadedCourse(course_id))

    def _remove_unseen(self, course_id: str) -> int:
        ids = self._session.scalars(select(col(Chunk.id)).where(is_id(col(Chunk.course_id), course_id)))
        unseen = [chunk_id for chunk_id in ids if chunk_id not in self._seen]
        for start in range(0, len(unseen), BATCH):
            batch = col(Chunk.id).in_(unseen[start : start + BATCH])
            self._session.execute(delete(Chunk).where(batch), execution_options=_UNSYNCED)
        return len(unseen)

    def _mark_ingested(self, course_ids: list[str]) -> None:
        """Set the status of the courses' resources to `succeeded`, creating one if there is none; count the chunks."""
        ingested = ingestion_by_course(self._session, course_ids)
        for course_id in course_ids:
            self._courses[course_id].chunks = ingested[course_id].chunks
        unfinished = [course_id for course_id in course_ids if not ingested[course_id].finished]
        of_these = col(Resource.course_id).in_(unfinished)
        self._session.execute(update(Resource).where(of_these).values(status="succeeded"), execution_options=_UNSYNCED)
        self._add_resources([course_id for course_id in unfinished if ingested[course_id].resources == 0])

    def _id_problem(self, chunk: Chunk) -> str | None:
        """The first id that its column cannot hold, as a message."""
        for table, column, value in (
            ("course", "id", chunk.course_id),
            ("resource", "course_id", chunk.course_id),
            ("chunk", "course_id", chunk.course_id),
            ("chunk", "id", chunk.id),
            ("chunk", "lecture_id", chunk.lecture_id),
            ("chunk", "section_id", chunk.section_id),
        ):
            if value is not None and not self._ids.can_hold(table, column, value):
                kind = self._ids.kind(table, column)
                return f"{value!r} can't be stored: {table}.{column} is {kind} in this database"
        return None

    def _add_resources(self, course_ids: list[str]) -> None:
        """Give each course one resource that has succeeded; if resource ids are text, it is named like the course."""
        rows = [{"course_id": course_id, "status": "succeeded"} for course_id in course_ids]
        if not rows:
            return
        if self._ids.is_generated("resource", "id"):
            self._session.execute(text("INSERT INTO resource (course_id, status) VALUES (:course_id, :status)"), rows)
            return
        if self._ids.is_integer("resource", "id"):
            last = int(self._session.scalar(select(func.max(col(Resource.id)))) or 0)
            ids = map(str, count(last + 1))
        else:
            ids = map(self._unused_resource_id, course_ids)
        self._session.execute(insert(Resource), [{"id": i, **row} for i, row in zip(ids, rows, strict=False)])

    def _unused_resource_id(self, name: str) -> str:
        while self._session.scalar(select(col(Resource.id)).where(col(Resource.id) == name)) is not None:
            name += "+"
        return name


def _identity(chunk: Chunk) -> tuple[str, str]:
    """Equal for two versions of a chunk that need no update."""
    return chunk.course_id, chunk_hash(chunk)

"""Loads Ready-to-Embed rows into the catalogue, as stage one would.

One load is one transaction. If lines are invalid, or chunks belong to other courses, nothing is written; the first 20
of these lines are reported, and the number of the others. Rows are processed in batches, so memory holds one batch and
one digest per row.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count
from typing import BinaryIO

from sqlalchemy import String, cast, delete, func, insert, select, text, update
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.orm import Session
from sqlmodel import col

from models.database import UnreadableDataError, database_errors
from models.fingerprint import chunk_hash
from models.ids import IdColumns, id_equals
from models.ingestion import ingestion_by_course
from models.jsonl_rows import Position, read_lines
from models.resources import resources_of
from models.tables import Chunk, Course, Resource, UploadedResource

BATCH = 500
MAX_PROBLEMS = 20
_GENERATED_ALWAYS = "428C9"
"""PostgreSQL error code generated_always: an INSERT gives a value for a column that the database generates."""
_NO_SYNC = {"synchronize_session": False}

Source = tuple[str, BinaryIO]
"""A name for error messages, and the stream with the content."""


class LoadError(Exception):
    """Nothing was loaded. The message has one line per reason."""


@dataclass
class LoadedCourse:
    """Number of chunks that a load changed in one course."""

    course_id: str
    new: int = 0
    changed: int = 0
    removed: int = 0
    chunks: int = 0
    """All chunks of the course after the load, including chunks that were not in the input."""

    def __str__(self) -> str:
        counts = f"{self.new} new, {self.changed} changed, {self.removed} removed"
        return f"{self.course_id}: {self.chunks} chunks ({counts})"


def load(session: Session, sources: Iterable[Source], *, replace: bool = False) -> list[LoadedCourse]:
    """Write chunks and their courses, and set the resources of these courses to `succeeded`.

    The sensor then launches runs for the courses. A missing course is created with one resource. Unchanged rows are not
    written, so a load is idempotent.

    Args:
        session: An open transaction, which the caller must roll back if `load` raises.
        sources: The inputs, read in this order.
        replace: Whether to delete chunks of the loaded courses that are not in the input.

    Returns:
        The courses of the input, in the order of their first line.

    Raises:
        LoadError: A source is empty, a line is invalid, or the database rejects a row.
    """
    if session.get_bind().dialect.name == "sqlite":
        session.execute(text("BEGIN IMMEDIATE"))  # takes the write lock before the first read
    loader = _Loader(session)
    try:
        for name, stream in sources:
            empty = True
            for position, row in read_lines(name, stream):
                empty = False
                loader.add(position, row)
            if empty:
                raise LoadError(f"{name}: contains no chunks")
        return loader.finish(replace=replace)
    except DBAPIError as error:
        rejected = isinstance(error, DataError | IntegrityError)
        if rejected or getattr(error.orig, "pgcode", None) == _GENERATED_ALWAYS:
            raise LoadError(f"The database rejects the rows: {str(error.orig).strip().splitlines()[0]}") from error
        raise


class _Loader:
    """The state of one load: its courses, the rows read so far, and the problems found so far."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ids = IdColumns.reflect(session)
        self._courses: dict[str, LoadedCourse] = {}
        self._seen: dict[str, tuple[str, str]] = {}
        self._batch: list[tuple[Position, Chunk | str]] = []
        self._problems: list[str] = []
        self._problem_count = 0

    def add(self, position: Position, row: Chunk | str) -> None:
        """Add the chunk of a line, or the problem with the line."""
        if isinstance(row, Chunk):
            row = self._id_problem(row) or row
        if isinstance(row, Chunk):
            identity = _identity(row)
            if self._seen.setdefault(row.id, identity) != identity:
                row = f"id {row.id!r} is on an earlier line with different content"
        self._batch.append((position, row))
        if len(self._batch) == BATCH:
            self._flush()

    def finish(self, *, replace: bool) -> list[LoadedCourse]:
        """Write the last batch, delete unseen chunks if `replace` is set, and mark the courses as ingested.

        Raises:
            LoadError: Lines are invalid; the message lists the first `MAX_PROBLEMS` of them.
        """
        self._flush()
        if self._problems:
            more = self._problem_count - len(self._problems)
            raise LoadError("\n".join([*self._problems, *([f"and {more} more invalid lines"] if more else [])]))
        if replace:
            for course in self._courses.values():
                course.removed = self._remove_unseen(course.course_id)
        ids = list(self._courses)
        for start in range(0, len(ids), BATCH):
            self._mark_ingested(ids[start : start + BATCH])
        return list(self._courses.values())

    def _flush(self) -> None:
        """Compare the batch with the database, and write new and changed rows unless the load has problems."""
        chunks = {row.id: row for _, row in self._batch if isinstance(row, Chunk)}
        stored = self._stored_identities(list(chunks))
        for position, row in self._batch:
            if isinstance(row, str):
                self._add_problem(position, row)
            elif row.id in stored and stored[row.id][0] != row.course_id:
                self._add_problem(position, f"id {row.id!r} already belongs to course {stored[row.id][0]!r}")
        self._batch.clear()
        if self._problems:
            return
        self._ensure_courses(list(dict.fromkeys(chunk.course_id for chunk in chunks.values())))
        new = [chunk for chunk in chunks.values() if chunk.id not in stored]
        changed = [c for c in chunks.values() if c.id in stored and self._seen[c.id] != stored[c.id]]
        if new:
            self._session.execute(insert(Chunk), [chunk.model_dump() for chunk in new])
        if changed:
            self._session.execute(update(Chunk), [chunk.model_dump() for chunk in changed])
        for chunk in new:
            self._courses[chunk.course_id].new += 1
        for chunk in changed:
            self._courses[chunk.course_id].changed += 1

    def _stored_identities(self, ids: list[str]) -> dict[str, tuple[str, str]]:
        """The identities of the stored chunks among `ids`. That of an unreadable chunk differs from every other."""
        chunks = select(Chunk).where(col(Chunk.id).in_(ids))
        try:
            # Without a savepoint, an error would abort the whole transaction on PostgreSQL.
            with database_errors(), self._session.begin_nested():
                return {chunk.id: _identity(chunk) for chunk in self._session.scalars(chunks)}
        except (TypeError, ValueError, UnreadableDataError):
            if len(ids) > 1:
                half = len(ids) // 2
                return self._stored_identities(ids[:half]) | self._stored_identities(ids[half:])
        owners = select(col(Chunk.id), col(Chunk.course_id)).where(col(Chunk.id).in_(ids))
        return {chunk_id: (course_id, "") for chunk_id, course_id in self._session.execute(owners)}

    def _add_problem(self, position: Position, problem: str) -> None:
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
        """Delete the chunks that are not in the input, except those of uploaded files."""
        uploaded = tuple(f"{file.resource_id}-" for file in resources_of(self._session, course_id))
        ids = self._session.scalars(select(col(Chunk.id)).where(id_equals(col(Chunk.course_id), course_id)))
        unseen = [chunk_id for chunk_id in ids if chunk_id not in self._seen and not chunk_id.startswith(uploaded)]
        for start in range(0, len(unseen), BATCH):
            batch = col(Chunk.id).in_(unseen[start : start + BATCH])
            self._session.execute(delete(Chunk).where(batch), execution_options=_NO_SYNC)
        return len(unseen)

    def _mark_ingested(self, course_ids: list[str]) -> None:
        """Set the resources of the courses to `succeeded`, add a missing resource, and count the chunks.

        Uploaded files keep their status.
        """
        ingested = ingestion_by_course(self._session, course_ids)
        for course_id in course_ids:
            self._courses[course_id].chunks = ingested[course_id].chunks
        unfinished = [course_id for course_id in course_ids if not ingested[course_id].finished]
        is_own = cast(col(Resource.id), String).not_in(select(col(UploadedResource.resource_id)))
        set_succeeded = update(Resource).where(col(Resource.course_id).in_(unfinished), is_own)
        set_succeeded = set_succeeded.values(status="succeeded")
        self._session.execute(set_succeeded, execution_options=_NO_SYNC)
        self._add_resources(
            [course_id for course_id in unfinished if ingested[course_id].resources == ingested[course_id].uploads]
        )

    def _id_problem(self, chunk: Chunk) -> str | None:
        """A message about the first id that its column cannot hold, or that may be mistaken for another; or None."""
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
                return f"{value!r} cannot be stored: {table}.{column} is {kind} in this database"
        for name, value in (("course_id", chunk.course_id), ("id", chunk.id)):
            if value != value.strip():  # people and tools drop it, so that two ids become one
                return f"{name} {value!r} must not begin or end with white space"
        return None

    def _add_resources(self, course_ids: list[str]) -> None:
        """Add one succeeded resource per course. If resource ids are text, the id is the course id."""
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
    """A value that changes when the row of the chunk needs an update."""
    return chunk.course_id, chunk_hash(chunk)

"""Courses that are created here, and the files that are uploaded to them: all SQL about both.

A file has two rows with one id: `resource`, where its course waits for it as for stage one's resources, and
`course_search_resource` with everything else. Every function writes both in one transaction, and locks tables in the
order `course`, `course_search_resource`, `chunk`, `resource`, so that no two of them wait for each other for ever.

Several processes write, so every write of a run is one conditional UPDATE: it changes nothing once the file was
deleted, uploaded again or taken over by another run.

    function        from                                                  to
    put_resource    new; any state, with other content; failed            pending
    claim           any but running; running, by a run that is dead       running
    progress        running, by the run                                   running
    succeed         running, by the run                                   succeeded
    fail            pending or running, by the run                        failed
    try_again       pending or running, by the run                        pending; failed after the last attempt
    release         running, by the run                                   pending
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Engine, delete, func, insert, inspect, select, text, update
from sqlalchemy.orm import Session
from sqlmodel import col

from models import course_state
from models.course_state import MAX_ERROR_CHARACTERS, RETRY_SECONDS
from models.ids import is_text
from models.jsonl_rows import check_course_id
from models.tables import Chunk, Course, Resource, ResourceStatus, UploadedResource
from models.text import is_blank, is_unicode, storable

MAX_NAME_CHARACTERS = 255
BATCH = 500
ACTIVE = (ResourceStatus.PENDING, ResourceStatus.RUNNING)
_STAGE_ONE = ("course", "resource", "chunk")
_HASH_CHARACTERS = 24

_id = col(UploadedResource.resource_id)
_status = col(UploadedResource.status)
_run_id = col(UploadedResource.run_id)
_attempts = col(UploadedResource.attempts)


class NotOurTablesError(Exception):
    """The tables `course`, `resource` and `chunk` stood before this product's first migration: stage one owns them."""

    def __init__(self) -> None:
        super().__init__(
            "The tables course, resource and chunk of this database belong to stage one, so only stage one adds to "
            "them. To upload files, set DATABASE_URL to a database whose tables this product creates."
        )


class NoSuchCourseError(LookupError):
    """The course does not exist, or was deleted meanwhile."""


@dataclass(frozen=True)
class NewChunk:
    """A passage of a file, to be stored as a chunk."""

    text: str
    lecture: int
    """Number of the lecture in the file, from 1 on."""
    section: int
    """Number of the section in the file, from 1 on."""
    language: str | None
    metadata: Mapping[str, Any]
    """Without values that are None. The lecture's number in the course, file and resource id are added."""


_own: WeakKeyDictionary[Engine, bool] = WeakKeyDictionary()


def own_tables(session: Session) -> bool:
    """Whether this product created `course`, `resource` and `chunk`, which the names of their primary keys show.

    Looked up once per engine.

    Raises:
        sqlalchemy.exc.DBAPIError: A table is missing.
    """
    engine = session.get_bind().engine
    if engine not in _own:
        for table in (Course, Resource, Chunk):
            session.execute(select(col(table.id)).limit(0))
        schema = inspect(session.connection())
        _own[engine] = all(
            schema.get_pk_constraint(table)["name"] == f"course_search_{table}_pkey" for table in _STAGE_ONE
        )
    return _own[engine]


def create_course(session: Session, course_id: str) -> bool:
    """Create a course without resources.

    Returns:
        False if it exists already.

    Raises:
        ValueError: The id is not allowed (see `models.jsonl_rows.check_course_id`).
        NotOurTablesError: Stage one owns the tables.
    """
    check_course_id(course_id)
    if not own_tables(session):
        raise NotOurTablesError
    statement = text("INSERT INTO course (id) VALUES (:id) ON CONFLICT DO NOTHING")
    return _changed(session, statement.bindparams(id=course_id))


def put_resource(
    session: Session, course_id: str, name: str, *, size: int, sha256: str, now: datetime
) -> UploadedResource:
    """Add a file to a course, or replace the content of the file with this name.

    Names are compared in Unicode's form NFC, because macOS sends another one. Content that is known already stays as it
    is, unless it failed. The chunks of earlier content stay until those of the new content replace them.

    Args:
        session: An open transaction.
        course_id: The course.
        name: The name of the file, without a directory.
        size: In bytes.
        sha256: Hex digest of the content.
        now: The time of the upload.

    Raises:
        ValueError: The name is not allowed. The message says what is wrong with it, without the name.
        NotOurTablesError: Stage one owns the tables.
        NoSuchCourseError: There is no such course.
    """
    name = unicodedata.normalize("NFC", name)
    _check_name(name)
    if not own_tables(session):
        raise NotOurTablesError
    if not _lock_course(session, course_id):  # so that its files get different positions, and that it is not deleted
        raise NoSuchCourseError(course_id)
    same_name = (col(UploadedResource.course_id) == course_id, col(UploadedResource.name) == name)
    known = _first(session, *same_name)
    if known is None:
        last = select(func.max(col(UploadedResource.position))).where(col(UploadedResource.course_id) == course_id)
        new = UploadedResource(
            resource_id=uuid4().hex,
            course_id=course_id,
            name=name,
            size=size,
            sha256=sha256,
            status=ResourceStatus.PENDING,
            position=(session.scalar(last) or 0) + 1,
            created_at=now,
            updated_at=now,
        )
        session.execute(insert(UploadedResource), [new.model_dump()])
        row = {"id": new.resource_id, "course_id": course_id, "status": ResourceStatus.PENDING.value}
        session.execute(insert(Resource), [row])
        return new
    if known.sha256 == sha256 and known.status != ResourceStatus.FAILED:
        return known
    values = _new_attempts(now) | {"size": size, "sha256": sha256, "run_id": None}
    _write(session, known.resource_id, ResourceStatus.PENDING, values)
    return _existing(session, known.resource_id)


def get_resource(session: Session, resource_id: str) -> UploadedResource | None:
    """The current row of the file, or None if there is none."""
    return _first(session, _id == resource_id) if is_text(resource_id) else None


def resources_of(session: Session, course_id: str) -> list[UploadedResource]:
    """The files of a course, in their order."""
    if not is_text(course_id):
        return []
    return _all(session, col(UploadedResource.course_id) == course_id)


def all_resources(session: Session) -> list[UploadedResource]:
    """The files of all courses."""
    return _all(session)


def unfinished_resources(session: Session) -> list[UploadedResource]:
    """All files that have not succeeded."""
    return _all(session, _status != ResourceStatus.SUCCEEDED)


def lock_resource(session: Session, resource_id: str) -> UploadedResource | None:
    """The current row of the file, which no one changes until the end of the transaction; None if there is none."""
    locked = _changed(session, update(UploadedResource).where(_id == resource_id).values(resource_id=_id))
    return get_resource(session, resource_id) if locked else None


def active_resources(session: Session) -> list[UploadedResource]:
    """All files that are pending or running."""
    return _all(session, _status.in_(ACTIVE))


def resources_by_id(session: Session, resource_ids: Iterable[str]) -> list[UploadedResource]:
    """The files with these ids that exist."""
    return _all(session, _id.in_([*filter(is_text, resource_ids)]))


def delete_resource(session: Session, resource_id: str) -> UploadedResource | None:
    """Delete a file's rows and its chunks. If no chunk of the course is left, it is not searchable from now on.

    The file in UPLOAD_DIR is for the caller to delete, after the transaction.

    Returns:
        The file's last state; None if there is none.
    """
    known = get_resource(session, resource_id)
    if known is None:
        return None
    _lock_course(session, known.course_id)
    if not _changed(session, delete(UploadedResource).where(_id == resource_id)):
        return None
    removed = _delete_chunks(session, known)
    session.execute(delete(Resource).where(col(Resource.id) == resource_id), **_NO_SYNC)
    if removed:
        rest = select(col(Chunk.id)).where(col(Chunk.course_id) == known.course_id).limit(1)
        if session.scalar(rest) is None:
            course_state.withdraw_deleted(session, known.course_id)
    return known


def courses_without_row(session: Session) -> list[str]:
    """Ids of the courses that have files, but were deleted."""
    course_id = col(UploadedResource.course_id)
    query = select(course_id).distinct().where(~select(Course).where(col(Course.id) == course_id).exists())
    return sorted(session.scalars(query)) if own_tables(session) else []


def delete_resources_of(session: Session, course_id: str) -> list[UploadedResource]:
    """Delete the rows and chunks of all files of a deleted course, and return the files' last states.

    Nothing is deleted if the course exists.
    """
    if session.scalar(select(col(Course.id)).where(col(Course.id) == course_id)) is not None:
        return []
    files = resources_of(session, course_id)
    return [deleted for file in files if (deleted := delete_resource(session, file.resource_id))]


def claim(
    session: Session, resource_id: str, run_id: str, now: datetime, dead_owner: str | None = None
) -> UploadedResource | None:
    """Make the run the one that reads the file, so that no two runs read it at the same time.

    Args:
        session: An open transaction.
        resource_id: The file.
        run_id: The run.
        now: The current time.
        dead_owner: A run that ended without updating the row. The new run may take the file over from it.

    Returns:
        The row, which the other functions of a run need; None if the file was deleted, or another run reads it.
    """
    free = (_status != ResourceStatus.RUNNING) | (_run_id == run_id)
    if dead_owner is not None:
        free |= _run_id == dead_owner
    values = {"run_id": run_id, "progress": 0.0, "error": None, "updated_at": now}
    if not _write(session, resource_id, ResourceStatus.RUNNING, values, free):
        return None
    return _existing(session, resource_id)


def progress(session: Session, claimed: UploadedResource, share: float, now: datetime) -> bool:
    """Record the share of the work that is done, 0.0 to 1.0.

    Returns:
        False if the run should stop with this file: it was deleted, uploaded again, or is read by another run.
    """
    values = {"progress": min(1.0, max(0.0, share)), "updated_at": now}
    return _changed(session, update(UploadedResource).where(*_is_claimed(claimed)).values(values))


def succeed(
    session: Session, claimed: UploadedResource, chunks: Sequence[NewChunk], *, source_type: str, now: datetime
) -> bool:
    """Replace the chunks of the file by these, and set `succeeded`.

    Returns:
        False, and nothing is changed, if the run should stop with this file (see `progress`).
    """
    values = {
        "progress": 1.0,
        "error": None,
        "source_type": source_type,
        "chunks": len(chunks),
        "attempts": 0,
        "updated_at": now,
    }
    _lock_course(session, claimed.course_id)
    if not _write(session, claimed.resource_id, ResourceStatus.SUCCEEDED, values, *_is_claimed(claimed)):
        return False
    course_state.mark_due(session, [claimed.course_id], now)  # the sensor would, but only seconds later
    _delete_chunks(session, claimed)
    rows = list(_chunk_rows(claimed, chunks, source_type))
    for start in range(0, len(rows), BATCH):
        session.execute(insert(Chunk), rows[start : start + BATCH])
    return True


def fail(session: Session, resource: UploadedResource, reason: str, now: datetime) -> bool:
    """Set `failed`, with the reason shown to users, if the row is still as the caller knows it.

    Chunks of earlier content stay.
    """
    values = {"error": storable(reason)[:MAX_ERROR_CHARACTERS], "updated_at": now}
    return _write(session, resource.resource_id, ResourceStatus.FAILED, values, *_is_unchanged(resource))


def try_again(session: Session, resource: UploadedResource, reason: str, now: datetime) -> bool:
    """Count a failed attempt whose cause may be temporary, if the row is still as the caller knows it.

    The file is pending until the next attempt (see `next_attempt`). After the last one it is failed.
    """
    if resource.attempts >= len(RETRY_SECONDS):
        return fail(session, resource, reason, now)
    values = {
        "progress": 0.0,
        "error": storable(reason)[:MAX_ERROR_CHARACTERS],
        "attempts": resource.attempts + 1,
        "updated_at": now,
    }
    return _write(session, resource.resource_id, ResourceStatus.PENDING, values, *_is_unchanged(resource))


def release(session: Session, claimed: UploadedResource, now: datetime) -> bool:
    """Set `pending`, because the run was interrupted. The next attempt follows at once."""
    values = {"progress": 0.0, "error": None, "updated_at": now}
    return _write(session, claimed.resource_id, ResourceStatus.PENDING, values, *_is_claimed(claimed))


def next_attempt(resource: UploadedResource) -> datetime:
    """When a pending file is to be read."""
    pause = RETRY_SECONDS[min(resource.attempts, len(RETRY_SECONDS)) - 1] if resource.attempts else 0
    return resource.updated_at + timedelta(seconds=pause)


def _lock_course(session: Session, course_id: str) -> bool:
    """Let no one change the course until the end of the transaction. Always before its files are locked.

    Returns:
        False if there is no such course.
    """
    return _changed(session, update(Course).where(col(Course.id) == course_id).values(id=col(Course.id)))


def _check_name(name: str) -> None:
    if is_blank(name) or name in (".", ".."):
        raise ValueError("is empty")
    if len(name) > MAX_NAME_CHARACTERS:
        raise ValueError(f"must have at most {MAX_NAME_CHARACTERS} characters")
    if not is_unicode(name) or any(unicodedata.category(character) == "Cc" for character in name):
        raise ValueError("must not contain control characters or unpaired surrogates")
    if "/" in name or "\\" in name:
        raise ValueError("must not contain / or \\")


def _new_attempts(now: datetime) -> dict[str, Any]:
    return {"progress": 0.0, "error": None, "attempts": 0, "updated_at": now}


def _is_claimed(claimed: UploadedResource) -> tuple[ColumnElement[bool], ...]:
    """The run still reads this content: a new upload while it works removes its claim."""
    is_of_run = (_status == ResourceStatus.RUNNING) & (_run_id == claimed.run_id)
    return is_of_run, col(UploadedResource.sha256) == claimed.sha256


def _is_unchanged(known: UploadedResource) -> tuple[ColumnElement[bool], ...]:
    return (
        _status.in_(ACTIVE),
        _run_id.is_not_distinct_from(known.run_id),
        _attempts == known.attempts,
        col(UploadedResource.sha256) == known.sha256,
    )


def _write(
    session: Session,
    resource_id: str,
    status: ResourceStatus,
    values: Mapping[str, Any],
    *conditions: ColumnElement[bool],
) -> bool:
    """Set the status of both rows, and other columns of ours, if the conditions are true."""
    statement = update(UploadedResource).where(_id == resource_id, *conditions)
    if not _changed(session, statement.values({"status": status.value, **values})):
        return False
    of_resource = update(Resource).where(col(Resource.id) == resource_id).values(status=status.value)
    session.execute(of_resource, **_NO_SYNC)
    return True


def _delete_chunks(session: Session, resource: UploadedResource) -> int:
    """Delete the chunks of a file, found by their course, which is indexed; returns their number."""
    own = (col(Chunk.course_id) == resource.course_id, col(Chunk.id).startswith(f"{resource.resource_id}-"))
    return session.connection().execute(delete(Chunk).where(*own)).rowcount


def _chunk_rows(resource: UploadedResource, chunks: Iterable[NewChunk], source_type: str) -> Iterable[dict[str, Any]]:
    """The rows of chunks. The id of one depends only on its text, so that an edited file changes few of them."""
    seen: dict[str, int] = {}
    orders: dict[tuple[int, int], int] = {}
    for chunk in chunks:
        content = storable(chunk.text)
        digest = hashlib.sha256(content.encode()).hexdigest()[:_HASH_CHARACTERS]
        seen[digest] = number = seen.get(digest, 0) + 1
        place = chunk.lecture, chunk.section
        orders[place] = order = orders.get(place, -1) + 1
        yield {
            "id": f"{resource.resource_id}-{digest}" + (f"-{number}" if number > 1 else ""),
            "course_id": resource.course_id,
            "lecture_id": f"{resource.resource_id}-{chunk.lecture}",
            "section_id": f"{resource.resource_id}-{chunk.lecture}-{chunk.section}",
            "text": content,
            "language": chunk.language,
            "source_type": source_type,
            "extra": {
                **{
                    name: storable(value) if isinstance(value, str) else value for name, value in chunk.metadata.items()
                },
                "order_in_section": order,
                "lecture_number": f"{resource.position}.{chunk.lecture}",
                "file": resource.name,
                "resource_id": resource.resource_id,
            },
        }


_NO_SYNC: Any = {"execution_options": {"synchronize_session": False}}


def _changed(session: Session, statement: Any) -> bool:
    return session.connection().execute(statement).rowcount == 1


def _all(session: Session, *conditions: ColumnElement[bool]) -> list[UploadedResource]:
    query = select(UploadedResource).where(*conditions)
    query = query.order_by(col(UploadedResource.course_id), col(UploadedResource.position))
    return list(session.scalars(query.execution_options(populate_existing=True)))


def _first(session: Session, *conditions: ColumnElement[bool]) -> UploadedResource | None:
    return next(iter(_all(session, *conditions)), None)


def _existing(session: Session, resource_id: str) -> UploadedResource:
    [row] = _all(session, _id == resource_id)
    return row

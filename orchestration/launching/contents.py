"""Reads the chunks of courses within a time budget, and determines which courses are due."""

import time
from dataclasses import dataclass, field
from datetime import datetime

from models.chunks import chunk_pages
from models.context import ContextFields
from models.database import Session, UnreadableDataError, database_errors
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Course, EmbeddingStatus
from orchestration.launching.due_courses import Candidates, completed_contents, is_due

READING_SECONDS = 10.0
"""Time limit in seconds, once for requested and once for changed courses. Dagster ends a tick after a minute."""
UNCHANGED_READING_SECONDS = 0.2
"""Time limit in seconds for courses that seem unchanged."""


class UnreadableContentError(Exception):
    """A chunk of the course contains data that cannot be read. Other courses are not affected."""


@dataclass
class Contents:
    """The contents that were read in one tick."""

    due: list[tuple[Course, CourseFingerprint]] = field(default_factory=list)
    """The due courses, most urgent first, each with the fingerprint of its chunks."""
    no_longer_due: list[str] = field(default_factory=list)
    """Ids of courses that were due, and whose content is again the published one."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Course id → why the course cannot be read."""
    cursor: str = ""
    """Id of the course that was read last if the time limit was reached; the next tick continues after it."""


def read_contents(
    session: Session,
    candidates: Candidates,
    model_signature: str | None,
    context_fields: ContextFields,
    now: datetime,
) -> Contents:
    """Read the chunks of the candidates until a time limit is reached."""
    contents = Contents()
    for courses_to_read, seconds in (
        (candidates.requested, READING_SECONDS),
        (candidates.changed, READING_SECONDS),
        (candidates.unchanged, UNCHANGED_READING_SECONDS),
    ):
        started = time.monotonic()
        for course in courses_to_read:
            try:
                content = content_of(session, course, model_signature, context_fields)
            except UnreadableContentError as error:
                contents.unreadable[course.id] = str(error)
            else:
                if is_due(course, content, now):
                    contents.due.append((course, content))
                elif course.embedding_due_since and course.embedding_status == EmbeddingStatus.DONE:
                    contents.no_longer_due.append(course.id)
            if time.monotonic() - started > seconds:
                contents.cursor = course.id
                return contents
    return contents


def content_of(
    session: Session, course: Course, model_signature: str | None, context_fields: ContextFields
) -> CourseFingerprint:
    """The fingerprint of the current chunks.

    If the model is unavailable, it has the signature of the published or last attempted content.

    Raises:
        UnreadableContentError: A chunk cannot be read. The transaction can still be used.
    """
    try:
        # Without a savepoint, an error would abort the whole transaction on PostgreSQL.
        with database_errors(), session.begin_nested():
            fingerprint = FingerprintBuilder(context_fields).add_all(chunk_pages(session, course.id))
    except (TypeError, ValueError, UnreadableDataError) as error:
        raise UnreadableContentError(f"A chunk of the course cannot be read: {error}") from error
    completed = completed_contents(course)
    return fingerprint.build(model_signature or (completed[0].model if completed else ""))

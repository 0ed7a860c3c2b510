"""Questions that were asked, and feedback on passages: written by the search app, and read for the teacher's list.

A question *found nothing* if no result was relevant, or there was none.

The rows do not say who asked. Text is cut, so that a row has a limited size.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, delete, func, insert, or_, select
from sqlalchemy.orm import Mapped, Session
from sqlmodel import col

from models.database import Engine, transaction
from models.ids import can_hold, id_equals
from models.tables import Chunk, Feedback, Question
from models.text import without_surrogates

MAX_CHARACTERS = 500
"""A longer question is cut."""
MAX_UNKNOWN_TERMS = 20
MAX_DISTINCT = 5000
"""Number of different questions of a course that are read, the most frequent first."""
PAGE = 500
"""Number of rows that one transaction deletes, so that it holds its locks for milliseconds."""

_FOUND_NOTHING = or_(col(Question.answerable).is_(False), col(Question.results) == 0)


class NewQuestion(NamedTuple):
    """A question to be written; the fields are those of `Question`."""

    course_id: str
    asked_at: datetime
    text: str
    results: int
    best_relevance: float | None
    answerable: bool | None
    unknown_terms: Sequence[str]


class NewFeedback(NamedTuple):
    """Feedback to be written; the fields are those of `Feedback`."""

    course_id: str
    asked_at: datetime
    text: str
    chunk_id: str | None
    helpful: bool


class CourseCounts(NamedTuple):
    """What was recorded of a course."""

    course_id: str
    asked: int = 0
    found_nothing: int = 0
    helpful: int = 0
    not_helpful: int = 0


class AskedText(NamedTuple):
    """A question in one spelling."""

    text: str
    asked: int
    found_nothing: int
    best_relevance: float | None
    unknown_terms: Sequence[str]


class Judgements(NamedTuple):
    """How often something was helpful, and how often not."""

    helpful: int
    not_helpful: int


def write_questions(session: Session, questions: Sequence[NewQuestion]) -> None:
    """Insert questions."""
    rows = [
        question._asdict()
        | {
            "text": _storable(question.text),
            "unknown_terms": "\n".join(map(_storable, question.unknown_terms[:MAX_UNKNOWN_TERMS])),
        }
        for question in questions
    ]
    if rows:
        session.execute(insert(Question), rows)


def write_feedback(session: Session, feedback: Sequence[NewFeedback]) -> None:
    """Insert feedback."""
    rows = [
        item._asdict() | {"text": _storable(item.text), "chunk_id": item.chunk_id and _storable(item.chunk_id)}
        for item in feedback
    ]
    if rows:
        session.execute(insert(Feedback), rows)


def _storable(text: str) -> str:
    """What every database can store as text: without NUL and unpaired surrogates."""
    return without_surrogates(text[:MAX_CHARACTERS].replace("\0", " "))


def delete_questions(engine: Engine, *, course_id: str | None = None, before: datetime | None = None) -> int:
    """Delete all questions and all feedback of a course, or from before a time, in transactions of up to `PAGE` rows.

    Returns:
        The number of deleted rows.

    Raises:
        DatabaseUnavailableError: The catalogue is unavailable. What was deleted before stays deleted.
    """
    deleted = 0
    for table in (Question, Feedback):
        query = select(col(table.id)).limit(PAGE)
        if course_id is not None:
            query = query.where(col(table.course_id) == course_id)
        if before is not None:
            query = query.where(col(table.asked_at) < before)
        is_last = False
        while not is_last:
            with transaction(engine) as session:
                ids = session.scalars(query).all()
                if ids:  # otherwise nothing is locked
                    session.execute(delete(table).where(col(table.id).in_(ids)))
            deleted += len(ids)
            is_last = len(ids) < PAGE
    return deleted


def course_counts(session: Session, since: datetime, course_id: str | None = None) -> list[CourseCounts]:
    """The counts of all courses about which something was recorded since then, or of one."""
    asked = (
        select(col(Question.course_id), func.count(), func.count().filter(_FOUND_NOTHING))
        .where(*_recorded(Question, since, course_id))
        .group_by(col(Question.course_id))
    )
    judged = (
        select(col(Feedback.course_id), *_judgements())
        .where(*_recorded(Feedback, since, course_id))
        .group_by(col(Feedback.course_id))
    )
    counts = {row[0]: CourseCounts(*row) for row in session.execute(asked)}
    for course, helpful, not_helpful in session.execute(judged):
        counts[course] = counts.get(course, CourseCounts(course))._replace(helpful=helpful, not_helpful=not_helpful)
    return list(counts.values())


def asked_texts(session: Session, course_id: str, since: datetime) -> list[AskedText]:
    """The questions about a course, the most frequent first; at most `MAX_DISTINCT`."""
    query = (
        select(
            col(Question.text),
            func.count(),
            func.count().filter(_FOUND_NOTHING),
            func.max(col(Question.best_relevance)),
            func.max(col(Question.unknown_terms)),
        )
        .where(*_recorded(Question, since, course_id))
        .group_by(col(Question.text))
        .order_by(func.count().desc(), col(Question.text))
        .limit(MAX_DISTINCT)
    )
    return [
        AskedText(text, asked, found_nothing, relevance, (unknown_terms or "").splitlines())
        for text, asked, found_nothing, relevance, unknown_terms in session.execute(query)
    ]


def judged_texts(session: Session, course_id: str, since: datetime) -> dict[str, Judgements]:
    """The feedback by question, the least helpful first; at most `MAX_DISTINCT` questions."""
    return _judged_by(session, col(Feedback.text), course_id, since)


def judged_chunks(session: Session, course_id: str, since: datetime) -> dict[str, Judgements]:
    """The feedback by the id of the passage, the least helpful first; at most `MAX_DISTINCT` passages."""
    judged = _judged_by(session, col(Feedback.chunk_id), course_id, since)
    return {chunk_id: judgements for chunk_id, judgements in judged.items() if chunk_id is not None}


def chunk_text(session: Session, course_id: str, chunk_id: str) -> str | None:
    """The text of a chunk; None if the course no longer has it."""
    if not can_hold(session, col(Chunk.id), chunk_id) or not can_hold(session, col(Chunk.course_id), course_id):
        return None
    query = select(col(Chunk.text)).where(id_equals(col(Chunk.id), chunk_id))
    return session.scalars(query.where(id_equals(col(Chunk.course_id), course_id))).one_or_none()


def anything_recorded(session: Session) -> bool:
    """Whether there is a question or feedback of any course."""
    return any(session.scalars(select(col(table.id)).limit(1)).first() is not None for table in (Question, Feedback))


def _judged_by(session: Session, column: Mapped[Any], course_id: str, since: datetime) -> dict[Any, Judgements]:
    helpful, not_helpful = _judgements()
    query = (
        select(column, helpful, not_helpful)
        .where(*_recorded(Feedback, since, course_id))
        .group_by(column)
        .order_by(not_helpful.desc(), column)
        .limit(MAX_DISTINCT)
    )
    return {key: Judgements(good, bad) for key, good, bad in session.execute(query)}


def _judgements() -> tuple[ColumnElement[int], ColumnElement[int]]:
    is_helpful = col(Feedback.helpful)
    return func.count().filter(is_helpful.is_(True)), func.count().filter(is_helpful.is_(False))


def _recorded(table: type[Question | Feedback], since: datetime, course_id: str | None) -> list[ColumnElement[bool]]:
    """The conditions for what was recorded since then, of one course or of all."""
    conditions = [col(table.asked_at) >= since]
    return conditions if course_id is None else [*conditions, col(table.course_id) == course_id]

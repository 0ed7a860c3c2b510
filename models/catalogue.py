"""All SQL of the catalogue: courses and their state, what stage one has ingested, pages of chunks.

The course row is a small state machine that several processes move, so every write is *one conditional UPDATE* and says
whether it was written: a run writes only while it owns the course, and an old run never overwrites a newer one.

    request_embedding   anything but running → pending, owned by nobody
    mark_queued         anything but running → pending, owned by the run
    claim_course        anything (unless another living run is running it) → running, owned by the run
    report_progress     running → running    by the owner
    publish             running → done       by the owner
    fail_course         running → failed     by the owner
    restart_course      running → pending    by the owner, from then on owned by nobody
    fail_unfinished     running (by the owner), pending or not started (by the owner or nobody) → failed
    fail_unreadable     anything but running → failed, owned by nobody
    note_vain_attempt   done or failed stays as it is
    set_back_all        anything → not started, owned by nobody    while the product is stopped, by a restore
    restore_course      anything → done, owned by nobody           likewise

Ids: stage one's columns may be integers, so an id is compared as the column's own type (which uses the index) *and* as
text (`01` is not course 1). An id the column's type can't hold at all matches nothing.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple, TypeVar

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Select,
    String,
    and_,
    bindparam,
    case,
    cast,
    func,
    or_,
    select,
    update,
)
from sqlalchemy.exc import DataError
from sqlalchemy.orm import Mapped, Session
from sqlmodel import col

from models.tables import Chunk, Course, EmbeddingStatus, Resource
from models.unicode import is_unicode

T = TypeVar("T")

MAX_ERROR_CHARACTERS = 2000
REBUILD_OWNER_PREFIX = "rebuild-"
"""Begins the id under which a rebuild owns a course: no run has such an id."""

_status = col(Course.embedding_status)
_owner = col(Course.embedding_run_id)
_requested_at = col(Course.embedding_requested_at)
_attempted = col(Course.embedding_attempted)


@dataclass(frozen=True)
class Ingestion:
    """What stage one has written for a course."""

    resources: int = 0
    succeeded: int = 0
    chunks: int = 0

    @property
    def finished(self) -> bool:
        """The course is ingested: it has resources, and all of them succeeded."""
        return 0 < self.resources == self.succeeded


def get_course(session: Session, course_id: str) -> Course | None:
    """The course as it stands in the database now, or None where there is no such id."""
    query = select(Course).where(is_id(col(Course.id), course_id)).execution_options(populate_existing=True)
    return _unless_unfit(session, lambda: session.scalars(query).one_or_none(), None, course_id)


class PublishedCourse(NamedTuple):
    """What a search wants to know of a course: the columns of the same name."""

    id: str
    embedding_status: str
    embedding_error: str | None
    embedding_generation: int
    embedding_fingerprint: str | None


def is_id(column: Mapped[str], value: str | BindParameter[str]) -> ColumnElement[bool]:
    """Matches one id: by the index, and letter for letter."""
    return and_(column == value, cast(column, String) == value)


_published_course = select(*(col(getattr(Course, name)) for name in PublishedCourse._fields)).where(
    is_id(col(Course.id), bindparam("course_id", type_=String()))
)


def published_course(session: Session, course_id: str) -> PublishedCourse | None:
    """The course as a search sees it, by the only statement of its transaction.

    Every search reads it, so it costs as little as can be: a row without an object, and no savepoint.
    """
    if not _is_text(course_id):
        return None
    try:
        row = session.execute(_published_course, {"course_id": course_id}).one_or_none()
    except DataError:
        row = None
    return None if row is None else PublishedCourse(*row)


def list_courses(session: Session) -> list[Course]:
    """All courses by id: in numeric order where ids are integers, else in text order."""
    query = select(Course).order_by(col(Course.id)).execution_options(populate_existing=True)
    return list(session.scalars(query))


def course_ids(session: Session) -> Sequence[str]:
    """The ids of all courses, in the order of `list_courses`."""
    return session.scalars(select(col(Course.id)).order_by(col(Course.id))).all()


def active_courses(session: Session, also: Collection[str] = ()) -> list[Course]:
    """The courses that wait for a run or are embedded by one, and those of these ids that there are."""
    active = _status.in_([EmbeddingStatus.PENDING, EmbeddingStatus.RUNNING])
    # as text: not every partition key an operator may add is an id that the column can hold
    query = select(Course).where(or_(active, cast(col(Course.id), String).in_(also)))
    return list(session.scalars(query.execution_options(populate_existing=True)))


def request_embedding(session: Session, course_id: str, now: datetime) -> bool:
    """Asks for an embedding, from any state but `running`. The request belongs to no run yet.

    Returns:
        False when the course is running (or doesn't exist: see `get_course`).
    """
    return _write(
        session,
        course_id,
        _status != EmbeddingStatus.RUNNING,
        embedding_status=EmbeddingStatus.PENDING,
        embedding_progress=0.0,
        embedding_error=None,
        embedding_requested_at=now,
        embedding_run_id=None,
    )


def mark_queued(session: Session, course_id: str, run_id: str) -> bool:
    """Shows that a run waits to embed the course, unless one is embedding it or this run has already been seen."""
    return _write(
        session,
        course_id,
        _status != EmbeddingStatus.RUNNING,
        _owner.is_distinct_from(run_id),
        embedding_status=EmbeddingStatus.PENDING,
        embedding_progress=0.0,
        embedding_error=None,
        embedding_run_id=run_id,
    )


def claim_course(session: Session, course_id: str, run_id: str, dead_owner: str | None = None) -> bool:
    """Makes the run the owner of the course, which is what keeps two runs from embedding it at once.

    Args:
        session: an open transaction.
        course_id: the course.
        run_id: the run that is about to embed it.
        dead_owner: a run known to have ended without a word, whose course may be taken over.

    Returns:
        False when another run is embedding the course.
    """
    free = or_(
        _status != EmbeddingStatus.RUNNING,
        _owner.is_(None),
        _owner == run_id,
        *([] if dead_owner is None else [_owner == dead_owner]),
    )
    return _write(
        session,
        course_id,
        free,
        embedding_status=EmbeddingStatus.RUNNING,
        embedding_progress=0.0,
        embedding_error=None,
        embedding_requested_at=None,
        embedding_attempted=None,
        embedding_run_id=run_id,
    )


def owns_course(session: Session, course_id: str, run_id: str) -> bool:
    """Whether the run is embedding the course still: one that was frozen, or cut off, may long have lost it."""
    query = select(col(Course.id)).where(is_id(col(Course.id), course_id), _run_by(run_id))
    return _unless_unfit(session, lambda: session.scalar(query) is not None, False, course_id)


def note_attempt(session: Session, course_id: str, run_id: str, fingerprint: str) -> bool:
    """Records what the owner sets out to publish, so that nobody tries the same again should it fail."""
    return _write(session, course_id, _run_by(run_id), embedding_attempted=fingerprint)


def report_progress(session: Session, course_id: str, run_id: str, progress: float) -> bool:
    """Records the share of finished batches, 0.0 to 1.0. False: the run no longer owns the course and should stop."""
    return _write(session, course_id, _run_by(run_id), embedding_progress=min(1.0, max(0.0, progress)))


def publish(session: Session, course_id: str, run_id: str, fingerprint: str) -> bool:
    """Declares the collection complete, as the last step of all: from here on searches use the new generation."""
    return _write(
        session,
        course_id,
        _run_by(run_id),
        embedding_status=EmbeddingStatus.DONE,
        embedding_progress=1.0,
        embedding_error=None,
        embedding_generation=col(Course.embedding_generation) + 1,
        embedding_attempted=None,
        embedding_fingerprint=fingerprint,
    )


def fail_course(
    session: Session,
    course_id: str,
    run_id: str,
    reason: str,
    *,
    retry_at: datetime | None = None,
    attempted: str | None = None,
) -> bool:
    """Records why the run that owns the course gave it up.

    Args:
        session: an open transaction.
        course_id: the course.
        run_id: the run.
        reason: why.
        retry_at: asks for another run, from then.
        attempted: the fingerprint the run was to publish, for a run that has noted none itself.
    """
    return _write(
        session,
        course_id,
        _run_by(run_id),
        embedding_requested_at=retry_at,
        embedding_attempted=func.coalesce(_attempted, attempted),
        **_failed(reason),
    )


def restart_course(session: Session, course_id: str, run_id: str, now: datetime) -> bool:
    """Hands a course whose collection the owner has deleted back: asked for now, and made from nothing.

    The generation stays, since it must never repeat: the next publication raises it.
    """
    return _write(
        session,
        course_id,
        _run_by(run_id),
        embedding_status=EmbeddingStatus.PENDING,
        embedding_progress=0.0,
        embedding_error=None,
        embedding_requested_at=now,
        embedding_attempted=None,
        embedding_fingerprint=None,
        embedding_run_id=None,
    )


def fail_unfinished(
    session: Session,
    course_id: str,
    run_id: str,
    reason: str,
    *,
    requested_at: datetime | None = None,
    attempted: str | None = None,
    retry_at: datetime | None = None,
) -> bool:
    """Records the end of a run that died or was cancelled without a word of its own.

    That is the course it was embedding, or one that waited for it: never started, queued for this run, or requested
    and taken up by nobody since. Another request than the run's, or a newer run's course, is left alone.

    Args:
        session: an open transaction.
        course_id: the course.
        run_id: the run that ended.
        reason: why.
        requested_at: the request the run was launched for, if any.
        attempted: the fingerprint the run was to publish, for a course that it has noted none for itself.
        retry_at: asks for another run, from then.
    """
    waited = and_(
        _status.in_([EmbeddingStatus.PENDING, EmbeddingStatus.NOT_STARTED]),
        or_(_owner.is_(None), _owner == run_id),
        or_(_requested_at.is_(None), *([] if requested_at is None else [_requested_at == requested_at])),
    )
    changes = {
        **_failed(reason),
        "embedding_attempted": case(
            (_status == EmbeddingStatus.RUNNING, func.coalesce(_attempted, attempted)), else_=attempted
        ),
        "embedding_requested_at": retry_at,
        "embedding_run_id": run_id,
    }
    return _write(session, course_id, or_(_run_by(run_id), waited), **changes)


def release_request(session: Session, course_id: str, run_id: str) -> bool:
    """Lets go of a course that was shown to wait for a run which is over, and which knew nothing of the request for it.

    It is pending still, and waits for no run: the next one is launched for it.
    """
    return _write(
        session,
        course_id,
        _status == EmbeddingStatus.PENDING,
        _owner == run_id,
        _requested_at.is_not(None),
        embedding_run_id=None,
    )


def fail_unreadable(session: Session, course_id: str, reason: str) -> bool:
    """Records why nobody can even see what a course holds. It is looked at again, and embedded once it can be read.

    Returns:
        False where the row says so already, or a run is embedding the course.
    """
    failed = _failed(reason)
    return _write(
        session,
        course_id,
        _status != EmbeddingStatus.RUNNING,
        or_(_status != EmbeddingStatus.FAILED, col(Course.embedding_error).is_distinct_from(failed["embedding_error"])),
        **failed,
        embedding_requested_at=None,
        embedding_attempted=None,
        embedding_run_id=None,
    )


def note_vain_attempt(session: Session, course_id: str, run_id: str, fingerprint: str, generation: int) -> bool:
    """Records what a run was to publish that ended without a word before it touched the course, which stays as it is.

    Only while nothing has been published since the run was launched, at this generation.
    """
    return _write(
        session,
        course_id,
        _status.in_([EmbeddingStatus.DONE, EmbeddingStatus.FAILED]),
        _owner.is_distinct_from(run_id),
        col(Course.embedding_generation) == generation,
        embedding_attempted=fingerprint,
    )


def set_back_all(session: Session) -> None:
    """Takes back what every row says of its collection, before a restore replaces them all.

    The generation rises, so that a run that was launched for a course before does not pass for the one it needs now.
    """
    changes = _at_rest(EmbeddingStatus.NOT_STARTED, progress=0.0, fingerprint=None)
    session.connection().execute(update(Course).values(changes))


def restore_course(session: Session, course_id: str, fingerprint: str) -> bool:
    """Declares a collection complete that a restore put there, made from what the fingerprint says."""
    return _write(session, course_id, **_at_rest(EmbeddingStatus.DONE, progress=1.0, fingerprint=fingerprint))


def ingestion(session: Session, course_ids: Collection[str] | None = None) -> dict[str, Ingestion]:
    """What stage one has written for every course, or for some that exist; three queries whatever their number.

    The tables are totalled apart and merged here, because their ids may be of different types. No text is read: chunks
    are counted by the index on their course.
    """
    courses = select(col(Course.id))
    resources, chunks = _resources_by_course(), _chunks_by_course()
    if course_ids is not None:
        courses = courses.where(col(Course.id).in_(course_ids))
        resources = resources.where(col(Resource.course_id).in_(course_ids))
        chunks = chunks.where(col(Chunk.course_id).in_(course_ids))
    totals = {course_id: (number, succeeded) for course_id, number, succeeded in session.execute(resources)}
    written = dict(session.execute(chunks).all())
    return {
        course_id: Ingestion(*totals.get(course_id, (0, 0)), written.get(course_id, 0))
        for course_id in session.scalars(courses)
    }


def ingestion_of(session: Session, course_id: str) -> Ingestion:
    """What stage one has written for one course; all zero for an unknown one."""
    resources = _resources_by_course().where(is_id(col(Resource.course_id), course_id))
    chunks = _chunks_by_course().where(is_id(col(Chunk.course_id), course_id))
    totals = _unless_unfit(session, lambda: session.execute(resources).first(), None, course_id)
    written = _unless_unfit(session, lambda: session.execute(chunks).first(), None, course_id)
    return Ingestion(*(totals[1:] if totals else (0, 0)), written[1] if written else 0)


def chunk_page(session: Session, course_id: str, after: str | None = None, limit: int = 500) -> list[Chunk]:
    """The course's next chunks by id, after the id `after`; empty at the end. They belong to no session.

    Pages follow ids in the database's own order (numeric for integers, its collation for text), so a chunk that
    comes or goes meanwhile shifts no other. Each page may have a transaction of its own.
    """
    query = select(Chunk).where(is_id(col(Chunk.course_id), course_id)).order_by(col(Chunk.id)).limit(limit)
    if after is not None:
        query = query.where(col(Chunk.id) > after)
    chunks: list[Chunk] = _unless_unfit(session, lambda: list(session.scalars(query)), [], course_id)
    for chunk in chunks:
        session.expunge(chunk)
    return chunks


def chunk_pages(session: Session, course_id: str, page_size: int = 500) -> Iterator[list[Chunk]]:
    """All chunks of a course, page by page, in one transaction and with one page in memory at a time."""
    chunks = chunk_page(session, course_id, limit=page_size)
    while chunks:
        yield chunks
        chunks = chunk_page(session, course_id, after=chunks[-1].id, limit=page_size)


def _run_by(run_id: str) -> ColumnElement[bool]:
    return and_(_status == EmbeddingStatus.RUNNING, _owner == run_id)


def _failed(reason: str) -> dict[str, Any]:
    """The columns of a failed course: a reason of sane length, without what PostgreSQL can't store."""
    reason = reason.replace("\0", "").encode(errors="replace").decode()
    return {"embedding_status": EmbeddingStatus.FAILED, "embedding_error": reason[:MAX_ERROR_CHARACTERS]}


def _at_rest(status: EmbeddingStatus, progress: float, fingerprint: str | None) -> dict[str, Any]:
    """All columns of a course that a restore puts into a new state: no run, no request, nothing tried."""
    return {
        "embedding_status": status,
        "embedding_progress": progress,
        "embedding_error": None,
        "embedding_run_id": None,
        "embedding_requested_at": None,
        "embedding_attempted": None,
        "embedding_generation": col(Course.embedding_generation) + 1,
        "embedding_fingerprint": fingerprint,
    }


def _write(session: Session, course_id: str, *conditions: ColumnElement[bool], **values: Any) -> bool:
    statement = update(Course).where(is_id(col(Course.id), course_id), *conditions).values(**values)
    return _unless_unfit(session, lambda: session.connection().execute(statement).rowcount == 1, False, course_id)


def _resources_by_course() -> Select[str, int, int]:
    succeeded = func.sum(case((col(Resource.status) == "succeeded", 1), else_=0))
    return select(col(Resource.course_id), func.count(), succeeded).group_by(col(Resource.course_id))


def _chunks_by_course() -> Select[str, int]:
    return select(col(Chunk.course_id), func.count()).group_by(col(Chunk.course_id))


def _unless_unfit(session: Session, query: Callable[[], T], otherwise: T, course_id: str) -> T:
    """Runs a query about a course, with an answer for ids that no such column can hold.

    PostgreSQL refuses to compare an integer with `abc` and then the whole transaction, hence the savepoint.
    """
    if not _is_text(course_id):
        return otherwise
    if session.get_bind().dialect.name == "sqlite":
        return query()
    try:
        with session.begin_nested():
            return query()
    except DataError:
        return otherwise


def _is_text(course_id: str) -> bool:
    """Whether a database can hold it as text at all."""
    return "\0" not in course_id and is_unicode(course_id)

"""The state machine of a course row; the only module that writes course rows.

Several processes write the row, so every write is *one conditional UPDATE* that returns whether it changed the row. A
run writes only while it owns the course, so an old run never overwrites the result of a newer one.

    function                from                                                 to                owner afterwards
    request_embedding       any but running                                      pending           none
    mark_queued             any but running                                      pending           the run
    claim_course            any, unless another run is embedding the course      running           the run
    report_progress         running, by the owner                                running           the run
    publish                 running, by the owner                                done              the run
    fail_course             running, by the owner                                failed            the run
    request_after_rebuild   running, by the owner                                pending           none
    fail_unfinished         running, by the owner; pending or not_started,       failed            the run
                            by the owner or nobody
    detach_finished_run     pending, by the owner, with a request                pending           none
    fail_unreadable         any but running                                      failed            none
    record_failed_attempt   done, failed                                         unchanged         unchanged
    reset_all               any (a restore, while the product is stopped)        not_started       none
    mark_restored           any (likewise)                                       done              none
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from models.ids import can_hold, is_id
from models.tables import Course, EmbeddingStatus

MAX_ERROR_CHARACTERS = 2000
REBUILD_OWNER_PREFIX = "rebuild-"
"""Prefix of the owner id of a rebuild, which no Dagster run id has."""

_status = col(Course.embedding_status)
_owner = col(Course.embedding_run_id)
_requested_at = col(Course.embedding_requested_at)
_attempted = col(Course.embedding_attempted)


def request_embedding(session: Session, course_id: str, now: datetime) -> bool:
    """Request an embedding, from any state but `running`. No run owns the course until one takes up the request.

    Returns:
        False if the course is running or does not exist.
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
    """Record that a queued run will embed the course, unless it is running or this run has already been recorded."""
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
    """Make the run the owner of the course. This is what keeps two runs from embedding one course at once.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run that is about to embed it.
        dead_owner: A run that is known to have ended without updating the row; its course may be taken over.

    Returns:
        False if another run is embedding the course.
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
    """Whether the run is still embedding the course. A run that was suspended may have lost it."""
    if not can_hold(session, col(Course.id), course_id):
        return False
    query = select(col(Course.id)).where(is_id(col(Course.id), course_id), _is_running_for(run_id))
    return session.scalar(query) is not None


def record_attempt(session: Session, course_id: str, run_id: str, fingerprint: str) -> bool:
    """Record what the owner is about to publish, so that the same content is not tried again if the run fails."""
    return _write(session, course_id, _is_running_for(run_id), embedding_attempted=fingerprint)


def report_progress(session: Session, course_id: str, run_id: str, progress: float) -> bool:
    """Record the share of finished batches, 0.0 to 1.0.

    Returns:
        False if the run no longer owns the course and should stop.
    """
    return _write(session, course_id, _is_running_for(run_id), embedding_progress=min(1.0, max(0.0, progress)))


def publish(session: Session, course_id: str, run_id: str, fingerprint: str) -> bool:
    """Declare the collection complete: searches use the new generation from here on. The last step of a run."""
    return _write(
        session,
        course_id,
        _is_running_for(run_id),
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
    """Record why the owner gave the course up.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run.
        reason: The error shown to users.
        retry_at: Time of a request for another run; None requests none.
        attempted: The fingerprint the run was to publish, used if it had not yet recorded one.
    """
    return _write(
        session,
        course_id,
        _is_running_for(run_id),
        embedding_requested_at=retry_at,
        embedding_attempted=func.coalesce(_attempted, attempted),
        **_failed(reason),
    )


def request_after_rebuild(session: Session, course_id: str, owner: str, now: datetime) -> bool:
    """Request an embedding from scratch of a course whose collection the rebuild that owns it has deleted.

    The generation stays, because it must never repeat: the next publication increments it.
    """
    return _write(
        session,
        course_id,
        _is_running_for(owner),
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
    """Record the end of a run that died or was cancelled without updating the row.

    Changes the course the run was embedding, and courses that waited for it: not started, queued for this run, or
    requested and not taken up since. A course with another request, or of a newer run, is left alone.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run that ended.
        reason: The error shown to users.
        requested_at: The request the run was launched for, if any.
        attempted: The fingerprint the run was to publish, used if it had not yet recorded one.
        retry_at: Time of a request for another run; None requests none.
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
    return _write(session, course_id, or_(_is_running_for(run_id), waited), **changes)


def detach_finished_run(session: Session, course_id: str, run_id: str) -> bool:
    """Remove a finished run as the owner of a course whose request came too late for that run.

    The course stays pending, and the next run is launched for the request.
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
    """Record that the chunks of the course cannot be read. It is embedded once they can be.

    Returns:
        False if the row says so already, or a run is embedding the course.
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


def record_failed_attempt(session: Session, course_id: str, run_id: str, fingerprint: str, generation: int) -> bool:
    """Record what a run was to publish that died before it started on the course. The state stays as it is.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run that ended.
        fingerprint: What it was to publish.
        generation: The course's generation when the run was launched. After a later publication nothing is recorded.
    """
    return _write(
        session,
        course_id,
        _status.in_([EmbeddingStatus.DONE, EmbeddingStatus.FAILED]),
        _owner.is_distinct_from(run_id),
        col(Course.embedding_generation) == generation,
        embedding_attempted=fingerprint,
    )


def reset_all(session: Session) -> None:
    """Set every course back to `not_started`, before a restore replaces all collections.

    The generation is incremented, so that a run launched earlier is not mistaken for one that the new state needs.
    """
    changes = _without_run(EmbeddingStatus.NOT_STARTED, progress=0.0, fingerprint=None)
    session.connection().execute(update(Course).values(changes))


def mark_restored(session: Session, course_id: str, fingerprint: str) -> bool:
    """Declare a restored collection complete; the fingerprint is the one it was saved with."""
    return _write(session, course_id, **_without_run(EmbeddingStatus.DONE, progress=1.0, fingerprint=fingerprint))


def _is_running_for(run_id: str) -> ColumnElement[bool]:
    return and_(_status == EmbeddingStatus.RUNNING, _owner == run_id)


def _failed(reason: str) -> dict[str, Any]:
    """The columns of a failed course; the reason is truncated, without NUL characters, which PostgreSQL rejects."""
    reason = reason.replace("\0", "").encode(errors="replace").decode()
    return {"embedding_status": EmbeddingStatus.FAILED, "embedding_error": reason[:MAX_ERROR_CHARACTERS]}


def _without_run(status: EmbeddingStatus, progress: float, fingerprint: str | None) -> dict[str, Any]:
    """The columns a restore sets: a new generation with no run, no request and no recorded attempt."""
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
    if not can_hold(session, col(Course.id), course_id):
        return False
    statement = update(Course).where(is_id(col(Course.id), course_id), *conditions).values(**values)
    return session.connection().execute(statement).rowcount == 1

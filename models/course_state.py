"""The state machine of a course row. No other module updates the `embedding_…` columns.

Several processes write the row, so every write, except those of a restore, is *one conditional UPDATE* that
returns whether it changed the row. A run writes only while it owns the course, so an old run never overwrites the
result of a newer one.

    function                from                                                 to                owner afterwards
    request_embedding       any but running                                      pending           none
    mark_queued             any but running                                      pending           the run
    claim_course            any, unless another run is embedding the course      running           the run
    record_attempt          running, by the owner                                running           the run
    report_progress         running, by the owner                                running           the run
    publish                 running, by the owner                                done              the run
    fail_course             running, by the owner                                failed            the run
    request_after_rebuild   running, by the owner                                pending           none
    fail_unfinished         running, by the owner; pending or not_started,       failed            the run
                            by the owner, or without owner
    detach_finished_run     pending, by the owner, with a request                pending           none
    fail_unreadable         any but running                                      failed            none
    record_failed_attempt   done, failed                                         unchanged         unchanged
    reset_all               any (only in a restore, with the product stopped)    not_started       none
    mark_restored           any (only in a restore, with the product stopped)    done              none
"""

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, or_, select, update
from sqlalchemy.orm import Session
from sqlmodel import col

from models.ids import can_hold, id_equals
from models.tables import Course, EmbeddingStatus

MAX_ERROR_CHARACTERS = 2000
REBUILD_OWNER_PREFIX = "rebuild-"
"""Prefix of the owner id of a rebuild. No Dagster run id starts with it."""

_status = col(Course.embedding_status)
_owner = col(Course.embedding_run_id)
_requested_at = col(Course.embedding_requested_at)
_attempted = col(Course.embedding_attempted)


def request_embedding(session: Session, course_id: str, now: datetime) -> bool:
    """Request an embedding, in any state but `running`.

    The course has no owner until a run is queued for it or claims it.

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
    """Record that a queued run will embed the course, unless the course is running or the run is already recorded."""
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
    """Make the run the owner of the course, so that no two runs embed one course at the same time.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run that is about to embed it.
        dead_owner: A run that ended without updating the row. The new run may take the course over from it.

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
    """Whether the run still owns the course and the course is `running`. A suspended run may have lost its claim."""
    if not can_hold(session, col(Course.id), course_id):
        return False
    query = select(col(Course.id)).where(id_equals(col(Course.id), course_id), _is_running_for(run_id))
    return session.scalar(query) is not None


def record_attempt(session: Session, course_id: str, run_id: str, fingerprint: str) -> bool:
    """Record the fingerprint that the owner will publish, so that a failed run is not retried with the same content."""
    return _write(session, course_id, _is_running_for(run_id), embedding_attempted=fingerprint)


def report_progress(session: Session, course_id: str, run_id: str, progress: float) -> bool:
    """Record the share of finished chunks, 0.0 to 1.0.

    Returns:
        False if the run no longer owns the course and should stop.
    """
    return _write(session, course_id, _is_running_for(run_id), embedding_progress=min(1.0, max(0.0, progress)))


def publish(session: Session, course_id: str, run_id: str, fingerprint: str) -> bool:
    """Set `done` and increment the generation: from now on, searches use the new content.

    It is the last write of a run to this row.
    """
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
    """Set `failed`, with the reason why the owner stopped.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run.
        reason: The error shown to users.
        retry_at: Time of a request for another run; None makes no request.
        attempted: The fingerprint that the run should have published. Ignored if the run has recorded one.
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
    """Request a complete new embedding, after the rebuild that owns the course has deleted its collection.

    The generation is not reset, because a generation must never repeat. The next publication increments it.
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
    """Set `failed` after a run died or was cancelled without updating the row.

    Applies if the run owns the course and the course is `running`. Also applies if the course was waiting for this run:
    it is `pending` or `not_started`, has no other owner, and has no request other than `requested_at`.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run that ended.
        reason: The error shown to users.
        requested_at: Time of the request that the run was launched for, if any.
        attempted: The fingerprint that the run should have published. Ignored if the run has recorded one.
        retry_at: Time of a request for another run; None makes no request.
    """
    was_waiting = and_(
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
    return _write(session, course_id, or_(_is_running_for(run_id), was_waiting), **changes)


def detach_finished_run(session: Session, course_id: str, run_id: str) -> bool:
    """Remove the finished run as owner of a pending course with a request that the run did not handle.

    The course stays `pending`, so the sensor launches another run for the request.
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
    """Set `failed` because the chunks of the course cannot be read. The course is embedded once they are readable.

    Returns:
        False if the row already has this error, or if a run is embedding the course.
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
    """Record the attempted content of a run that died before it claimed the course. The status does not change.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run that ended.
        fingerprint: The fingerprint that the run should have published.
        generation: The course's generation when the run was launched. If it has changed, nothing is recorded.
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
    """Reset every course to `not_started`, before a restore replaces all collections.

    The generation is incremented, so that a run launched before the restore is not taken for a run of the new state.
    """
    changes = _without_run(EmbeddingStatus.NOT_STARTED, progress=0.0, fingerprint=None)
    session.connection().execute(update(Course).values(changes))


def mark_restored(session: Session, course_id: str, fingerprint: str) -> bool:
    """Set `done` for a restored collection. The fingerprint is the one in the backup."""
    return _write(session, course_id, **_without_run(EmbeddingStatus.DONE, progress=1.0, fingerprint=fingerprint))


def _is_running_for(run_id: str) -> ColumnElement[bool]:
    return and_(_status == EmbeddingStatus.RUNNING, _owner == run_id)


def _failed(reason: str) -> dict[str, Any]:
    """The columns of a failed course.

    The reason is truncated, and NUL characters are removed: PostgreSQL rejects them.
    """
    reason = reason.replace("\0", "").encode(errors="replace").decode()
    return {"embedding_status": EmbeddingStatus.FAILED, "embedding_error": reason[:MAX_ERROR_CHARACTERS]}


def _without_run(status: EmbeddingStatus, progress: float, fingerprint: str | None) -> dict[str, Any]:
    """The columns that a restore sets: a new generation, without owner, request or attempted content."""
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
    statement = update(Course).where(id_equals(col(Course.id), course_id), *conditions).values(**values)
    return session.connection().execute(statement).rowcount == 1

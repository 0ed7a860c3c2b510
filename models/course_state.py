"""The state machine of a course row. No other module updates the `embedding_…` columns.

Several processes write the row, so every write, except those of a restore, is *one conditional UPDATE* that
returns whether it changed the row. A run writes only while it owns the course, so an old run never overwrites the
result of a newer one. A run that waits changes as little as possible, so that a run that is cancelled in the queue
leaves its courses as they were.

    function            from                                                     to                owner afterwards
    request_embedding   any but running                                          pending           none
    mark_queued         not_started; failed by another run                       pending           the run
    release_queued      pending, by the owner                                    as before         none
    claim_course        any, unless another run is embedding the course          running           the run
    record_attempt      running, by the owner                                    running           the run
    report_progress     running, by the owner                                    running           the run
    withdraw            running, by the owner                                    running           the run
    withdraw_deleted    any                                                      not_started       none
    publish             running, by the owner                                    done              the run
    fail_course         running, by the owner or without an owner                failed            unchanged
    cancel_request      pending, with this request                               failed            none
    fail_unreadable     any but running                                          failed            none
    skip_content        not_started, done or failed, without a request           unchanged         unchanged
    postpone            any but running, not published since                     unchanged; failed unchanged;
                                                                                 after the last    none after
                                                                                 retry             the last retry
    mark_due, clear_due any                                                      unchanged         unchanged
    reset_all           any (only in a restore, with the product stopped)        not_started       none
    mark_restored       any (only in a restore, with the product stopped)        done              none

A course that is `running` without an owner was set so by another program: every claim sets an owner. A run may claim
it; `course_status_sensor` sets it to `failed`, and it is embedded again.
"""

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from enum import Enum, auto
from typing import Any

from sqlalchemy import ColumnElement, and_, case, func, literal, null, or_, select, update
from sqlalchemy.orm import Mapped, Session
from sqlmodel import col

from models.ids import can_hold, id_equals
from models.tables import Course, EmbeddingStatus, UtcDateTime

FORGETTING = "forget-"
"""Start of the owner of a course that `course-search forget` has claimed. It is no run of Dagster."""
MAX_ERROR_CHARACTERS = 2000
RETRY_SECONDS = (5, 15, 45, 135, 405)
"""Pause before each automatic retry. After the last retry the course stays `failed` until its content changes or an
embedding is requested. Ten minutes outlast a restart of any part. A longer outage of the vector store or the embedding
service uses no retry, because no run is launched meanwhile."""


class Retry(Enum):
    """Whether a failed course is embedded again automatically, with the same content."""

    NEVER = auto()
    WHEN_INGESTED = auto()
    """Stage one has not finished the course. The sensor launches a run as soon as it has, whatever the content."""
    LATER = auto()
    """The cause may be temporary. Counted, with a growing pause."""
    NOW = auto()
    """The run was interrupted, for example because the product was stopped. Not counted."""


_status = col(Course.embedding_status)
_owner = col(Course.embedding_run_id)
_requested_at = col(Course.embedding_requested_at)
_attempted = col(Course.embedding_attempted)
_attempts = col(Course.embedding_attempts)
_retry_at = col(Course.embedding_retry_at)
_due_since = col(Course.embedding_due_since)
_error = col(Course.embedding_error)
_generation = col(Course.embedding_generation)


def request_embedding(session: Session, course_id: str, now: datetime, *, rebuild: bool = False) -> bool:
    """Request an embedding, in any state but `running`.

    The course has no owner until a run claims it. The published collection is kept, but the course is not `done`.

    Args:
        session: An open transaction.
        course_id: The course.
        now: The time of the request.
        rebuild: The run deletes the collection and embeds every chunk again.

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
        embedding_attempts=0,
        embedding_retry_at=None,
        embedding_due_since=_due_since_or(now),
        **({"embedding_rebuild": True} if rebuild else {}),
    )


def mark_queued(session: Session, course_id: str, run_id: str) -> bool:
    """Set a course that is `not_started` or `failed` to `pending`, because a run that waits will embed it.

    The error and the progress are kept: they tell `release_queued` what the course was before.
    """
    return _write(
        session,
        course_id,
        _status.in_([EmbeddingStatus.NOT_STARTED, EmbeddingStatus.FAILED]),
        _owner.is_distinct_from(run_id),
        embedding_status=EmbeddingStatus.PENDING,
        embedding_run_id=run_id,
    )


def release_queued(session: Session, course_id: str, run_id: str) -> bool:
    """Undo `mark_queued`, because the run ended before it claimed the course."""
    before = case((_error.is_(None), EmbeddingStatus.NOT_STARTED), else_=EmbeddingStatus.FAILED)
    return _write(
        session,
        course_id,
        _status == EmbeddingStatus.PENDING,
        _owner == run_id,
        embedding_status=before,
        embedding_run_id=None,
    )


def claim_course(
    session: Session,
    course_id: str,
    run_id: str,
    dead_owner: str | None = None,
    *,
    rebuild: bool = False,
    content: str | None = None,
) -> bool:
    """Make the run the owner of the course, so that no two runs embed one course at the same time.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run that is about to embed it.
        dead_owner: A run that ended without updating the row. The new run may take the course over from it.
        rebuild: The run deletes the collection. It stays recorded on the row until a run has published the course.
        content: The fingerprint that the run was launched for, if known. It is recorded at once (see
            `record_attempt`), because a run may die before it has read the chunks, for example while it loads the
            model.

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
        embedding_run_id=run_id,
        embedding_retry_at=None,
        embedding_due_since=_due_since_or(datetime.now(UTC)),
        **({"embedding_rebuild": True} if rebuild else {}),
        **(_attempt(content) if content else {}),
    )


def owns_course(session: Session, course_id: str, run_id: str) -> bool:
    """Whether the run still owns the course and the course is `running`. A suspended run may have lost its claim."""
    if not can_hold(session, col(Course.id), course_id):
        return False
    query = select(col(Course.id)).where(id_equals(col(Course.id), course_id), _is_running_for(run_id))
    return session.scalar(query) is not None


def record_attempt(session: Session, course_id: str, run_id: str, fingerprint: str) -> bool:
    """Record the fingerprint that the owner will publish, so that a failed run is not repeated with the same content.

    Retries are counted per content.
    """
    return _write(session, course_id, _is_running_for(run_id), **_attempt(fingerprint))


def withdraw(session: Session, course_id: str, run_id: str) -> bool:
    """Withdraw what was published, because the course has no content any more: it is not searchable from now on.

    The generation is not reset, because a generation must never repeat. The next publication increments it.
    """
    return _write(session, course_id, _is_running_for(run_id), embedding_fingerprint=None)


def withdraw_deleted(session: Session, course_id: str) -> bool:
    """Withdraw what was published, because a user deleted the last passage: it is not searchable from now on.

    A run that is embedding the course loses its claim. `withdrawn_course_sensor` recognizes the row by its
    generation without a fingerprint, and deletes the texts.
    """
    return _write(session, course_id, **_without_run(EmbeddingStatus.NOT_STARTED, progress=0.0, fingerprint=None))


def report_progress(session: Session, course_id: str, run_id: str, progress: float) -> bool:
    """Record the share of finished chunks, 0.0 to 1.0.

    Returns:
        False if the run no longer owns the course and should stop.
    """
    return _write(session, course_id, _is_running_for(run_id), embedding_progress=min(1.0, max(0.0, progress)))


def publish(session: Session, course_id: str, run_id: str, fingerprint: str, *, calibration: str | None = None) -> bool:
    """Set `done` and increment the generation: from now on, searches use the new content.

    It is the last write of a run to this row.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The owner.
        fingerprint: The published content.
        calibration: What the scores of its searches mean (see `retrieval.relevance`).
    """
    return _write(
        session,
        course_id,
        _is_running_for(run_id),
        embedding_status=EmbeddingStatus.DONE,
        embedding_progress=1.0,
        embedding_error=None,
        embedding_generation=_generation + 1,
        embedding_attempted=None,
        embedding_fingerprint=fingerprint,
        embedding_calibration=calibration,
        embedding_rebuild=False,
        embedding_attempts=0,
        embedding_due_since=None,
    )


def fail_course(
    session: Session, course_id: str, run_id: str | None, reason: str, *, retry: Retry = Retry.NEVER
) -> bool:
    """Set `failed`, with the reason why the owner stopped or died.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The owner; None for a course that is running without an owner.
        reason: The error shown to users.
        retry: Whether and when the sensor launches another run for the same content.
    """
    now = datetime.now(UTC)
    retry_at = {Retry.LATER: _next_retry(now, _attempts), Retry.NOW: now}
    return _write(
        session,
        course_id,
        _status == EmbeddingStatus.RUNNING,
        _owner.is_(None) if run_id is None else _owner == run_id,
        embedding_attempts=_attempts + (1 if retry is Retry.LATER else 0),
        embedding_retry_at=retry_at.get(retry),
        **({"embedding_attempted": None} if retry is Retry.WHEN_INGESTED else {}),
        **_failed(reason),
    )


def cancel_request(
    session: Session, course_id: str, requested_at: datetime, reason: str, attempted: str | None
) -> bool:
    """Set `failed`, because an operator cancelled the run for this request before it claimed the course.

    A rebuild is cancelled too.

    Args:
        session: An open transaction.
        course_id: The course.
        requested_at: Time of the request. A later request is not affected.
        reason: The error shown to users.
        attempted: The fingerprint that the run should have published.
    """
    return _write(
        session,
        course_id,
        _status == EmbeddingStatus.PENDING,
        _requested_at == requested_at,
        embedding_rebuild=False,
        **_given_up(reason, attempted),
    )


def skip_content(session: Session, course_id: str, run_id: str, content: str, generation: int) -> bool:
    """Record that this content shall not be embedded automatically: its run was cancelled before it claimed the course.

    Args:
        session: An open transaction.
        course_id: The course.
        run_id: The run that was cancelled.
        content: The fingerprint that the run should have published.
        generation: The course's generation when the run was launched. If it has changed, nothing is recorded.
    """
    return _write(
        session,
        course_id,
        _status.in_([EmbeddingStatus.NOT_STARTED, EmbeddingStatus.DONE, EmbeddingStatus.FAILED]),
        _owner.is_distinct_from(run_id),
        _requested_at.is_(None),
        _generation == generation,
        embedding_attempted=content,
        embedding_retry_at=None,
        embedding_due_since=case((_status == EmbeddingStatus.FAILED, _due_since), else_=null()),
    )


def postpone(
    session: Session, course_id: str, reason: str, *, content: str, generation: int, ended_at: datetime
) -> bool:
    """Count a run that died before it claimed any course, and set the time of the next one.

    After the last retry the course is `failed`.

    Args:
        session: An open transaction.
        course_id: The course.
        reason: Why the run died; shown to users after the last retry.
        content: The fingerprint that the run should have published.
        generation: The course's generation when the run was launched. If it has changed, nothing is counted.
        ended_at: When the run died. A course that was postponed or requested after this time is not changed.
    """
    is_first = and_(_status == EmbeddingStatus.FAILED, _retry_at.is_(None))  # the count is of an earlier content
    attempts = case((is_first, 0), else_=_attempts)
    concerned = (
        _status != EmbeddingStatus.RUNNING,
        _generation == generation,
        or_(_retry_at.is_(None), _retry_at <= ended_at),
        or_(_requested_at.is_(None), _requested_at <= ended_at),
    )
    return _write(
        session,
        course_id,
        *concerned,
        attempts < len(RETRY_SECONDS),
        embedding_attempts=attempts + 1,
        embedding_retry_at=_next_retry(ended_at, attempts),
    ) or _write(
        session,
        course_id,
        *concerned,
        attempts >= len(RETRY_SECONDS),
        **_given_up(reason, content),
    )


def mark_due(session: Session, course_ids: Collection[str], now: datetime) -> None:
    """Record since when courses are due, unless that is recorded already."""
    for course_id in course_ids:
        _write(session, course_id, _due_since.is_(None), embedding_due_since=now)


def clear_due(session: Session, course_ids: Collection[str]) -> None:
    """Record that published courses are not due: their content is again the published one."""
    for course_id in course_ids:
        _write(session, course_id, _status == EmbeddingStatus.DONE, embedding_due_since=None)


def fail_unreadable(session: Session, course_id: str, reason: str) -> bool:
    """Set `failed` because the chunks of the course cannot be read. The course is embedded once they are readable.

    Returns:
        False if the row already has this error, or if a run is embedding the course.
    """
    columns = _given_up(reason, attempted=None)
    return _write(
        session,
        course_id,
        _status != EmbeddingStatus.RUNNING,
        or_(_status != EmbeddingStatus.FAILED, _error.is_distinct_from(columns["embedding_error"])),
        **columns,
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


def _attempt(fingerprint: str) -> dict[str, Any]:
    return {
        "embedding_attempted": fingerprint,
        "embedding_attempts": case((_attempted == fingerprint, _attempts), else_=0),
    }


def _due_since_or(now: datetime) -> ColumnElement[Any]:
    return func.coalesce(_due_since, literal(now, UtcDateTime()))


def _next_retry(now: datetime, attempts: ColumnElement[int] | Mapped[int]) -> ColumnElement[Any]:
    """When to try again after this number of retries; NULL if there were enough."""
    times = {
        number: literal(now + timedelta(seconds=pause), UtcDateTime()) for number, pause in enumerate(RETRY_SECONDS)
    }
    return case(times, value=attempts, else_=null())


def _is_running_for(run_id: str) -> ColumnElement[bool]:
    return and_(_status == EmbeddingStatus.RUNNING, _owner == run_id)


def _failed(reason: str) -> dict[str, Any]:
    """The columns of a failed course.

    The reason is truncated, and NUL characters are removed: PostgreSQL rejects them. The course is due until it is
    published again, which bounds how long its last generation is searched.
    """
    reason = reason.replace("\0", "").encode(errors="replace").decode()
    return {
        "embedding_status": EmbeddingStatus.FAILED,
        "embedding_error": reason[:MAX_ERROR_CHARACTERS],
        "embedding_due_since": _due_since_or(datetime.now(UTC)),
    }


def _given_up(reason: str, attempted: str | None) -> dict[str, Any]:
    """The columns of a course that fails without a run: no owner, request or retry is left."""
    return _failed(reason) | {
        "embedding_run_id": None,
        "embedding_requested_at": None,
        "embedding_attempted": attempted,
        "embedding_retry_at": None,
    }


def _without_run(status: EmbeddingStatus, progress: float, fingerprint: str | None) -> dict[str, Any]:
    """The columns of a new generation that no run has made: without owner, request or attempted content."""
    return {
        "embedding_status": status,
        "embedding_progress": progress,
        "embedding_error": None,
        "embedding_run_id": None,
        "embedding_requested_at": None,
        "embedding_attempted": None,
        "embedding_rebuild": False,
        "embedding_attempts": 0,
        "embedding_retry_at": None,
        "embedding_due_since": None,
        "embedding_generation": _generation + 1,
        "embedding_fingerprint": fingerprint,
    }


def _write(session: Session, course_id: str, *conditions: ColumnElement[bool], **values: Any) -> bool:
    if not can_hold(session, col(Course.id), course_id):
        return False
    statement = update(Course).where(id_equals(col(Course.id), course_id), *conditions).values(**values)
    return session.connection().execute(statement).rowcount == 1

"""Writes changes to the course rows.

Every write is conditional, so a row that has changed in the meantime is not overwritten.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg

from models.course_state import (
    REBUILD_OWNER_PREFIX,
    detach_finished_run,
    fail_unfinished,
    mark_queued,
    record_failed_attempt,
)
from models.database import Session
from orchestration.course_status.decide import Change, RunState
from orchestration.runs import UNFINISHED


@dataclass(frozen=True)
class Ending:
    """Why a run ended."""

    reason: str
    """The error shown on the course."""
    retry: bool = False
    """Whether another run may succeed with the same content."""


def endings_of(instance: dg.DagsterInstance, changes: Iterable[Change]) -> dict[str, Ending]:
    """Run id → why the run ended, for the finished runs of the changes."""
    finished = {change.run.run_id: change.run for change in changes if change.run.status not in UNFINISHED}
    return {run_id: _ending(instance, run) for run_id, run in finished.items()}


def write_changes(
    session: Session, changes: Iterable[Change], endings: Mapping[str, Ending], contents: Mapping[str, str]
) -> list[str]:
    """Write the changes.

    Args:
        session: An open transaction.
        changes: The result of `find_changes`.
        endings: The result of `endings_of`.
        contents: Course id → the fingerprint that a run without launch reasons would have published, if known.

    Returns:
        One line per row that was changed.
    """
    lines = []
    for change in changes:
        course_id, run = change.course_id, change.run
        if run.status in UNFINISHED:
            if mark_queued(session, course_id, run.run_id):
                lines.append(f"course {course_id}: pending, queued in run {run.run_id}")
            continue
        ending, reason = endings[run.run_id], change.reason
        attempted = reason.content if reason else contents.get(course_id)
        retry = ending.retry if change.is_running else change.not_reached
        if run.status is dg.DagsterRunStatus.CANCELED:
            retry = False
        elif change.not_reached:  # its content did not cause the failure, so it is not recorded as attempted
            attempted = None
        if fail_unfinished(
            session,
            course_id,
            run.run_id,
            ending.reason,
            requested_at=reason.requested_at if reason else None,
            attempted=attempted,
            retry_at=datetime.now(UTC) if retry else None,
        ):
            lines.append(f"course {course_id}: failed, {ending.reason}")
        elif detach_finished_run(session, course_id, run.run_id):
            lines.append(f"course {course_id}: pending, requested after run {run.run_id} was launched")
        elif reason and attempted:
            record_failed_attempt(session, course_id, run.run_id, attempted, reason.generation)
    return lines


def _ending(instance: dg.DagsterInstance, run: RunState) -> Ending:
    if run.status is None and run.run_id.startswith(REBUILD_OWNER_PREFIX):
        return Ending("the rebuild was interrupted", retry=True)
    if run.status is None:
        return Ending("the run was deleted")
    if run.status is dg.DagsterRunStatus.CANCELED:
        return Ending("cancelled")
    entries = instance.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE})
    events = [entry.dagster_event for entry in entries if entry.dagster_event]
    for event in events:
        if event.is_step_failure:
            # The worker could not write the row, because the catalogue was unavailable. If the worker had died,
            # Dagster would retry the run, and there would be no step failure.
            data = event.step_failure_data
            declared = data.user_failure_data and data.user_failure_data.description
            error = data.error and (data.error.cause or data.error)
            return Ending(declared or (error.message.strip() if error else "a step failed"), retry=True)
    messages = [event.message for event in events if event.message]
    return Ending(messages[-1] if messages else f"run {run.run_id} ended without giving a reason")

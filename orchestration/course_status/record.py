"""Writes on the course rows what `decide` found.

Every write is conditional, so a row that changed since is left alone.
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
    """Whether another run may succeed."""


def endings_of(instance: dg.DagsterInstance, changes: Iterable[Change]) -> dict[str, Ending]:
    """Why each finished run among the changes ended, by run id."""
    finished = {change.run.run_id: change.run for change in changes if change.run.status not in UNFINISHED}
    return {run_id: _ending(instance, run) for run_id, run in finished.items()}


def write_changes(
    session: Session, changes: Iterable[Change], endings: Mapping[str, Ending], contents: Mapping[str, str]
) -> list[str]:
    """Write the changes.

    Args:
        session: An open transaction.
        changes: From `find_changes`.
        endings: From `endings_of`.
        contents: The fingerprints that runs without a launch reason would have published, by course id, where known.

    Returns:
        A line for each row that was changed.
    """
    lines = []
    for change in changes:
        course_id, run = change.course_id, change.run
        if run.status in UNFINISHED:
            if mark_queued(session, course_id, run.run_id):
                lines.append(f"course {course_id}: pending, waits for run {run.run_id}")
            continue
        ending, reason = endings[run.run_id], change.reason
        attempted = reason.content if reason else contents.get(course_id)
        retry = ending.retry if change.is_running else change.not_reached
        if run.status is dg.DagsterRunStatus.CANCELED:
            retry = False
        elif change.not_reached:  # its content did not cause the failure, so it is not recorded as tried
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
            # The worker was alive but could not write the row: the catalogue was unavailable. (Dagster itself retries a
            # run whose worker died.)
            data = event.step_failure_data
            declared = data.user_failure_data and data.user_failure_data.description
            error = data.error and (data.error.cause or data.error)
            return Ending(declared or (error.message.strip() if error else "a step failed"), retry=True)
    messages = [event.message for event in events if event.message]
    return Ending(messages[-1] if messages else f"run {run.run_id} ended without giving a reason")

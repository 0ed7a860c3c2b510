"""Why a run ended, in words that an operator can act on."""

from dataclasses import dataclass

import dagster as dg

from models.course_state import FORGETTING, Retry

CANCELLED = "The run was cancelled. Request an embedding to try again."
INTERRUPTED = "The run was interrupted, because the pipeline was stopped. Another run continues."
WITHOUT_RUN = "The course was marked as running, but no run has claimed it. Another run embeds it."
_FORGETTING = "`course-search forget` has not finished. A run completes it; then run the command again."
_DELETED = "The run was deleted from Dagster before it had finished. Another run follows."
_MARKED_FAILED = "The run was marked as failed in the Dagster UI or by another program, before it had finished."
_DAGSTERS_DEFAULT = "marked as failed from outside the execution context"
_CRASH = "Run execution process"
"""In the message of Dagster's code server when a worker has died."""
_EXPLAINING = {
    dg.DagsterEventType.ENGINE_EVENT,
    dg.DagsterEventType.STEP_FAILURE,
    dg.DagsterEventType.RUN_FAILURE,
}


@dataclass(frozen=True)
class Ending:
    """Why a run ended."""

    reason: str
    """The error shown on the course that the run was embedding."""
    retry: Retry


def ending_without_run(owner: str | None) -> Ending:
    """The reason for a course whose owner is not among the runs, or that has no owner."""
    if not owner:
        return Ending(WITHOUT_RUN, Retry.NOW)
    return Ending(_FORGETTING if owner.startswith(FORGETTING) else _DELETED, Retry.LATER)


def ending_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Ending:
    """The reason for a run that ended without recording one."""
    if run.status is dg.DagsterRunStatus.CANCELED:
        return Ending(CANCELLED, Retry.NEVER)
    entries = instance.all_logs(run.run_id, of_type=_EXPLAINING)
    events = [entry.dagster_event for entry in entries if entry.dagster_event]
    for event in events:
        if event.is_step_failure:  # the worker lived, but the catalogue was unavailable
            data = event.step_failure_data
            declared = data.user_failure_data and data.user_failure_data.description
            error = data.error and (data.error.cause or data.error)
            return Ending(declared or (error.message.strip() if error else "A step failed."), Retry.LATER)
    messages = [event.message or "" for event in events if event.is_failure or _CRASH in (event.message or "")]
    explained = [message for message in messages if message and _DAGSTERS_DEFAULT not in message]
    return Ending(explained[-1] if explained else _MARKED_FAILED, Retry.LATER)

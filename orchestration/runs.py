"""Which runs of the instance are ours, which are unfinished, and which courses a run embeds."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import dagster as dg

from orchestration.partitions import (
    COLLECTION,
    FILES_JOB,
    FILES_TAG,
    JOB,
    PARTITION_TAG,
    RANGE_END_TAG,
    RANGE_START_TAG,
    SNAPSHOT,
    partition_keys,
)
from orchestration.run_config import LaunchReason, reasons_of

ENDED_WITHOUT_SUCCESS = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
FINISHED = (dg.DagsterRunStatus.SUCCESS, *ENDED_WITHOUT_SUCCESS)
UNFINISHED = tuple(status for status in dg.DagsterRunStatus if status not in FINISHED)
SETTLING = timedelta(seconds=10)
"""A course is not launched again this soon after the end of its run, because `course_status_sensor` records the end.
Dagster's own daemon evaluates a sensor every 5 to 10 seconds."""


def is_ours(run: dg.DagsterRun) -> bool:
    """Whether the run embeds courses: it is of our job, or it materializes or checks one of our assets.

    Other programs share the instance, and their runs may have partitions with the same keys.
    """
    checked = {check.asset_key for check in run.asset_check_selection or ()}
    return run.job_name == JOB or not {COLLECTION, SNAPSHOT}.isdisjoint({*(run.asset_selection or ()), *checked})


def reads_files(run: dg.DagsterRun) -> bool:
    """Whether the run reads uploaded files: it is of our job, and not of stage one's with the same name."""
    return run.job_name == FILES_JOB and FILES_TAG in run.tags


def require_unfinished(instance: dg.DagsterInstance, run_id: str) -> None:
    """Check that Dagster has not ended the run of a worker: others may do its work by now.

    Raises:
        dagster.Failure: It has.
    """
    run = instance.get_run_by_id(run_id)
    if run is None or run.is_finished:
        raise dg.Failure("The run was ended in Dagster, so its worker stops.", allow_retries=False)


def is_being_cancelled(instance: dg.DagsterInstance, run_id: str) -> bool:
    """Whether an operator has cancelled the run, and not a shutdown interrupted it."""
    run = instance.get_run_by_id(run_id)
    return run is not None and run.status in (dg.DagsterRunStatus.CANCELING, dg.DagsterRunStatus.CANCELED)


@dataclass(frozen=True)
class LaunchedRun:
    """A run with its courses."""

    run: dg.DagsterRun
    course_ids: Sequence[str]
    reasons: Mapping[str, LaunchReason]
    """The launch reasons by course id. Empty if an operator launched the run."""


def unfinished_runs(instance: dg.DagsterInstance) -> list[dg.DagsterRun]:
    """Our queued and executing runs."""
    return [run for run in instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED))) if is_ours(run)]


def courses_of(runs: Iterable[dg.DagsterRun], instance: dg.DagsterInstance) -> Iterator[LaunchedRun]:
    """Each run with its courses.

    The ids come from the run's configuration (runs of `stage_one_sensor`), its partition, or its range of partitions in
    the order in which they were added (runs of a backfill). The partition keys of the instance are read only if a run
    has a range. If an end of the range was deleted, Dagster cannot execute the run, so it has no courses.
    """
    keys: Sequence[str] | None = None
    for run in runs:
        first, last = run.tags.get(RANGE_START_TAG), run.tags.get(RANGE_END_TAG)
        reasons = reasons_of(run)
        course_ids: Sequence[str] = list(reasons)
        if reasons:
            pass
        elif key := run.tags.get(PARTITION_TAG):
            course_ids = [key]
        elif first is not None and last is not None:
            keys = partition_keys(instance) if keys is None else keys
            if first in keys and last in keys:
                course_ids = keys[keys.index(first) : keys.index(last) + 1]
        yield LaunchedRun(run, course_ids, reasons)


def courses_with_run(instance: dg.DagsterInstance) -> set[str]:
    """The ids of the courses of all unfinished runs, and of the runs that ended without success just now."""
    ended = dg.RunsFilter(statuses=list(ENDED_WITHOUT_SUCCESS), updated_after=datetime.now(UTC) - SETTLING)
    runs = [*unfinished_runs(instance), *filter(is_ours, instance.get_runs(ended))]
    return {course_id for run in courses_of(runs, instance) for course_id in run.course_ids}

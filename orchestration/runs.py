"""Which runs are unfinished, and which courses a run embeds."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from uuid import UUID

import dagster as dg

from orchestration.launching.launch_reasons import reasons_of
from orchestration.partitions import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG, partition_keys


def _is_finished(status: dg.DagsterRunStatus) -> bool:
    """Whether a run of this status has ended. Dagster offers this only as a property of a run object."""
    if status is dg.DagsterRunStatus.QUEUED:
        return False  # a queued run cannot be constructed without its code location
    return dg.DagsterRun("any", str(UUID(int=0)), status=status).is_finished


UNFINISHED = tuple(status for status in dg.DagsterRunStatus if not _is_finished(status))
QUEUED = (dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.STARTING)
"""States of a run that does not execute yet."""


def unfinished_runs(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """All queued and executing runs."""
    return instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)))


def courses_of(
    runs: Iterable[dg.DagsterRun], instance: dg.DagsterInstance
) -> Iterator[tuple[dg.DagsterRun, Sequence[str]]]:
    """Each run with the ids of its courses.

    The ids come from the run's tags: launch reasons (runs of `stage_one_sensor`), one partition, or a range of
    partitions in the order in which they were added (runs of a backfill). The partition keys of the instance are read
    only if a run has a range.
    """
    keys: Sequence[str] | None = None
    for run in runs:
        first, last = run.tags.get(RANGE_START_TAG), run.tags.get(RANGE_END_TAG)
        if reasons := reasons_of(run.tags):
            yield run, list(reasons)
        elif key := run.tags.get(PARTITION_TAG):
            yield run, [key]
        elif first is not None and last is not None:
            keys = partition_keys(instance) if keys is None else keys
            is_known = first in keys and last in keys
            yield run, keys[keys.index(first) : keys.index(last) + 1] if is_known else []
        else:
            yield run, []


def courses_with_run(instance: dg.DagsterInstance) -> set[str]:
    """The ids of the courses of all unfinished runs."""
    return _course_ids(unfinished_runs(instance), instance)


def courses_cancelled_since(instance: dg.DagsterInstance, since: datetime) -> set[str]:
    """The ids of the courses whose run was cancelled after `since`."""
    cancelled = dg.RunsFilter(statuses=[dg.DagsterRunStatus.CANCELED], updated_after=since)
    return _course_ids(instance.get_runs(cancelled), instance)


def _course_ids(runs: Iterable[dg.DagsterRun], instance: dg.DagsterInstance) -> set[str]:
    return {course_id for _, course_ids in courses_of(runs, instance) for course_id in course_ids}

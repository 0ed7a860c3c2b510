"""Decides which uploaded files are read next, and which runs have left one behind; does no I/O.

A run writes on the file's row that it reads the file, and what came of it. It cannot write that it was killed or
cancelled, so rows are compared with runs, as `course_status_sensor` does for courses.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from models.resources import next_attempt
from models.tables import ResourceStatus, UploadedResource

FILES_PER_RUN = 20
"""Starting a run takes seconds, and reading most files takes less."""
MAX_RUNS = 2
"""Runs that read files at the same time. The others of the queue's slots are for embedding."""


@dataclass(frozen=True)
class FilesRun:
    """A run of our job that has not ended, or has ended without success."""

    run_id: str
    resource_ids: Collection[str]
    """The files that it was launched for. Empty if an operator launched it for all that wait."""
    created_at: datetime
    is_finished: bool = False
    is_cancelled: bool = False
    has_reached_a_file: bool = True
    """Whether it has begun to read any of its files."""


@dataclass(frozen=True)
class Decision:
    """What to do in a tick."""

    left: list[tuple[UploadedResource, FilesRun | None]] = field(default_factory=list)
    """The files that a run has left behind, with the run; None if it was deleted."""
    launch: list[list[UploadedResource]] = field(default_factory=list)
    """The files of each run to be launched."""
    waiting: int = 0
    """Number of files that a run reads or will read, or whose next attempt is later."""


def decide(active: Iterable[UploadedResource], runs: Mapping[str, FilesRun], now: datetime) -> Decision:
    """Compare the files with the runs.

    Args:
        active: All files that are pending or running.
        runs: By id: the unfinished runs, those that ended without success lately, and those that have claimed one of
            the files, if they exist. Of a run that succeeded, only the last matters.
        now: The current time.
    """
    decision, due, waiting = Decision(), list[UploadedResource](), 0
    for file in active:
        is_running = file.status == ResourceStatus.RUNNING
        run = runs.get(file.run_id or "") if is_running else _launched_for(file, runs.values())
        if run is not None and not run.is_finished:
            waiting += 1
        elif is_running or (run is not None and (run.is_cancelled or not run.has_reached_a_file)):
            decision.left.append((file, run))
        elif next_attempt(file) <= now:
            due.append(file)
        else:
            waiting += 1
    due.sort(key=lambda file: (file.updated_at, file.course_id, file.position))
    free = MAX_RUNS - sum(not run.is_finished for run in runs.values())
    groups = [due[start : start + FILES_PER_RUN] for start in range(0, len(due), FILES_PER_RUN)]
    return Decision(decision.left, groups[: max(0, free)], waiting)


def _launched_for(file: UploadedResource, runs: Iterable[FilesRun]) -> FilesRun | None:
    """The latest run that was launched for the file as it is now; an unfinished one if there is any."""
    launched: Sequence[FilesRun] = [
        run for run in runs if file.resource_id in run.resource_ids and run.created_at >= file.updated_at
    ]
    return max(launched, key=lambda run: (not run.is_finished, run.created_at), default=None)

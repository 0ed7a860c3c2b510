"""Ends runs whose worker process died without reporting it.

Dagster's code server reports that a worker has died, unless the code server died at the same time (a crash of the
machine or container). Then the run stays `STARTED` forever and keeps its slot in the pool and its courses. So every
worker locks a separate file. The kernel releases the lock when the process ends for any reason. A run whose file is not
locked has no worker. A suspended worker keeps its lock and counts as alive.

A run without a worker tag may still be starting. It is ended only after `START_TIMEOUT`, measured from the start or
creation time that Dagster recorded, with the clock of this machine.
"""

import fcntl
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import dagster as dg

from orchestration.partitions import COLLECTION, JOB

WORKER_TAG = "course_search/worker"
DIRECTORY_ID = ".home"
"""File that contains the id of the lock directory. Worker tags contain the id too, to identify the machine."""
START_TIMEOUT = timedelta(minutes=1)
"""Maximum time from the start or creation of a run to its first step, `register_worker`."""


def register_worker(instance: dg.DagsterInstance, run_id: str) -> None:
    """Lock the file of this run until the process ends, and tag the run with the path of the file."""
    directory = _directory(instance)
    fcntl.flock(os.open(directory / run_id, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
    instance.add_run_tags(run_id, {WORKER_TAG: f"{_directory_id(directory)}/{run_id}"})


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End every run of this product that Dagster considers active although its worker is dead.

    Runs whose lock is in another directory, on another machine, are skipped. The sensor of that machine checks them.

    Returns:
        One line per run that was ended.
    """
    directory = _directory(instance)
    lines = []
    # A run that is QUEUED has no worker yet, and Dagster's run monitoring ends a run that stays STARTING.
    with_worker = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for record in instance.get_run_records(dg.RunsFilter(statuses=with_worker)):
        run = record.dagster_run
        if not _is_of_this_product(run) or not (reason := _reason_to_end(record, directory)):
            continue
        current = instance.get_run_by_id(run.run_id)
        if current is None or current.status != run.status:  # the run has ended in the meantime
            continue
        if run.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(run, reason)
        else:
            instance.report_run_failed(run, reason)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        lines.append(f"run {run.run_id}: {reason}")
    _delete_unused_files(instance, directory)
    return lines


def _is_of_this_product(run: dg.DagsterRun) -> bool:
    return run.job_name == JOB or COLLECTION in (run.asset_selection or ())


def _reason_to_end(record: dg.RunRecord, directory: Path) -> str | None:
    run = record.dagster_run
    directory_id, _, run_id = run.tags.get(WORKER_TAG, "").partition("/")
    if run_id != run.run_id:  # no tag, or the tag of the retried run: Dagster copies tags to a retry
        since = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else record.create_timestamp
        is_overdue = datetime.now(UTC) - since.astimezone(UTC) > START_TIMEOUT
        return (
            "The worker of this run did not start in time. The process that should have started it has probably died."
            if is_overdue
            else None
        )
    if directory_id == _directory_id(directory) and not _is_locked(directory / run_id):
        return "The worker process of this run has died."
    return None


def _delete_unused_files(instance: dg.DagsterInstance, directory: Path) -> None:
    for path in directory.glob("[!.]*"):
        run = instance.get_run_by_id(path.name)
        if (run is None or run.is_finished) and not _is_locked(path):
            path.unlink()


def _directory(instance: dg.DagsterInstance) -> Path:
    directory = Path(instance.root_directory) / "workers"
    directory.mkdir(exist_ok=True)
    return directory


def _directory_id(directory: Path) -> str:
    """The id of the directory. The first call creates it atomically."""
    path = directory / DIRECTORY_ID
    if not path.exists():
        temporary = directory / f".{uuid4()}"
        temporary.write_text(uuid4().hex)
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
        temporary.unlink()
    return path.read_text()


def _is_locked(path: Path) -> bool:
    """Whether a process holds the lock of the file. False if the file does not exist."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

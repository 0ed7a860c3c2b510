"""Ends runs whose worker process died without reporting it.

The code server that started a worker notices when the worker dies, unless the code server died too (the machine, the
container, `kill -9` of everything). Then the run stays `STARTED` for ever and keeps its slot in the pool and its
courses. So every worker holds a lock on a file of its own; the kernel releases it when the process ends, however it
ends. A run whose file is not locked has no worker. A suspended worker keeps its lock and counts as alive.

A run without a lock file may still be starting: it is ended only after `START_TIMEOUT`, measured from Dagster's start
or creation time of the run with this machine's clock.
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
"""File with the id of the lock directory, so that a lock is never looked for on another machine."""
START_TIMEOUT = timedelta(minutes=1)
"""How long a run may take from its start, or its creation, to `register_worker`, which is the first thing it does."""


def register_worker(instance: dg.DagsterInstance, run_id: str) -> None:
    """Lock this run's file until the process ends, and tag the run with the file's place."""
    directory = _directory(instance)
    fcntl.flock(os.open(directory / run_id, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
    instance.add_run_tags(run_id, {WORKER_TAG: f"{_directory_id(directory)}/{run_id}"})


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End every run of this product that counts as executing although its worker is dead.

    A worker whose lock is in another directory, on another machine, is checked by the sensor there.

    Returns:
        A line for each run that was ended.
    """
    directory = _directory(instance)
    lines = []
    unfinished = [dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for record in instance.get_run_records(dg.RunsFilter(statuses=unfinished)):
        run = record.dagster_run
        if not _is_of_this_product(run) or not (reason := _reason_to_end(record, directory)):
            continue
        now = instance.get_run_by_id(run.run_id)
        if now is None or now.status != run.status:  # it has ended by itself since
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
    if run_id != run.run_id:  # no tag, or that of the run it retries, whose tags Dagster copies
        since = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else record.create_timestamp
        is_too_late = datetime.now(UTC) - since.astimezone(UTC) > START_TIMEOUT
        return "The run never began to work: the process that was to start it is gone." if is_too_late else None
    if directory_id == _directory_id(directory) and not _is_locked(directory / run_id):
        return "The process that worked on this run is gone."
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
    """The id of the directory; the first caller creates it, atomically."""
    path = directory / DIRECTORY_ID
    if not path.exists():
        own = directory / f".{uuid4()}"
        own.write_text(uuid4().hex)
        with suppress(FileExistsError):
            path.hardlink_to(own)
        own.unlink()
    return path.read_text()


def _is_locked(path: Path) -> bool:
    """Whether a process holds the file's lock; False if there is no file."""
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

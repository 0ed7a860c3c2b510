"""Runs whose worker is gone: nobody is left to say that they are over.

A worker that is killed is noticed by the code server that started it, unless that died too (the machine, the container,
`kill -9` of everything): then the run stays `STARTED` for ever, holds its place in the pool and its courses. So every
worker locks a file of its own for as long as it lives; the kernel drops the lock, however it dies. A run whose file is
free is over. No clock and no process number is compared, and a worker that is merely frozen counts as alive.
"""

import fcntl
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg

from orchestration.partitions import COLLECTION, JOB

WORKER_TAG = "course_search/worker"
SILENCE = timedelta(minutes=1)
"""How long a run may take from its creation or start to `begin_work`, its first deed."""

Status = dg.DagsterRunStatus


def begin_work(instance: dg.DagsterInstance, run_id: str) -> None:
    """Lock this run's file until the process ends, and note on the run where the file is."""
    path = _directory(instance) / run_id
    path.parent.mkdir(exist_ok=True)
    fcntl.flock(os.open(path, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
    instance.add_run_tags(run_id, {WORKER_TAG: f"{socket.gethostname()}:{path}"})


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End every run of ours that claims to be at work although its worker is gone.

    Workers on other hosts are left to whoever looks after them there.

    Returns:
        A line for each.
    """
    lines = []
    unfinished = dg.RunsFilter(statuses=[Status.NOT_STARTED, Status.STARTED, Status.CANCELING])
    for record in instance.get_run_records(unfinished):
        run = record.dagster_run
        if not _is_ours(run) or not (complaint := _complaint(record)):
            continue
        now = instance.get_run_by_id(run.run_id)
        if now is None or now.status != run.status:  # it has had its say meanwhile
            continue
        if run.status is Status.CANCELING:
            instance.report_run_canceled(run, complaint)
        else:
            instance.report_run_failed(run, complaint)
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        lines.append(f"run {run.run_id}: {complaint}")
    _forget_finished_workers(instance)
    return lines


def _is_ours(run: dg.DagsterRun) -> bool:
    return run.job_name == JOB or COLLECTION in (run.asset_selection or ())


def _complaint(record: dg.RunRecord) -> str | None:
    worker = record.dagster_run.tags.get(WORKER_TAG)
    if worker is None or Path(worker).name != record.dagster_run.run_id:  # a retry inherits the tags of what it retries
        since = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else record.create_timestamp
        is_silent = datetime.now(UTC) - since.astimezone(UTC) > SILENCE
        return "The run never began its work: what launched it is gone." if is_silent else None
    host, path = worker.split(":", 1)
    if host == socket.gethostname() and _is_free(Path(path)):
        return "The process that worked on this run is gone."
    return None


def _forget_finished_workers(instance: dg.DagsterInstance) -> None:
    for path in _directory(instance).glob("*"):
        run = instance.get_run_by_id(path.name)
        if (run is None or run.is_finished) and _is_free(path):
            path.unlink()


def _directory(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "workers"


def _is_free(path: Path) -> bool:
    """Whether nobody holds the file's lock, or the file is not there."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True

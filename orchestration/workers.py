"""Runs whose worker is gone: nobody is left to say that they are over.

A worker that is killed is noticed by the code server that started it, unless that died too (the machine, the container,
`kill -9` of everything): then the run stays `STARTED` for ever, holds its place in the pool and its courses. So every
worker locks a file of its own for as long as it lives; the kernel drops the lock, however it dies. A run whose file is
free is over. No clock and no process number is compared, and a worker that is merely frozen counts as alive.
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
HOME = ".home"
"""Names the directory of the locks, so that nobody looks for a lock in another machine's."""
SILENCE = timedelta(minutes=1)
"""How long a run may take from its creation or start to `begin_work`, its first deed."""

Status = dg.DagsterRunStatus


def begin_work(instance: dg.DagsterInstance, run_id: str) -> None:
    """Lock this run's file until the process ends, and note on the run where the file is."""
    directory = _directory(instance)
    fcntl.flock(os.open(directory / run_id, os.O_RDWR | os.O_CREAT), fcntl.LOCK_EX | fcntl.LOCK_NB)
    instance.add_run_tags(run_id, {WORKER_TAG: f"{_home(directory)}/{run_id}"})


def end_abandoned_runs(instance: dg.DagsterInstance) -> list[str]:
    """End every run of ours that claims to be at work although its worker is gone.

    Workers whose locks are elsewhere are left to whoever looks after them there.

    Returns:
        A line for each.
    """
    directory = _directory(instance)
    lines = []
    unfinished = dg.RunsFilter(statuses=[Status.NOT_STARTED, Status.STARTED, Status.CANCELING])
    for record in instance.get_run_records(unfinished):
        run = record.dagster_run
        if not _is_ours(run) or not (complaint := _complaint(record, directory)):
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
    _forget_finished_workers(instance, directory)
    return lines


def _is_ours(run: dg.DagsterRun) -> bool:
    return run.job_name == JOB or COLLECTION in (run.asset_selection or ())


def _complaint(record: dg.RunRecord, directory: Path) -> str | None:
    run = record.dagster_run
    home, _, run_id = run.tags.get(WORKER_TAG, "").partition("/")
    if run_id != run.run_id:  # none, or the one of the run that Dagster tries again, whose tags it copies
        since = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else record.create_timestamp
        is_silent = datetime.now(UTC) - since.astimezone(UTC) > SILENCE
        return "The run never began its work: what launched it is gone." if is_silent else None
    if home == _home(directory) and _is_free(directory / run_id):
        return "The process that worked on this run is gone."
    return None


def _forget_finished_workers(instance: dg.DagsterInstance, directory: Path) -> None:
    for path in directory.glob("[!.]*"):
        run = instance.get_run_by_id(path.name)
        if (run is None or run.is_finished) and _is_free(path):
            path.unlink()


def _directory(instance: dg.DagsterInstance) -> Path:
    directory = Path(instance.root_directory) / "workers"
    directory.mkdir(exist_ok=True)
    return directory


def _home(directory: Path) -> str:
    """The id of the directory, given by whoever comes first."""
    path = directory / HOME
    if not path.exists():
        own = directory / f".{uuid4()}"
        own.write_text(uuid4().hex)
        with suppress(FileExistsError):
            path.hardlink_to(own)
        own.unlink()
    return path.read_text()


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

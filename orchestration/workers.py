"""The worker process of a run: whether it lives, and when it last finished a batch.

A worker locks a file until it ends; the kernel releases the lock when the process ends for any reason. It touches the
file after every batch. The file contains its process id, which is valid while the file is locked. It shows at once what
became of a worker, but only on its machine; other machines see its heartbeat (`orchestration.heartbeats`).
"""

import fcntl
import logging
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import dagster as dg

from orchestration.heartbeats import Heartbeat, heartbeat_of

WORKER_TAG = ".dagster/course_search_worker"
"""The Dagster UI hides tags with this prefix."""
DIRECTORY_ID = ".home"
"""File that contains the id of the directory. Worker tags contain the id too, to identify the machine."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Worker:
    """The file of a run's worker, and, in the worker itself, its heartbeat."""

    path: Path
    heartbeat: Heartbeat | None = None

    def beat(self) -> None:
        """Record that a batch is finished."""
        if self.heartbeat:
            self.heartbeat.batches += 1
        with suppress(FileNotFoundError):  # deleted by a cleaner; the worker counts as dead
            os.utime(self.path)

    def last_beat(self) -> int | None:
        """When it last finished a batch, in nanoseconds of the file's clock; None if the process is dead."""
        return self.path.stat().st_mtime_ns if self.process_id() else None

    def process_id(self) -> int | None:
        """The id of the process, or None if it is dead."""
        try:
            descriptor = os.open(self.path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two processes may ask at the same time
        except BlockingIOError:
            return int(os.read(descriptor, 20) or 0) or None
        finally:
            os.close(descriptor)
        return None


def register_worker(instance: dg.DagsterInstance, run_id: str) -> Worker:
    """Say that this process executes the run, until it ends: by a locked file, a tag of the run, and a heartbeat.

    Without a directory that can be written, as in some containers, there is no file. Then the heartbeat, or the
    launcher that started the container, shows whether the worker lives.
    """
    heartbeat = heartbeat_of(run_id)
    directory = _directory(instance)
    try:
        directory.mkdir(exist_ok=True)
        _delete_unused_files(instance, directory)
        descriptor = os.open(directory / run_id, os.O_RDWR | os.O_CREAT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # waits only while another process asks
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        tag = f"{_directory_id(directory)}/{run_id}"
    except OSError as error:
        logger.warning("The worker of run %s has no lock file: %s", run_id, error)
        return Worker(directory / run_id, heartbeat)
    instance.add_run_tags(run_id, {WORKER_TAG: tag})
    return Worker(directory / run_id, heartbeat)


def has_worker(run: dg.DagsterRun) -> bool:
    """Whether a worker has registered for this run. A run that was copied from another one also has the other's tag."""
    return run.tags.get(WORKER_TAG, "").endswith(f"/{run.run_id}")


def worker_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Worker | None:
    """The worker of the run; None if none has registered, or if it is on another machine."""
    directory = _directory(instance)
    if not has_worker(run) or not (directory / DIRECTORY_ID).exists():
        return None
    if not run.tags[WORKER_TAG].startswith(_directory_id(directory)):
        return None
    return Worker(directory / run.run_id)


def _delete_unused_files(instance: dg.DagsterInstance, directory: Path) -> None:
    for path in directory.glob("[!.]*"):
        run = instance.get_run_by_id(path.name)
        if (run is None or run.is_finished) and not Worker(path).process_id():
            path.unlink(missing_ok=True)


def _directory(instance: dg.DagsterInstance) -> Path:
    return Path(instance.root_directory) / "workers"


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

"""A lock on a directory, held as long as one of the processes that share its file descriptor lives.

`flock` locks the open file. A child process inherits the open file and with it the lock. The kernel releases the lock
when the last of these processes ends, even if it is killed. So a lock file left on disk blocks nothing.
"""

import fcntl
import os
from pathlib import Path

from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_fixed

_retrying = Retrying(  # `lock_holder` in another process holds the lock for a moment
    retry=retry_if_exception_type(BlockingIOError), stop=stop_after_attempt(5), wait=wait_fixed(0.05), reraise=True
)


class DirectoryInUseError(Exception):
    """Another process holds the lock on the directory."""


def lock_directory(directory: Path, name: str) -> int:
    """Lock a directory for this process and for every child that inherits the file descriptor.

    Args:
        directory: Created if it does not exist.
        name: Name of the lock file in the directory. Different uses of a directory have different lock files.

    Returns:
        The inheritable file descriptor that holds the lock.

    Raises:
        DirectoryInUseError: Another process holds the lock; the message names its process id.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _retrying(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        holder = path.read_text().strip()
        raise DirectoryInUseError(f"{directory} is in use by process {holder or 'unknown'}") from error
    os.set_inheritable(descriptor, True)
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def lock_holder(directory: Path, name: str) -> str | None:
    """The id of the process that holds the lock, or None. Nothing is written."""
    path = directory / name
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None

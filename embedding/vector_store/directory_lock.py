"""A lock on a directory that lives exactly as long as the processes that hold it.

`flock` belongs to the open file: a child that inherits it keeps the lock, and the kernel drops it with the last of
them, however they die. So a stale lock file never stands in anybody's way.
"""

import fcntl
import os
from pathlib import Path


class DirectoryInUseError(Exception):
    """Another process works on the directory."""


def lock_directory(directory: Path, name: str) -> int:
    """Lock a directory for this process and every child that inherits the descriptor.

    Args:
        directory: Made when it is not there.
        name: Of the lock file in it; different uses of a directory have different locks.

    Returns:
        The file descriptor that holds the lock; inheritable.

    Raises:
        DirectoryInUseError: the lock is taken; the message names the process that took it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        holder = path.read_text().strip()
        raise DirectoryInUseError(f"{directory} is in use by process {holder or 'unknown'}") from error
    os.set_inheritable(descriptor, True)
    os.truncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def lock_holder(directory: Path, name: str) -> str | None:
    """The process that holds the lock, if one does. This only looks: nothing is written, and many may look at once."""
    path = directory / name
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None

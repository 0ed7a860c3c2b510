"""Runs the Chroma server as a child process, and starts it anew before its memory or its files run out.

Measured with Chroma 1.5.9: a collection that was read or written stays loaded until the server ends, also after it was
deleted: 3 to 4 MB and 4 open files for 150 vectors of 1024 dimensions. Chroma's own limit on loaded collections
(`segment_manager.hnsw_index_pool_cache_config`) cannot be used: a collection that it unloads before its index was
written to disk, which happens every 1,000 records, cannot be read again ("Nothing found on disk").

SIGTERM lets the server finish its requests: nothing was lost in 15 restarts under three writers. Runs wait for the
server meanwhile, and searches read snapshots.
"""

import ctypes
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType

import psutil

CHECK_SECONDS = 5.0
"""Interval of the checks of memory and open files."""
MIN_RUN_SECONDS = 60.0
"""A server is not restarted sooner, so that one collection above the limit does not keep it from working."""
STOP_SECONDS = 60.0
"""How long a server may take to finish its requests before it is killed."""
MAX_SHARE_OF_FILES = 0.8
"""Share of the limit of open files at which the server is restarted."""
MEGABYTE = 2**20
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class ServerUsage:
    """What a server uses of its machine, and the values at which it is restarted."""

    memory_mb: int
    """Resident memory, in MiB."""
    max_memory_mb: int
    open_files: int
    max_open_files: int

    @classmethod
    def of(cls, server: psutil.Process, max_memory_mb: int) -> "ServerUsage":
        """The usage of a running server.

        Raises:
            psutil.Error: It has ended, or belongs to another user.
        """
        limit = server.rlimit(psutil.RLIMIT_NOFILE)[0] if sys.platform == "linux" else 0
        return cls(
            memory_mb=server.memory_info().rss // MEGABYTE,
            max_memory_mb=max_memory_mb,
            open_files=server.num_fds(),
            max_open_files=int(limit * MAX_SHARE_OF_FILES) if limit > 0 else sys.maxsize,
        )

    @classmethod
    def of_child(cls, parent: int, max_memory_mb: int) -> "ServerUsage | None":
        """The usage of the server that the process `parent` runs; None if it is not to be seen from here."""
        try:
            [server] = psutil.Process(parent).children()
            return cls.of(server, max_memory_mb)
        except (ValueError, psutil.Error):
            return None

    @property
    def is_above_limits(self) -> bool:
        """Whether the server has to be restarted."""
        return self.memory_mb > self.max_memory_mb or self.open_files > self.max_open_files

    def __str__(self) -> str:
        files = "" if self.max_open_files == sys.maxsize else f" of {self.max_open_files:,}"
        return f"{self.memory_mb:,} of {self.max_memory_mb:,} MB and {self.open_files:,}{files} open files"


def run_server(
    command: Sequence[str],
    env: Mapping[str, str],
    lock: int,
    *,
    max_memory_mb: int,
    before_start: Callable[[], None],
    on_message: Callable[[str], None],
) -> int:
    """Run a server until it ends by itself, or SIGTERM, SIGINT or SIGHUP stops it.

    The server ends with this process, even if that is killed.

    Args:
        command: Its command line.
        env: Its environment.
        lock: File descriptor of the lock on its directory, which it inherits.
        max_memory_mb: Resident memory above which it is restarted, in MiB.
        before_start: Called before every start, while no server runs.
        on_message: Called with one line for every restart.

    Returns:
        Its exit code; negative if a signal ended it.
    """
    _raise_limit_of_open_files()
    stopping = threading.Event()
    server: subprocess.Popen[bytes] | None = None

    def stop(_number: int, _frame: FrameType | None) -> None:
        stopping.set()
        if server is not None:
            server.terminate()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, stop)
    while not stopping.is_set():
        before_start()
        server = subprocess.Popen(
            command,
            env=env,
            pass_fds=[lock],
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads here
        )
        if stopping.is_set():  # the signal came while the server was being created
            server.terminate()
        usage = _wait_until_above_limits(server, max_memory_mb)
        if usage is None or stopping.is_set():
            return server.wait()
        on_message(
            f"The Chroma server uses {usage}, and is restarted: it keeps every collection that was used since its "
            "start. Runs wait meanwhile, and published courses are searched."
        )
        _stop(server)
    return 0


def _wait_until_above_limits(server: "subprocess.Popen[bytes]", max_memory_mb: int) -> ServerUsage | None:
    """Wait until the server uses too much, or has ended: then None."""
    started = time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            server.wait(CHECK_SECONDS)
            return None
        with suppress(psutil.Error):
            usage = ServerUsage.of(psutil.Process(server.pid), max_memory_mb)
            if usage.is_above_limits and time.monotonic() - started > MIN_RUN_SECONDS:
                return usage


def _stop(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _raise_limit_of_open_files() -> None:
    """Raise the soft limit, which is often 1,024, to the hard limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # macOS has a lower limit than the one that it reports
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

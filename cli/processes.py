"""Starts several programs, starts those again that ended, and makes sure that all of them are stopped.

Each program runs in a separate session, so Ctrl-C in the terminal reaches only the supervisor, which then stops the
programs in reverse order. On Linux a program is also terminated when the supervisor is killed.
"""

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

STOP_SECONDS = 20.0
LEFTOVER_SECONDS = 5.0
"""Patience with the children of a program that was killed. A code server of Dagster would wait for its heartbeat."""
KILLED_SECONDS = 20.0
"""Longest wait for killed processes to disappear. In a container without an init process they may stay zombies."""
POLL_SECONDS = 0.2
LOG_TAIL_LINES = 15
MAX_PAUSE_SECONDS = 60.0
"""Longest pause before a program is started again. A program that ran longer than this counts as healthy again."""
_PR_SET_PDEATHSIG = 1


class ProcessFailedError(Exception):
    """A program ended unexpectedly, or was not ready in time."""


@dataclass
class Program:
    """A started program and the log file that receives its output."""

    name: str
    command: Sequence[str | Path]
    process: subprocess.Popen[bytes]
    log: Path
    env: Mapping[str, str] = field(repr=False)
    pause: float = 0.0
    """Seconds between the last end of the program and its next start; 0.0 if it has not ended yet."""
    started_at: float = field(default_factory=time.monotonic)
    start_at: float | None = None
    """Time of the next start, on the clock of `time.monotonic`; None while the program is not waiting for it."""

    def tail(self) -> str:
        """The last lines of the log, each prefixed with the name of the program."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(f"  {self.name}: {line}" for line in lines[-LOG_TAIL_LINES:])


class Supervisor:
    """Starts programs, and stops them at the end of its `with` block.

    Args:
        log_dir: Directory of the log files, one `<name>.log` per program. A start overwrites the previous log; a
            program that is started again appends to it.
        env: The programs' environment.
        keep_open: File descriptors that the programs inherit, so that a lock on one is held until all of them ended.
    """

    def __init__(self, log_dir: Path, env: Mapping[str, str], keep_open: Sequence[int] = ()) -> None:
        self._log_dir = log_dir
        self._env = dict(env)
        self._keep_open = tuple(keep_open)
        self._programs: list[Program] = []

    def __enter__(self) -> "Supervisor":
        self._log_dir.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str | Path], env: Mapping[str, str] | None = None) -> Program:
        """Start a program in the background; `env` is added to its environment."""
        log = self._log_dir / f"{name}.log"
        log.unlink(missing_ok=True)
        env = {**self._env, **(env or {})}
        program = Program(name, command, self._spawn(command, env, log), log, env)
        self._programs.append(program)
        return program

    def _spawn(self, command: Sequence[str | Path], env: Mapping[str, str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                command,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=self._keep_open,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509 - no threads here
            )

    def run(self, name: str, command: Sequence[str | Path]) -> str:
        """Run a program and wait until it ends.

        Returns:
            What it has written.

        Raises:
            ProcessFailedError: its exit code is not 0.
        """
        program = self.start(name, command)
        code = program.process.wait()
        self._programs.remove(program)
        if code:
            raise ProcessFailedError(f"{name} failed with exit code {code}:\n{program.tail()}")
        return program.log.read_text(errors="replace")

    def wait_ready(self, program: Program, url: str, seconds: float = 180.0) -> None:
        """Wait until `url` answers with status 200.

        Raises:
            ProcessFailedError: a program ended, or the time is up.
        """
        self.wait_until(
            lambda: _responds_ok(url), seconds, f"{program.name} is not ready after {seconds:.0f} s", program
        )

    def wait_until(
        self, condition: Callable[[], bool], seconds: float, error: str, program: Program | None = None
    ) -> None:
        """Wait until the condition holds, and check meanwhile that every program still runs.

        Args:
            condition: Called repeatedly until it returns true.
            seconds: Maximum wait.
            error: Message if the time is up.
            program: Program whose log the message ends with.

        Raises:
            ProcessFailedError: a program ended, or the time is up.
        """
        deadline = time.monotonic() + seconds
        while not condition():
            self.check_alive()
            if time.monotonic() > deadline:
                raise ProcessFailedError(f"{error}\n{program.tail() if program else ''}".rstrip())
            time.sleep(POLL_SECONDS)

    def check_alive(self) -> None:
        """Check that every program still runs.

        Raises:
            ProcessFailedError: a program ended; the message holds the last lines of its log.
        """
        for program in self._programs:
            code = program.process.poll()
            if code is not None:
                raise ProcessFailedError(
                    f"{program.name} ended with {_cause(code)}; its log is {program.log}\n{program.tail()}"
                )

    def restart_ended(self, on_message: Callable[[str], None]) -> None:
        """Start the programs again that have ended; call this regularly.

        The first start follows after one second. The pause doubles with every further end, up to `MAX_PAUSE_SECONDS`,
        until the program has run longer than that. What the ended program has left running is stopped before.

        Args:
            on_message: Called with one line for each program that has ended, or could not be started.
        """
        for program in self._programs:
            code = program.process.poll()
            if code is None:
                continue
            if program.start_at is None:
                self._schedule(program, f"ended with {_cause(code)}", on_message)
                _stop_process_tree(program.process, LEFTOVER_SECONDS)
            elif time.monotonic() >= program.start_at:
                program.start_at = None
                program.started_at = time.monotonic()
                try:
                    program.process = self._spawn(program.command, program.env, program.log)
                except OSError as error:
                    self._schedule(program, f"cannot be started ({error})", on_message)

    @staticmethod
    def _schedule(program: Program, problem: str, on_message: Callable[[str], None]) -> None:
        now = time.monotonic()
        was_healthy = now - program.started_at > MAX_PAUSE_SECONDS
        program.pause = min(2 * program.pause, MAX_PAUSE_SECONDS) if program.pause and not was_healthy else 1.0
        program.start_at = now + program.pause
        on_message(f"{program.name} {problem}; its log is {program.log}. It starts again in {program.pause:.0f} s.")

    def stop(self) -> None:
        """Stop the programs one by one in reverse order, so that dependants stop before their dependencies.

        Signals are ignored meanwhile: a second Ctrl-C would leave processes behind.
        """
        with _ignored(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            while self._programs:
                _stop_process_tree(self._programs.pop().process, STOP_SECONDS)


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that is free now; another process may take it before it is used."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


def _stop_process_tree(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Terminate a program and its descendants; kill those that still run after this time.

    The members of the process group belong to it too: the descendants of a program that has ended are found only there.
    """
    deadline = time.monotonic() + seconds
    descendants = _descendants(process.pid)
    family = {*descendants, *_group_members(process.pid)}
    _signal_group(process.pid, signal.SIGTERM)
    for descendant in descendants:
        with suppress(psutil.NoSuchProcess):
            descendant.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(seconds)
    _, survivors = psutil.wait_procs(family, timeout=max(0.1, deadline - time.monotonic()))
    for survivor in survivors:
        with suppress(psutil.NoSuchProcess):
            survivor.kill()
    _signal_group(process.pid, signal.SIGKILL)
    process.wait()
    psutil.wait_procs(survivors, timeout=KILLED_SECONDS)


def _responds_ok(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _group_members(group: int) -> list[psutil.Process]:
    """The members of a process group, without its leader."""
    members = []
    for process in psutil.process_iter():
        with suppress(ProcessLookupError):
            if process.pid != group and os.getpgid(process.pid) == group:
                members.append(process)
    return members


def _cause(code: int) -> str:
    """What ended a process, from the code of `Popen`: its exit code or a signal."""
    if -code in set(signal.Signals):
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


@contextmanager
def _ignored(*numbers: signal.Signals) -> Iterator[None]:
    previous = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

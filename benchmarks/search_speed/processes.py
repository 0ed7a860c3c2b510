"""The processes of the measured systems, from the side that gives the commands of `benchmarks.search_speed.worker`.

A system that fails costs only its own figures: every failure is a `SystemFailedError`, and none waits without a limit.
"""

import json
import os
import queue
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn, Self, cast

REASON_LENGTH = 300
"""Maximum number of characters of a reason: long enough for the message of an error, short enough for a table."""


class SystemFailedError(Exception):
    """A system did not start, ended, raised, or exceeded a time limit. The message is one line."""


class Deadline:
    """The end of the whole benchmark.

    Args:
        minutes: Minutes from now.
    """

    def __init__(self, minutes: float) -> None:
        self.reason = f"not measured: the time limit of {minutes:g} minutes is over"
        self._end = time.monotonic() + minutes * 60

    def seconds_left(self) -> float:
        """Seconds until the end; 0.0 afterwards."""
        return max(0.0, self._end - time.monotonic())

    def check(self) -> None:
        """Raise if the time is over.

        Raises:
            SystemFailedError: It is over.
        """
        if not self.seconds_left():
            raise SystemFailedError(self.reason)


class SystemProcess:
    """A process that runs the benchmark of one system.

    Args:
        name: Name of the system.
        command: Program and arguments.
        environment: Environment variables, in addition to those of this process.
        deadline: End of the whole benchmark; no reply is awaited longer.
    """

    def __init__(
        self, name: str, command: Sequence[str | Path], environment: Mapping[str, str], deadline: Deadline
    ) -> None:
        self.name = name
        self._command = command
        self._environment = os.environ | environment
        self._deadline = deadline
        self._failure: str | None = None
        self._replies: queue.SimpleQueue[tuple[float, str]] = queue.SimpleQueue()

    def __enter__(self) -> Self:
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")
        self._started = time.monotonic()
        self._process: subprocess.Popen[str] | None = None
        try:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                text=True,
            )
        except OSError as error:
            self._failure = f"did not start: {error.strerror or error}: {self._command[0]}"
        else:
            threading.Thread(target=self._read, args=(self._process,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            with suppress(OSError):  # a command that could not be sent
                cast(IO[str], self._process.stdin).close()
        self._log.close()

    def wait_ready(self, seconds: float) -> float:
        """Wait until the process is set up.

        Args:
            seconds: Maximum time since the start of the process.

        Returns:
            The seconds from its start until it was ready.

        Raises:
            SystemFailedError: It failed, or needs longer.
        """
        arrived, _ = self._next_reply(
            seconds - (time.monotonic() - self._started), f"set-up takes over {seconds:.0f} s"
        )
        return round(arrived - self._started, 2)

    def execute(self, command: str, limit_seconds: float, **arguments: Any) -> Any:
        """Send a command and return its reply.

        Args:
            command: Name of the command.
            limit_seconds: Maximum time.
            **arguments: Arguments of the command.

        Raises:
            SystemFailedError: The command failed, which does not prevent the next one; or the process ended, or did
                not reply in time and was killed, and all further commands fail with the same reason.
        """
        if self._failure is None and self._process is not None:
            with suppress(OSError):  # the process ended: the reply says why
                print(json.dumps({"command": command, **arguments}), file=self._process.stdin, flush=True)
        _, reply = self._next_reply(limit_seconds, f"{command} takes over {limit_seconds:.0f} s")
        if "error" in reply:
            raise SystemFailedError(one_line(reply["error"]))
        return reply["reply"]

    def _next_reply(self, seconds: float, timeout_reason: str) -> tuple[float, Any]:
        if self._failure is not None:
            raise SystemFailedError(self._failure)
        try:
            arrived, line = self._replies.get(timeout=max(0.0, min(seconds, self._deadline.seconds_left())))
        except queue.Empty:
            if not self._deadline.seconds_left():
                self._fail(self._deadline.reason)
            self._fail(timeout_reason, explain=True)
        if not line:
            code = cast("subprocess.Popen[str]", self._process).wait()
            self._fail(f"ended with exit code {code}", explain=True)
        try:
            return arrived, json.loads(line)
        except ValueError:
            self._fail(f"wrote an unexpected line: {line}")

    def _fail(self, reason: str, *, explain: bool = False) -> NoReturn:
        """Stop the process, because it cannot be used any more.

        Args:
            reason: The reason.
            explain: Whether to add the last line that the process wrote to its standard error.
        """
        process = cast("subprocess.Popen[str]", self._process)
        process.kill()
        process.wait()
        self._log.seek(0)
        lines = self._log.read().strip().splitlines()
        self._failure = one_line(f"{reason}: {lines[-1]}" if explain and lines else reason)
        raise SystemFailedError(self._failure)

    def _read(self, process: "subprocess.Popen[str]") -> None:
        """Put each line of the process, and an empty one at its end, into the queue."""
        with cast(IO[str], process.stdout) as replies:
            for line in replies:
                self._replies.put((time.monotonic(), line))
        self._replies.put((time.monotonic(), ""))


def one_line(reason: str) -> str:
    """The reason without line breaks, at most `REASON_LENGTH` characters."""
    return " ".join(reason.split())[:REASON_LENGTH]

"""Reads a file in a process of its own, which may take so much time and memory and no more.

Files come from people, and parsers of PDF and Office formats have errors: whatever happens in that process, the caller
gets a document or an `UnreadableFileError`. The process has no secrets in its environment, writes no files, and dies
with its caller.
"""

import json
import logging
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final, cast

from documents.document import Block, Document, Kind, Report, UnreadableFileError

BLOCK_CHARACTERS: Final = 50
"""Every block counts as so many characters more, so that millions of tiny ones do not fill the memory."""

_BYTES_PER_CHARACTER = 6
"""The longest form of a character in JSON."""
_HEARTBEAT_SECONDS = 1.0
_STDERR_BYTES = 8192
"""Of what the process writes to standard error, the end is logged."""
_READ_BYTES = 1 << 16
_AGAIN = "Open it in the program that made it, save it again, and add that file."
_SMALLER = "Divide it into smaller files"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What the reading of one file may take."""

    timeout_seconds: float = 300.0
    max_memory_mb: int = 2048
    """Address space of the process. macOS does not enforce it."""
    max_characters: int = 20_000_000


def read_document(
    path: Path, name: str, *, limits: Limits, on_progress: Report = lambda _: None, reader: str | None = None
) -> Document:
    """Read a file.

    Args:
        path: The file.
        name: What its owner calls it; the extension tells apart formats whose content does not.
        limits: What it may take.
        on_progress: Called with the share that is read, and every second while nothing happens; it may raise to stop.
        reader: The module that reads it; by default that of the detected format.

    Raises:
        UnreadableFileError: The file cannot be read within the limits.
        OSError: It is not there, or the storage fails; its content is not the cause.
    """
    with path.open("rb"):
        pass
    process = _start(path, name, limits, reader)
    output = _Output(process, limits, on_progress)
    try:
        document = _document(output.messages(), limits)
        if document:
            return document
        with suppress(subprocess.TimeoutExpired):  # it has closed its output, so it ends now or never
            process.wait(_HEARTBEAT_SECONDS)
        code = process.poll()
    finally:
        _kill(process)
    logger.warning("The process that reads a document ended with %s:\n%s", _cause(code), output.errors())
    raise UnreadableFileError(_why(code, limits))


def _start(path: Path, name: str, limits: Limits, reader: str | None) -> subprocess.Popen[bytes]:
    job = {
        "parent": os.getpid(),
        "path": str(path.absolute()),
        "name": name,
        "reader": reader,
        "seconds": limits.timeout_seconds,
        "memory": limits.max_memory_mb << 20,
    }
    root = Path(__file__).parents[1]
    return subprocess.Popen(
        # -P: not even a file in the working directory is imported by mistake
        [sys.executable, "-P", "-B", "-m", "documents.reading_process", json.dumps(job)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd="/",
        env={
            "PATH": os.defpath,
            "LANG": "C.UTF-8",
            "PYTHONPATH": str(root),
            "PYTHONUTF8": "1",
            "MALLOC_ARENA_MAX": "2",  # glibc reserves much address space for each further arena
        },
        start_new_session=True,
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS refuses it for a group of dead processes
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream:
            stream.close()


class _Output:
    """What the process writes, line by line, until the time is up."""

    def __init__(self, process: subprocess.Popen[bytes], limits: Limits, on_progress: Report) -> None:
        self._process = process
        self._limits = limits
        self._on_progress = on_progress
        self._errors = b""

    def errors(self) -> str:
        """The end of what the process has written to standard error."""
        return self._errors.decode(errors="replace").strip()

    def messages(self) -> Iterator[dict[str, Any]]:
        """The messages but for those that tell the progress.

        Raises:
            UnreadableFileError: The time is up, or there is too much output.
        """
        share = 0.0
        for line in self._lines():
            message = json.loads(line) if line else {"progress": share}
            if isinstance(progress := message.get("progress"), float):
                share = min(1.0, max(share, progress))
                self._on_progress(share)
            else:
                yield message

    def _lines(self) -> Iterator[bytes]:
        """Complete lines; an empty one if there was none for a second."""
        stdout, stderr = cast(IO[bytes], self._process.stdout), cast(IO[bytes], self._process.stderr)
        deadline = time.monotonic() + self._limits.timeout_seconds
        allowed = _BYTES_PER_CHARACTER * self._limits.max_characters + _READ_BYTES
        parts: list[bytes] = []
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            selector.register(stderr, selectors.EVENT_READ)
            while selector.get_map():
                left = deadline - time.monotonic()
                if left <= 0:
                    raise UnreadableFileError(_took_too_long(self._limits))
                ready = selector.select(min(left, _HEARTBEAT_SECONDS))
                if not ready:
                    yield b""
                for key, _ in ready:
                    data = os.read(key.fd, _READ_BYTES)
                    if not data:
                        selector.unregister(key.fileobj)
                    elif key.fileobj is stderr:
                        self._errors = (self._errors + data)[-_STDERR_BYTES:]
                    else:
                        allowed -= len(data)
                        if allowed < 0:
                            raise UnreadableFileError(_too_much_text(self._limits))
                        *complete, rest = data.split(b"\n")
                        for line in complete:
                            yield b"".join(parts) + line
                            parts = []
                        parts.append(rest)


def _document(messages: Iterator[dict[str, Any]], limits: Limits) -> Document | None:
    """The document; None if the process ended before it was complete."""
    document: Document | None = None
    characters = 0
    for message in messages:
        match message:
            case {"refused": str(reason)}:
                raise UnreadableFileError(reason)
            case {"failed": str(reason)}:
                raise UnreadableFileError(f"{reason} The file is probably damaged. {_AGAIN}")
            case {"memory": _}:
                raise UnreadableFileError(_too_much_memory(limits))
            case {"document": dict(fields)}:
                document = Document(**fields)
            case {"block": dict(fields)} if document:
                block = Block(Kind(fields.pop("kind")), **fields)
                characters += len(block.text) + BLOCK_CHARACTERS
                if characters > limits.max_characters:
                    raise UnreadableFileError(_too_much_text(limits))
                document.blocks.append(block)
            case {"complete": _}:
                return document
    return None


def _why(code: int | None, limits: Limits) -> str:
    if code == -signal.SIGXCPU:
        return _took_too_long(limits)
    if code == -signal.SIGKILL:
        return f"The reading of the file was stopped from outside, probably because memory ran out. {_SMALLER}."
    return (
        f"The program that reads files of this format ended with {_cause(code)}. The file is probably damaged, or "
        f"takes more than {limits.max_memory_mb} MB of memory. {_AGAIN}"
    )


def _took_too_long(limits: Limits) -> str:
    return (
        f"It took longer than {limits.timeout_seconds:g} seconds to read the file. {_SMALLER}, or raise "
        "DOCUMENT_TIMEOUT_SECONDS."
    )


def _too_much_memory(limits: Limits) -> str:
    return (
        f"It takes more than {limits.max_memory_mb} MB of memory to read the file. {_SMALLER}, or raise "
        "DOCUMENT_MAX_MEMORY_MB."
    )


def _too_much_text(limits: Limits) -> str:
    return (
        f"The file has more than {limits.max_characters:,} characters of text. {_SMALLER}, or raise "
        "DOCUMENT_MAX_CHARACTERS."
    )


def _cause(code: int | None) -> str:
    """What ended a process, from the code of `Popen`: its exit code or a signal."""
    if code is None:
        return "an output that it has closed"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"exit code {code}"

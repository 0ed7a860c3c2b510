"""The process that reads one file: `documents.reading` starts it, and reads what it writes to standard output.

It writes one JSON object per line: `progress` at intervals; then `document`, a `block` for each block and `complete`;
or why there is no document. It gives up what it does not need before it loads a parser.
"""

import ctypes
import importlib
import json
import math
import os
import resource
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from documents.document import Document, UnreadableFileError
from models.text import storable

_PR_SET_PDEATHSIG = 1
_OPEN_FILES = 64
_NICENESS = 10
_PROGRESS_STEP = 0.01


def main(job: dict[str, Any]) -> None:
    """Read the file of a job."""
    output = _own_output()
    _die_with(job["parent"])
    _limit_itself(job["seconds"], job["memory"])
    try:
        for message in _messages(job, _Progress(output)):
            _write(output, message)
    except MemoryError:
        _write(output, {"memory": True})


def _messages(job: dict[str, Any], report: "_Progress") -> Iterator[dict[str, Any]]:
    try:
        document = _read(Path(job["path"]), job["name"], job["reader"], report)
    except UnreadableFileError as error:
        yield {"refused": str(error)}
    except MemoryError:
        raise
    except RecursionError:
        yield {"failed": "Its content is nested too deeply."}
    except Exception as error:  # noqa: BLE001 - a parser raises anything
        traceback.print_exc()
        yield {"failed": f"It cannot be read ({type(error).__name__})."}
    else:
        yield {
            "document": {
                "source_type": document.source_type,
                "title": document.title and storable(document.title),
                "language": document.language and storable(document.language),
            }
        }
        for block in document.blocks:
            yield {"block": vars(block) | {"text": storable(block.text)}}
        yield {"complete": True}


def _read(path: Path, name: str, reader: str | None, report: "_Progress") -> Document:
    if reader is None:
        from documents.detection import FORMATS, detect

        _, reader = FORMATS[detect(path, name)]
    document: Document = importlib.import_module(reader).read(path, report)
    return document


class _Progress:
    """Writes the share that is read, a hundred times at most."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._written = 0.0

    def __call__(self, share: float) -> None:
        if share >= self._written + _PROGRESS_STEP:
            self._written = share
            _write(self._output, {"progress": float(share)})


def _own_output() -> TextIO:
    """Standard output. What a parser prints goes to standard error from now on."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def _write(output: TextIO, message: dict[str, Any]) -> None:
    output.write(json.dumps(message, ensure_ascii=False) + "\n")
    if "block" not in message:
        output.flush()


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        sys.exit(1)


def _limit_itself(seconds: float, memory: int) -> None:
    cpu_seconds = math.ceil(seconds)
    limits = {
        resource.RLIMIT_AS: (memory, memory),
        resource.RLIMIT_CPU: (cpu_seconds, cpu_seconds + 5),
        resource.RLIMIT_NOFILE: (_OPEN_FILES, _OPEN_FILES),
        resource.RLIMIT_FSIZE: (0, 0),
        resource.RLIMIT_CORE: (0, 0),
    }
    for kind, values in limits.items():
        with suppress(ValueError, OSError):  # macOS does not accept each of them; a stricter limit may be in force
            resource.setrlimit(kind, values)
    os.nice(_NICENESS)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

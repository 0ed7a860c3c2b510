"""A reader that does what the file says: the tests load it in the process that reads files."""

import ctypes
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from documents.document import Block, Document, Kind, Report, UnreadableFileError


def read(path: Path, report: Report) -> Document:  # noqa: PLR0912 - one branch per behaviour
    behaviour, _, argument = path.read_text().partition(" ")
    match behaviour:
        case "text":
            report(0.5)
            os.write(1, b"a parser prints this")
            return Document(
                "pdf",
                title="T\0itle",
                language="zh",
                blocks=[
                    Block(Kind.HEADING, "一", level=1, page=1),
                    Block(Kind.TEXT, "a\nb\ud800\0", page=1, page_end=2),
                    Block(Kind.TEXT, "said", start=1.5, end=2.0),
                ],
            )
        case "refuse":
            raise UnreadableFileError("It is encrypted. Remove the password.")
        case "bug":
            raise ValueError("secret text of the file")
        case "segfault":
            ctypes.string_at(0)
        case "exit":
            os._exit(3)
        case "sleep":
            subprocess.Popen(["/bin/sleep", "60"])
            report(0.25)
            time.sleep(60)
        case "spin":
            while True:
                pass
        case "memory":
            bytearray(1 << 40)
        case "recursion":
            return read(path, report)
        case "output":
            return Document("text", blocks=[Block(Kind.TEXT, "x" * int(argument))])
        case "blocks":
            return Document("text", blocks=[Block(Kind.TEXT, "x")] * int(argument))
        case "noise":
            sys.stderr.write("noise\n" * 100_000)
            os._exit(1)
        case "surroundings":
            limits = (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE, resource.RLIMIT_NOFILE)
            texts = [*os.environ, str(Path.cwd()), str([resource.getrlimit(limit)[0] for limit in limits])]
            texts += ["a session of its own" if os.getsid(0) == os.getpid() else "the session of the caller"]
            texts += [name for name in ("torch", "fastapi", "dagster", "sqlalchemy", "pydantic") if name in sys.modules]
            return Document("text", blocks=[Block(Kind.TEXT, text) for text in texts])
        case "write":
            (path.parent / "written").write_text("x")
    raise AssertionError(behaviour)

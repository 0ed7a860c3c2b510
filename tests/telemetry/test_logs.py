"""Log lines: for people or as JSON, and in neither format can a value forge a line."""

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.processes import free_port
from telemetry import logs

FORGED = "2026-01-01 00:00:00,000 ERROR search_api [-]: forged"


@contextmanager
def new_process() -> Iterator[logging.Logger]:
    """The root logger without handlers, as in a new process."""
    root, product = logging.getLogger(), logging.getLogger("search_api")
    before = root.handlers, root.level, product.level
    root.handlers = []
    try:
        yield root
    finally:
        root.handlers = before[0]
        root.setLevel(before[1])
        product.setLevel(before[2])


@contextmanager
def logging_to(output: io.StringIO, log_format: logs.Format, level: logs.Level = "info") -> Iterator[None]:
    """Configure the log of a new process, which writes to `output`."""
    with new_process() as root:
        logs.configure_logs(log_format, level, ["search_api"])
        [handler] = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(output)
        yield


def log_with_line_breaks() -> None:
    logger = logging.getLogger("search_api")
    logger.info("course %s: ready", f"c\n{FORGED}")
    logger.info("red \x1b[31m, reversed \u202e, next line \x85\u2028\r%s", "过孔")
    try:
        raise ValueError(f"no\n{FORGED}\x1b[2J")
    except ValueError:
        logger.exception("failed", stack_info=True)


def test_values_cannot_forge_lines_for_people() -> None:
    output = io.StringIO()
    with logging_to(output, "console"):
        log_with_line_breaks()
    lines = output.getvalue().split("\n")
    assert not any(line.startswith(FORGED) for line in lines)
    assert lines[0].endswith(f" INFO search_api [-]: course c\\n{FORGED}: ready")
    assert lines[1].endswith("red \\x1b[31m, reversed \\u202e, next line \\x85\\u2028\\r过孔")
    assert lines[2].endswith("ERROR search_api [-]: failed")
    assert all(line.startswith("    ") for line in lines[3:-1]), "the traceback is indented"
    assert f"    {FORGED}\\x1b[2J" in lines
    assert output.getvalue().isprintable() or set(output.getvalue()) & set("\x1b\x85\u202e") == set()


def test_each_line_of_json_is_an_object() -> None:
    output = io.StringIO()
    odd: dict[str, Any] = {
        "number": float("nan"),
        "path": Path("x"),
        "half": "\ud800",
        "time": "yesterday",
        "nested": {("a", 1): set()},
    }
    with logging_to(output, "json"):
        log_with_line_breaks()
        logging.getLogger("search_api").warning("half \ud800 %d", 3, extra=odd)
    lines = output.getvalue().splitlines()
    first, _, failed, warned = map(json.loads, lines)
    assert first["message"] == f"course c\n{FORGED}: ready"
    assert (first["level"], first["logger"]) == ("info", "search_api")
    assert first["time"].endswith("+00:00")
    assert not {"request_id", "trace_id", "exception"} & first.keys()
    assert f"ValueError: no\n{FORGED}" in failed["exception"]
    assert "test_logs.py" in failed["stack"]
    assert (warned["message"], warned["path"], warned["number"]) == ("half \ud800 3", "x", "nan")
    assert warned["time"] != "yesterday"


def test_ids_are_in_the_lines_of_a_request() -> None:
    output = io.StringIO()

    def answer() -> None:
        logs.request_id_of_context.set("abc")
        logs.trace_ids_of_request.set(("t" * 32, "s" * 16))
        logging.getLogger("search_api").info("x")

    with logging_to(output, "json"):
        copy_context().run(answer)
    line = json.loads(output.getvalue())
    assert (line["request_id"], line["trace_id"], line["span_id"]) == ("abc", "t" * 32, "s" * 16)


def test_level_is_that_of_the_product_and_libraries_only_warn() -> None:
    output = io.StringIO()
    with logging_to(output, "console", "debug"):
        for name in ("search_api.x", "library"):
            logging.getLogger(name).debug("debug of %s", name)
            logging.getLogger(name).warning("warning of %s", name)
    assert [line.partition("]: ")[2] for line in output.getvalue().splitlines()] == [
        "debug of search_api.x",
        "warning of search_api.x",
        "warning of library",
    ]


def test_a_logger_with_handlers_of_its_own_is_logged_once() -> None:
    with new_process() as root:
        logs.configure_logs("console", "info", handled_elsewhere="dagster")
        [handler] = root.handlers
    records = [logging.makeLogRecord({"name": name}) for name in ("dagster", "dagster.x", "dagster_x", "embedding")]
    assert [bool(handler.filter(record)) for record in records] == [False, False, True, True]


def test_configuration_of_an_operator_is_kept() -> None:
    own = logging.NullHandler()
    with new_process() as root:
        root.addHandler(own)
        logs.configure_logs("json", "debug", ["search_api"])
        assert root.handlers == [own]
        assert logging.getLogger("search_api").level != logging.DEBUG
    before = logging.getLogRecordFactory()
    try:
        logs.add_ids()
        logs.add_ids()  # as by a second app in the process
        record = logging.getLogger("x").makeRecord("x", logging.INFO, "x.py", 1, "message", (), None)
    finally:
        logging.setLogRecordFactory(before)
    assert (record.__dict__["request_id"], record.__dict__["trace_id"]) == ("-", ""), "for formats of the operator"


@pytest.mark.integration
def test_all_lines_of_a_server_are_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process: uvicorn's own lines, its access log, and those of the app."""
    monkeypatch.setenv("LOG_FORMAT", "json")
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/none.db")
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "no model"))
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "--factory", "search_api.app:create_app", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        assert server.stdout
        lines = []
        for line in server.stdout:
            lines.append(json.loads(line))
            if "Uvicorn running" in line:
                httpx.get(f"http://127.0.0.1:{port}/courses?q=secret", headers={"X-Request-Id": "mine"}, timeout=120)
                server.terminate()
    messages = [line["message"] for line in lines]
    assert "Application startup complete." in messages
    assert "Finished server process" in messages[-1]
    assert {"embedding", "search_api"} & {line["logger"].partition(".")[0] for line in lines}
    [access] = [line for line in lines if line["logger"] == "uvicorn.access"]
    assert (access["method"], access["path"], access["status"], access["request_id"]) == (
        "GET",
        "/courses",
        503,
        "mine",
    )
    assert "secret" not in repr(lines)

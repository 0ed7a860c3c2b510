"""The log of a program on standard error: lines for people, or one JSON object a line for programs.

Log lines contain what others wrote: ids of courses, names of files, messages of servers. Neither format lets them add a
line or send a command to a terminal.
"""

import json
import logging
import re
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Literal

from telemetry.traces import trace_ids

Format = Literal["console", "json"]
Level = Literal["debug", "info", "warning", "error"]
LEVELS: Mapping[Level, int] = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

NO_REQUEST = "-"
"""The id in log lines that belong to no request."""
CONSOLE_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s]: %(message)s"

request_id_of_context: ContextVar[str] = ContextVar("request_id", default=NO_REQUEST)
"""The id of the request that is being answered."""
trace_ids_of_request: ContextVar[tuple[str, str]] = ContextVar("trace_ids", default=("", ""))
"""Trace id and span id of that request, for lines that are logged after the end of its span."""

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""Control characters, line breaks, and characters that reverse the direction of a text."""
_CONTROLS_BUT_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
_INDENTATION = "    "
_KNOWN = {
    *logging.LogRecord("", 0, "", 0, "", (), None).__dict__,
    "message",
    "asctime",
    "request_id",
    "trace_id",
    "span_id",
    "color_message",  # uvicorn's own message with colours
}
"""Attributes of a record that are not `extra`."""


def configure_logs(
    log_format: Format, log_level: Level, packages: Iterable[str] = (), *, handled_elsewhere: str | None = None
) -> None:
    """Log these packages at a level, and at most the warnings of all others, unless logging is already configured.

    Args:
        log_format: The format of the lines.
        log_level: The lowest level.
        packages: Packages of the product.
        handled_elsewhere: A logger that has handlers of its own, whose lines would appear twice.
    """
    root = logging.getLogger()
    if root.handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(CONSOLE_FORMAT))
    if handled_elsewhere is not None:
        prefix = f"{handled_elsewhere}."
        handler.addFilter(lambda record: not f"{record.name}.".startswith(prefix))
    handler.addFilter(_set_ids)
    format_lines(handler, log_format)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, LEVELS[log_level]))
    for package in packages:
        logging.getLogger(package).setLevel(LEVELS[log_level])


def format_lines(handler: logging.Handler, log_format: Format) -> None:
    """Make a handler write JSON, or lines in its own format that cannot be forged."""
    if log_format == "json":
        handler.setFormatter(JsonFormatter())
    elif not any(isinstance(existing, _OneLine) for existing in handler.filters):
        handler.addFilter(_OneLine())


def add_ids() -> None:
    """Give each record the attributes `request_id`, `trace_id` and `span_id`, for formats that others configured."""
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "adds_ids", False):
        return

    def make_record_with_ids(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        _set_ids(record)
        return record

    make_record_with_ids.adds_ids = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_record_with_ids)


def _set_ids(record: logging.LogRecord) -> bool:
    record.request_id = request_id_of_context.get()
    current = trace_ids()
    record.trace_id, record.span_id = current if current[0] else trace_ids_of_request.get()
    return True


class JsonFormatter(logging.Formatter):
    """One JSON object a line, in ASCII: `time` (UTC), `level`, `logger`, `message`, and what else is known.

    Values of `extra` that JSON does not have become texts. They never replace a standard field.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := getattr(record, "request_id", NO_REQUEST)) != NO_REQUEST:
            fields["request_id"] = request_id
        fields |= {name: ids for name in ("trace_id", "span_id") if (ids := getattr(record, name, ""))}
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            fields["stack"] = self.formatStack(record.stack_info)
        for name, value in record.__dict__.items():
            if name not in _KNOWN:
                fields.setdefault(name, value)
        try:
            return json.dumps(fields, default=str, allow_nan=False)
        except (TypeError, ValueError):  # a key that is no text, a number that is not finite, or a loop
            return json.dumps({name: str(value) for name, value in fields.items()})


class _OneLine(logging.Filter):
    """Escapes control characters in messages, and indents tracebacks, so that no line looks like another one."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage().rstrip()
        if _CONTROLS.search(message):
            record.msg, record.args = _CONTROLS.sub(_escaped, message), None
        if record.exc_info and not record.exc_text:
            record.exc_text = _indented(logging.Formatter().formatException(record.exc_info))
        if record.stack_info:
            record.stack_info = _indented(record.stack_info)
        return True


def _indented(text: str) -> str:
    lines = _CONTROLS_BUT_LINES.sub(_escaped, text).split("\n")
    return "\n".join(_INDENTATION + line for line in lines)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()

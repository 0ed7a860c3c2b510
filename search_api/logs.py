"""What the log of an app shows: the id of the request in each line, and not what students ask."""

import logging

from uvicorn.logging import ColourizedFormatter

from models.log_settings import LogSettings
from telemetry import PACKAGES
from telemetry.logs import add_ids, configure_logs, format_lines

_ACCESS_LOG_ARGUMENTS = 5
"""Of a line of uvicorn's access log: client, method, path with query string, version, status."""


def configure_logging(*, log_queries: bool) -> None:
    """Log the product's packages and uvicorn as LOG_FORMAT says, unless logging is already configured.

    In any case each record has the ids of its request, for the format of an operator's own configuration.

    Args:
        log_queries: Whether the access log shows query strings, which contain what was asked on the search page.

    Raises:
        pydantic.ValidationError: A setting is invalid.
    """
    settings = LogSettings()
    add_ids()
    configure_logs(settings.log_format, settings.log_level, PACKAGES)
    access_log = logging.getLogger("uvicorn.access")
    for old in (_remove_query_string, _add_fields):
        access_log.removeFilter(old)
    if not log_queries:
        access_log.addFilter(_remove_query_string)
    if settings.log_format == "json":
        access_log.addFilter(_add_fields)
    for logger in (logging.getLogger("uvicorn"), access_log):
        for handler in logger.handlers:
            if isinstance(handler.formatter, ColourizedFormatter):  # uvicorn's own configuration
                _show_request_id(handler, handler.formatter)
                format_lines(handler, settings.log_format)


def _show_request_id(handler: logging.Handler, formatter: ColourizedFormatter) -> None:
    if "request_id" not in (formatter._fmt or ""):
        layout = (formatter._fmt or "").replace("%(levelprefix)s", "%(levelprefix)s [%(request_id)s]")
        handler.setFormatter(type(formatter)(layout, formatter.datefmt, use_colors=formatter.use_colors))


def _remove_query_string(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple) and len(record.args) == _ACCESS_LOG_ARGUMENTS:
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True


def _add_fields(record: logging.LogRecord) -> bool:
    """Make the parts of an access log line fields of a JSON line."""
    if isinstance(record.args, tuple) and len(record.args) == _ACCESS_LOG_ARGUMENTS:
        record.client, record.method, record.path, _, record.status = record.args
    return True

"""What the log of an app shows: the id of the request in each line, and not what students ask."""

import logging
from typing import Any

from uvicorn.logging import ColourizedFormatter

from search_api.http.request_id import request_id

PACKAGES = ("embedding", "retrieval", "search_api")
_FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s]: %(message)s"
_ACCESS_LOG_ARGUMENTS = 5
"""Of a line of uvicorn's access log: client, method, path with query string, version, status."""


def configure_logging(*, log_queries: bool) -> None:
    """Log the product's packages at INFO level, unless logging is already configured.

    In any case each record gets the attribute `request_id`, for the format of an operator's own configuration.

    Args:
        log_queries: Whether the access log shows query strings, which contain what was asked on the search page.
    """
    _add_request_ids()
    if not logging.getLogger().handlers:
        logging.basicConfig(format=_FORMAT)
        for package in PACKAGES:
            logging.getLogger(package).setLevel(logging.INFO)
    access_log = logging.getLogger("uvicorn.access")
    access_log.removeFilter(_remove_query_string)
    if not log_queries:
        access_log.addFilter(_remove_query_string)
    for logger in (logging.getLogger("uvicorn"), access_log):
        for handler in logger.handlers:
            _show_request_id(handler)


def _add_request_ids() -> None:
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "adds_request_id", False):
        return

    def make_record_with_id(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        record.request_id = request_id()
        return record

    make_record_with_id.adds_request_id = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_record_with_id)


def _show_request_id(handler: logging.Handler) -> None:
    """Add the id to the lines of a handler of uvicorn's own configuration."""
    formatter = handler.formatter
    if isinstance(formatter, ColourizedFormatter) and "request_id" not in (formatter._fmt or ""):
        layout = (formatter._fmt or "").replace("%(levelprefix)s", "%(levelprefix)s [%(request_id)s]")
        handler.setFormatter(type(formatter)(layout, formatter.datefmt, use_colors=formatter.use_colors))


def _remove_query_string(record: logging.LogRecord) -> bool:
    if isinstance(record.args, tuple) and len(record.args) == _ACCESS_LOG_ARGUMENTS:
        client, method, path, *rest = record.args
        record.args = (client, method, str(path).partition("?")[0], *rest)
    return True

"""What Dagster's history may show of an error. A library may quote the text that it cannot process."""

import traceback

_QUOTING_NOTHING = ("documents", "embedding", "models", "orchestration", "retrieval", "dagster")
"""Packages whose errors contain no text of a chunk: this product's, and Dagster, which never sees one."""


def reason_of(error: BaseException) -> str:
    """The message of an error of this product or of the system; of any other error, only its type."""
    name = type(error).__name__
    if type(error).__module__.partition(".")[0] in _QUOTING_NOTHING or isinstance(error, OSError):
        return str(error) or name
    return f"Unexpected {name}; the log of the run shows where."


def places_of(error: BaseException) -> str:
    """The stack traces of an error and its causes, with their types, and without their messages."""
    lines = []
    cause: BaseException | None = error
    while cause is not None:
        lines += [f"{type(cause).__name__}, raised by:\n", *traceback.format_tb(cause.__traceback__)]
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)
    return "".join(lines)

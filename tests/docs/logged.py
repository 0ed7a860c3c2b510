"""The messages that the code logs as warnings or errors, found in its syntax."""

import ast
import re
from collections.abc import Iterator
from typing import NamedTuple

from tests.docs.pages import ROOT

PACKAGES = (
    *("cli", "documents", "embedding", "maintenance", "models", "orchestration", "retrieval", "search_api"),
    "telemetry",
)
LEVELS = ("warning", "error", "exception", "critical")


class Logged(NamedTuple):
    """A call that logs."""

    module: str
    message: str
    """What is always the same in it, with `…` for what is not."""


def logged_messages() -> Iterator[Logged]:
    """All calls of loggers and of the logs of runs and sensors."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            tree = ast.parse(path.read_text("utf-8"))
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Attribute)
                    and node.func.attr in LEVELS
                    and re.search(r"(^|[._])log(ger)?$", ast.unparse(node.func.value), re.IGNORECASE)
                ):
                    for message in values_of(node.args[0], tree):
                        yield Logged(module, fixed_part(message))


def values_of(message: ast.expr, tree: ast.Module) -> list[ast.expr]:
    """The message, or, for a variable, the last text that is assigned to it in the module."""
    texts: list[ast.expr] = [
        node.value
        for node in ast.walk(tree)
        if isinstance(message, ast.Name)
        and isinstance(node, ast.Assign)
        and isinstance(node.value, ast.JoinedStr)
        and ast.unparse(node.targets[0]) == message.id
    ]
    return texts[-1:] or [message]


def fixed_part(message: ast.expr) -> str:
    """The message with `…` for everything that is filled in."""
    if isinstance(message, ast.Constant):
        text = re.sub(r"%[-.\d]*[a-zA-Z]", "…", str(message.value)).replace("%%", "%")
    elif isinstance(message, ast.JoinedStr):
        text = "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in message.values)
    else:
        text = "…"
    return re.sub(r"…(\s*…)+", "…", " ".join(text.split()))

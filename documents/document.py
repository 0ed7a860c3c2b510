"""The content of a file, in reading order, without its layout: what every reader of a format returns."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a block is."""

    HEADING = "heading"
    TEXT = "text"
    """A paragraph, an item of a list, or what somebody said."""
    CODE = "code"
    TABLE = "table"
    """One line per row; the first one names the columns."""


@dataclass(frozen=True)
class Block:
    """A piece of the document that stands for itself: a heading, a paragraph, a listing, a table."""

    kind: Kind
    text: str
    """Without white space around it. Lines are kept in code and tables; a paragraph is one line."""
    level: int = 0
    """Of a heading: 1 is the highest. Otherwise 0."""
    page: int | None = None
    """The page or slide on which the block begins, from 1 on."""
    page_end: int | None = None
    """The page on which it ends, if that is another one."""
    start: float | None = None
    """Seconds from the beginning of a recording."""
    end: float | None = None


@dataclass(frozen=True)
class Document:
    """The content of a file."""

    source_type: str
    """`pdf`, `slides`, `document`, `markdown`, `html`, `text`, `transcript` or `notebook`."""
    title: str | None = None
    """The title that the document gives itself; None if it has none."""
    language: str | None = None
    """The language that the document names, like `en` or `zh`; None if it names none."""
    blocks: list[Block] = field(default_factory=list)


Report = Callable[[float], None]
"""Called by a reader at intervals with the share that is read, 0.0 to 1.0."""


class UnreadableFileError(Exception):
    """The file cannot be turned into text. The message tells its owner why, and what to do; it names no path."""

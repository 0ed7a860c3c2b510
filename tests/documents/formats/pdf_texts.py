"""Texts for the tests of PDF: each sentence is found again by its number."""

from collections.abc import Sequence
from typing import Protocol

from documents.document import Document
from tests.support.pdf_files import Text


class Read(Protocol):
    """The fixture `read_pages`."""

    def __call__(self, pages: Sequence[Sequence[Text]], size: tuple[int, int] = ...) -> Document:
        """Read a PDF of these pages."""


_SUBJECTS = ["A gradient", "The network", "Each layer", "Every student", "This method", "The author", "One example"]
_REST = ["follows the slope of the error", "keeps what it has learned before", "needs more data than the last one"]


def prose(start: int, count: int) -> str:
    """Sentences number `start` and following."""
    return " ".join(
        f"{_SUBJECTS[number % 7]} number n{number} {_REST[number % 3]}, and step s{number * 7} shows it well."
        for number in range(start, start + count)
    )


def all_text(document: Document) -> str:
    """The texts of all blocks."""
    return "\n".join(block.text for block in document.blocks)

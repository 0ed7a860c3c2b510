"""Jupyter notebooks, version 3 and 4: texts as Markdown, code, and short results in words."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from documents.document import Block, Document, Kind, Report, UnreadableFileError
from documents.formats.content import cleaned, first_heading, language_code, paragraph, text_block, with_content
from documents.formats.encodings import read_text
from documents.formats.json_files import parse_json
from documents.formats.markdown import front_matter, read_blocks

LONGEST_OUTPUT: Final = 500
"""Characters of a result that is read. Longer ones are logs and data rather than an explanation."""

_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_OBJECT = re.compile(r"<[^<>]*(?: at 0x[0-9a-f]+|Figure|Axes|object)[^<>]*>")
_HIDDEN = frozenset(("remove-cell", "remove_cell", "hide-cell"))


def read(path: Path, report: Report) -> Document:
    """Read a notebook.

    Raises:
        UnreadableFileError: It is none, is damaged, or contains no text.
    """
    notebook = parse_json(read_text(path))
    if not is_notebook(notebook):
        raise UnreadableFileError(
            "The file is no Jupyter notebook: it has no cells. Save it in Jupyter, and upload it."
        )
    cells = _cells(notebook)
    properties: dict[str, str] = {}
    blocks: list[Block] = []
    for number, cell in enumerate(cells):
        report(number / len(cells))
        kind, source = cell.get("cell_type"), _text(cell.get("source", cell.get("input")))
        if not _HIDDEN.isdisjoint(map(str, _list(_dict(cell.get("metadata")).get("tags")))):
            continue
        if number == 0 and kind in ("raw", "markdown"):
            properties, source = front_matter(source)
        if kind == "markdown":
            blocks += read_blocks(source)
        elif kind == "heading":
            level: Any = cell.get("level")
            blocks += text_block(source, Kind.HEADING, level=level if level in (1, 2, 3, 4, 5, 6) else 1)
        elif kind == "code":
            blocks += text_block(source, Kind.CODE)
            blocks += _outputs(cell)
    title = properties.get("title") or paragraph(_text(_dict(notebook.get("metadata")).get("title")))
    language = language_code(properties.get("lang") or properties.get("language"))
    return with_content(Document("notebook", title or first_heading(blocks), language, blocks))


def is_notebook(content: Any) -> bool:
    """Whether parsed JSON is a notebook."""
    return (
        isinstance(content, dict) and "nbformat" in content and any(key in content for key in ("cells", "worksheets"))
    )


def _cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    sheets = [notebook, *map(_dict, _list(notebook.get("worksheets")))]
    return [cell for sheet in sheets for cell in _list(sheet.get("cells")) if isinstance(cell, dict)]


def _outputs(cell: dict[str, Any]) -> Iterator[Block]:
    for output in map(_dict, _list(cell.get("outputs"))):
        kind = output.get("output_type")
        text = ""
        if kind == "stream" and output.get("name", output.get("stream")) != "stderr":
            text = _text(output.get("text"))
        elif kind in ("execute_result", "pyout", "display_data"):
            text = _text(_dict(output.get("data")).get("text/plain", output.get("text")))
        text = text.strip()
        if text and len(text) <= LONGEST_OUTPUT and not _OBJECT.fullmatch(text):
            yield from text_block(text, Kind.CODE)


def _text(value: Any) -> str:
    """A text, which a notebook may hold as a list of lines, without the colours of a terminal."""
    if isinstance(value, list):
        value = "".join(line for line in value if isinstance(line, str))
    return cleaned(_ESCAPE.sub("", value)) if isinstance(value, str) else ""


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}

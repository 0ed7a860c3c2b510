"""Word: headings by their styles, in whatever language, with tables, lists, listings, notes, boxes and formulas."""

import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from documents.document import Block, Document, Kind, Report, UnreadableFileError
from documents.formats.content import first_heading, language_code, paragraph, table_block, text_block, with_content
from documents.formats.office import MONOSPACED, local_name, read_package, text_of, usable_title

if TYPE_CHECKING:
    from lxml.etree import _Element

_W = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_HEADING = re.compile(
    r"(?:heading|标题|標題|überschrift|titre|título|titolo|заголовок|見出し|제목)\s*([1-9])", re.IGNORECASE
)
_TITLE = frozenset(("title", "标题", "標題", "titel"))
_CODE = re.compile(r"\b(?:code|source|listing|preformatted|verbatim)\b|代码|程序", re.IGNORECASE)
_CONTENTS = re.compile(r"(?:toc|table of (?:contents|figures)|目录)\b\s*(?:\d|heading)?.*", re.IGNORECASE)
_CONTAINER = re.compile("sdt|sdtContent|customXml|smartTag|ins|moveTo|AlternateContent|Choice")
_REPORT_EVERY = 500


def read(path: Path, report: Report) -> Document:
    """Read a Word file.

    Raises:
        UnreadableFileError: It is damaged, protected, too large, or contains no text.
    """
    return with_content(read_package(path, "Word", lambda stream: _Reader(stream, report).document()))


@dataclass(frozen=True)
class _Style:
    level: int | None = None
    """Of a heading, from 1 on."""
    is_title: bool = False
    is_code: bool = False
    is_contents: bool = False
    is_item: bool = False


class _Reader:
    def __init__(self, stream: io.BytesIO, report: Report) -> None:
        from docx.package import Package
        from docx.parts.document import DocumentPart

        part = Package.open(stream).main_document_part
        if not isinstance(part, DocumentPart):
            raise UnreadableFileError("The file is no Word document. Open it in Word, and save it as .docx.")
        self._part = part
        self._report = report
        self._styles = _styles(part.styles.element)
        self._notes = dict(self._all_notes())
        self._title: str | None = None
        self._listing: list[str] = []

    def document(self) -> Document:
        """The document with all blocks."""
        body = self._part.element.body
        blocks = [] if body is None else [*self._blocks(body, is_body=True), *self._end_of_listing()]
        properties = self._part.core_properties
        title = self._title or first_heading(blocks) or usable_title(properties.title)
        return Document("document", title, language_code(properties.language), blocks)

    def _all_notes(self) -> Iterator[tuple[tuple[str, str], str]]:
        """The text of each footnote and endnote, by the kind of its reference and its id."""
        from docx.oxml.parser import parse_xml

        for relationship in self._part.rels.values():
            kind = relationship.reltype.rpartition("/")[2]
            if kind in ("footnotes", "endnotes") and not relationship.is_external:
                notes = parse_xml(relationship.target_part.blob)
                for note in notes:
                    if note.get(f"{_W}type") in (None, "normal"):
                        text = " ".join(text_of(element) for element in note.iter(f"{_W}p"))
                        yield (f"{kind[:-1]}Reference", note.get(f"{_W}id") or ""), text

    def _blocks(self, container: "_Element", *, is_body: bool = False) -> Iterator[Block]:
        for number, child in enumerate(container):
            if is_body and number % _REPORT_EVERY == 0:
                self._report(number / len(container))
            name = local_name(child)
            if name == "p":
                yield from self._paragraph(child)
            elif name == "tbl":
                yield from self._end_of_listing()
                yield from self._table(child)
            elif _CONTAINER.fullmatch(name) and not _is_contents(child):
                yield from self._blocks(child)

    def _paragraph(self, element: "_Element") -> Iterator[Block]:
        style = self._style(element)
        text = text_of(element)
        if style.is_code or (text.strip() and _is_monospaced(element)):
            self._listing.append(text)
        elif not style.is_contents:
            yield from self._end_of_listing()
            yield from self._text(text, style)
        for box in element.iter(f"{_W}txbxContent"):
            # The same box stands twice: for programs that know its kind, and for others.
            if not any(local_name(ancestor) == "Fallback" for ancestor in box.iterancestors()):
                yield from self._blocks(box)
                yield from self._end_of_listing()
        for reference in element.iter(f"{_W}footnoteReference", f"{_W}endnoteReference"):
            key = (local_name(reference), reference.get(f"{_W}id") or "")
            yield from text_block(self._notes.get(key, ""))

    def _text(self, text: str, style: _Style) -> list[Block]:
        if style.is_title and self._title is None:
            self._title = paragraph(text) or None
            return []
        if style.level or style.is_title:
            return text_block(text, Kind.HEADING, level=style.level or 1)
        if style.is_item and paragraph(text):
            return text_block(f"- {text}")
        return text_block(text)

    def _end_of_listing(self) -> list[Block]:
        lines, self._listing = self._listing, []
        return text_block("\n".join(lines), Kind.CODE)

    def _style(self, element: "_Element") -> _Style:
        properties = element.find(f"{_W}pPr")
        named = properties.find(f"{_W}pStyle") if properties is not None else None
        style = self._styles.get(named.get(f"{_W}val") or "" if named is not None else None, _Style())
        level, is_item = _level(properties), _is_item(properties)
        if level is None and is_item is None:
            return style
        return _Style(
            (level or None) if level is not None else style.level,
            style.is_title,
            style.is_code,
            style.is_contents,
            style.is_item if is_item is None else is_item,
        )

    def _table(self, table: "_Element") -> Iterator[Block]:
        rows = [list(_below(row, "tc")) for row in _below(table, "tr")]
        if all(len(row) <= 1 for row in rows):
            for row in rows:
                for cell in row:
                    yield from self._blocks(cell)
                    yield from self._end_of_listing()
            return
        yield from table_block([_cell(cell) for cell in row] for row in rows)


def _below(element: "_Element", name: str) -> Iterator["_Element"]:
    """The rows of a table or the cells of a row, which may be in containers."""
    for child in element:
        if local_name(child) == name:
            yield child
        elif _CONTAINER.fullmatch(local_name(child)):
            yield from _below(child, name)


def _cell(cell: "_Element") -> str:
    properties = cell.find(f"{_W}tcPr")
    merged = properties.find(f"{_W}vMerge") if properties is not None else None
    if merged is not None and merged.get(f"{_W}val") != "restart":
        return ""  # it belongs to the cell above
    return "\n".join(text_of(element) for element in cell.iter(f"{_W}p"))


def _is_contents(element: "_Element") -> bool:
    """Whether it is a table of contents that Word made."""
    gallery = next(element.iterfind(f"{_W}sdtPr/{_W}docPartObj/{_W}docPartGallery"), None)
    return gallery is not None and gallery.get(f"{_W}val") == "Table of Contents"


def _is_monospaced(element: "_Element") -> bool:
    """Whether all of its text is written in a font of typewriters."""
    fonts = []
    for run in element.iter(f"{_W}r"):
        if any(text.text and text.text.strip() for text in run.iter(f"{_W}t")):
            font = next(run.iterfind(f"{_W}rPr/{_W}rFonts"), None)
            fonts.append(font.get(f"{_W}ascii") or "" if font is not None else "")
    return bool(fonts) and all(map(MONOSPACED.search, fonts))


def _level(properties: "_Element | None") -> int | None:
    """The level of a heading by the outline; 0 if it says that it is none, None if it does not say."""
    outline = properties.find(f"{_W}outlineLvl") if properties is not None else None
    if outline is None:
        return None
    value = outline.get(f"{_W}val") or ""
    return int(value) + 1 if re.fullmatch("[0-8]", value) else 0


def _is_item(properties: "_Element | None") -> bool | None:
    number = properties.find(f"{_W}numPr") if properties is not None else None
    if number is None:
        return None
    identifier = number.find(f"{_W}numId")
    return identifier is None or identifier.get(f"{_W}val") != "0"


def _styles(styles: "_Element") -> dict[str | None, _Style]:
    """What each style of paragraphs means, by its id; that of paragraphs without a style by None."""
    elements = {
        element.get(f"{_W}styleId"): element
        for element in styles.iterchildren(f"{_W}style")
        if element.get(f"{_W}type") in (None, "paragraph")
    }
    result: dict[str | None, _Style] = {key: _meaning(_with_bases(key, elements)) for key in elements}
    for key, element in elements.items():
        if element.get(f"{_W}default") in ("1", "true"):
            result[None] = result[key]
    return result


def _with_bases(key: Any, elements: dict[Any, "_Element"]) -> Iterator["_Element"]:
    """The style and those on which it is based. A broken file may have a circle."""
    seen = set()
    while key in elements and key not in seen:
        seen.add(key)
        yield elements[key]
        base = elements[key].find(f"{_W}basedOn")
        key = base.get(f"{_W}val") if base is not None else None


def _meaning(styles: Iterable["_Element"]) -> _Style:
    level: int | None = None
    is_item: bool | None = None
    is_title = is_code = is_contents = False
    for number, style in enumerate(styles):
        named = style.find(f"{_W}name")
        name = (named.get(f"{_W}val") or "" if named is not None else "").strip()
        properties = style.find(f"{_W}pPr")
        if level is None:
            heading = _HEADING.fullmatch(name)
            level = int(heading[1]) if heading else _level(properties)
        is_item = _is_item(properties) if is_item is None else is_item
        is_title = is_title or (number == 0 and name.casefold() in _TITLE)
        is_code = is_code or bool(_CODE.search(name))
        is_contents = is_contents or bool(_CONTENTS.fullmatch(name))
    return _Style(level or None, is_title, is_code, is_contents, bool(is_item))

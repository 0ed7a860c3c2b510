"""PowerPoint: slide by slide, its title as a heading, then its shapes as they are read, then the notes."""

import io
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from documents.document import Block, Document, Kind, Report
from documents.formats.content import (
    alternative_text,
    first_heading,
    language_code,
    paragraph,
    table_block,
    text_block,
    with_content,
)
from documents.formats.office import MONOSPACED, local_name, read_package, text_of, usable_title
from models.text import is_blank

if TYPE_CHECKING:
    from lxml.etree import _Element
    from pptx.slide import Slide

_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
_P14 = "{http://schemas.microsoft.com/office/powerpoint/2010/main}"
_DIAGRAM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
_REFERENCE = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
_SECTION_LAYOUTS = frozenset(("title", "secHead"))
_DEFAULT_SECTIONS = frozenset(
    ("default section", "默认节", "預設章節", "standardabschnitt", "untitled section", "无标题节")
)
_ROWS = 20
"""A slide has so many rows: shapes that begin in the same one are read from left to right."""


def read(path: Path, report: Report) -> Document:
    """Read a PowerPoint file.

    Raises:
        UnreadableFileError: It is damaged, protected, too large, or contains no text.
    """
    return with_content(read_package(path, "PowerPoint", lambda stream: _read(stream, report)))


def _read(stream: io.BytesIO, report: Report) -> Document:
    from pptx import Presentation

    presentation = Presentation(stream)
    sections = _sections(presentation.element)
    slides = [*presentation.slides]
    has_sections = bool(sections) or any(_is_section(slide) for slide in slides)
    blocks: list[Block] = []
    before: tuple[str, int] | None = None
    height = presentation.slide_height or 6858000
    for number, slide in enumerate(slides, 1):
        report((number - 1) / len(slides))
        section = sections.get(slide.slide_id)
        if section:
            blocks += text_block(section, Kind.HEADING, level=1, page=number)
            before = None
        _without_alternatives(slide.element)
        title, content = _shapes(slide, number, height)
        # With sections, titles stand below them, but for those of the slides that begin one.
        level = 2 if has_sections and (sections or not _is_section(slide)) else 1
        if title and (title, level) != before and title != section:
            blocks += text_block(title, Kind.HEADING, level=level, page=number)
            before = (title, level)
        blocks += [*content, *_notes(slide, number)]
    properties = presentation.core_properties
    first = first_heading(blocks) if slides and _is_section(slides[0]) else None
    return Document("slides", usable_title(properties.title) or first, language_code(properties.language), blocks)


def _sections(presentation: "_Element") -> dict[int, str]:
    """The titles of the sections into which the slides are divided, by the id of their first slides."""
    found: dict[int, str] = {}
    for section in presentation.iter(f"{_P14}section"):
        name = paragraph(section.get("name") or "")
        first = next(section.iter(f"{_P14}sldId"), None)
        if first is not None and name and name.casefold() not in _DEFAULT_SECTIONS:
            found[int(first.get("id") or 0)] = name
    return found


def _is_section(slide: "Slide") -> bool:
    """Whether the slide is one that begins a presentation or a part of it."""
    layout = slide.slide_layout.element
    return layout.get("type") in _SECTION_LAYOUTS


def _without_alternatives(slide: "_Element") -> None:
    """Put the shapes of which there are several versions, such as those with formulas, where a library finds them."""
    for alternatives in list(slide.iter("{*}AlternateContent")):
        parent = alternatives.getparent()
        versions = {local_name(version): version for version in reversed(alternatives)}
        chosen = versions.get("Choice")
        if chosen is None or not any(local_name(element) == "t" for element in chosen.iter()):
            chosen = versions.get("Fallback", chosen)
        if parent is not None:
            for element in list(chosen) if chosen is not None else ():
                alternatives.addprevious(element)
            parent.remove(alternatives)


def _shapes(slide: "Slide", number: int, height: int) -> tuple[str, list[Block]]:
    """The title of a slide, and its other content."""
    titled = slide.shapes.title
    title = "" if titled is None else paragraph(_text(titled))
    shapes = [shape for shape in slide.shapes if titled is None or shape.shape_id != titled.shape_id]
    return title, [block for shape in _in_order(shapes, height) for block in _shape(shape, slide, number, height)]


def _in_order(shapes: list[Any], height: int) -> list[Any]:
    """The shapes row by row. What has no position of its own stays first, in the order of the file."""
    return sorted(shapes, key=lambda shape: (_ROWS * (shape.top or 0) // height, shape.left or 0))


def _shape(shape: Any, slide: "Slide", number: int, height: int) -> Iterator[Block]:
    if _is_furniture(shape):
        return
    name = local_name(shape.element)
    if name == "grpSp":
        for inner in _in_order(list(shape.shapes), height):
            yield from _shape(inner, slide, number, height)
    elif name == "graphicFrame":
        yield from _frame(shape, slide, number)
    elif name == "pic":
        yield from text_block(_description(shape), page=number)
    elif shape.has_text_frame:
        yield from _paragraphs(shape.element, number)


def _is_furniture(shape: Any) -> bool:
    """Whether it is a date, a footer or a number, which stand on every slide."""
    from pptx.enum.shapes import PP_PLACEHOLDER

    return shape.is_placeholder and shape.placeholder_format.type in (
        PP_PLACEHOLDER.DATE,
        PP_PLACEHOLDER.FOOTER,
        PP_PLACEHOLDER.HEADER,
        PP_PLACEHOLDER.SLIDE_NUMBER,
        PP_PLACEHOLDER.SLIDE_IMAGE,
    )


def _text(shape: Any) -> str:
    return "\n".join(text_of(element) for element in shape.element.iter(f"{_A}p"))


def _paragraphs(element: "_Element", number: int) -> Iterator[Block]:
    for is_code, group in groupby(element.iter(f"{_A}p"), key=_is_monospaced):
        texts = [text_of(lines) for lines in group]
        if is_code:
            yield from text_block("\n".join(texts), Kind.CODE, page=number)
        else:
            yield from (block for text in texts for block in text_block(text, page=number))


def _is_monospaced(lines: "_Element") -> bool:
    """Whether all of a paragraph is written in a font of typewriters."""
    runs = [run for run in lines.iter(f"{_A}r") if "".join(run.itertext()).strip()]
    fonts = [next(run.iterfind(f"{_A}rPr/{_A}latin"), None) for run in runs]
    return bool(fonts) and all(font is not None and MONOSPACED.search(font.get("typeface") or "") for font in fonts)


def _description(shape: Any) -> str:
    properties = next(shape.element.iter("{*}cNvPr"), None)
    return alternative_text(properties.get("descr")) if properties is not None else ""


def _frame(shape: Any, slide: "Slide", number: int) -> Iterator[Block]:
    """A table, a chart or a diagram (SmartArt)."""
    if shape.has_table:
        rows = [["" if cell.is_spanned else _cell(cell._tc) for cell in row.cells] for row in shape.table.rows]
        yield from table_block(rows, page=number)
    elif shape.has_chart and shape.chart.has_title:
        yield from text_block(shape.chart.chart_title.text_frame.text, page=number)
    for diagram in shape.element.iter(f"{_DIAGRAM}relIds"):
        relationship = slide.part.rels.get(diagram.get(f"{_REFERENCE}dm"))
        if relationship is not None:
            from pptx.oxml import parse_xml

            for point in parse_xml(relationship.target_part.blob).iter(f"{_DIAGRAM}pt"):
                yield from text_block("\n".join(text_of(lines) for lines in point.iter(f"{_A}p")), page=number)
    if not is_blank(description := _description(shape)):
        yield from text_block(description, page=number)


def _cell(cell: "_Element") -> str:
    return "\n".join(text_of(lines) for lines in cell.iter(f"{_A}p"))


def _notes(slide: "Slide", number: int) -> Iterator[Block]:
    if not slide.has_notes_slide:
        return
    for shape in slide.notes_slide.shapes:
        if not _is_furniture(shape) and shape.has_text_frame:
            yield from _paragraphs(shape.element, number)

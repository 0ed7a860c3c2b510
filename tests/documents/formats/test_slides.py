from pathlib import Path
from typing import Any

from lxml import etree
from pptx import Presentation
from pptx.util import Inches

from documents.document import Document
from documents.formats import slides
from tests.documents.formats.reading import ignore_progress, outline

TITLE, TITLE_AND_CONTENT, SECTION, TITLE_ONLY = 0, 1, 2, 5


def add(presentation: Any, layout: int, title: str, body: str | None = None) -> Any:
    slide = presentation.slides.add_slide(presentation.slide_layouts[layout])
    slide.shapes.title.text = title
    if body is not None:
        slide.placeholders[1].text = body
    return slide


def read(tmp_path: Path, presentation: Any) -> Document:
    presentation.save(str(tmp_path / "a.pptx"))
    return slides.read(tmp_path / "a.pptx", ignore_progress)


def text_box(shapes: Any, text: str, left: float, top: float) -> Any:
    box = shapes.add_textbox(Inches(left), Inches(top), Inches(2), Inches(0.5))
    box.text_frame.text = text
    return box


def test_slides_with_their_titles_numbers_and_notes(tmp_path: Path) -> None:
    presentation = Presentation()
    presentation.core_properties.title = "PowerPoint Presentation"
    add(presentation, TITLE, "Boards", "A lecture")
    first = add(presentation, TITLE_AND_CONTENT, "Layers", "Signal\nGround")
    first.notes_slide.notes_text_frame.text = "Say why.\nThen ask."
    add(presentation, TITLE_AND_CONTENT, "Layers", "Power")
    add(presentation, SECTION, "Vias")
    add(presentation, TITLE_AND_CONTENT, "Drill", "0.2 mm")
    document = read(tmp_path, presentation)
    assert [(line, block.page) for line, block in zip(outline(document), document.blocks, strict=True)] == [
        ("# Boards", 1),
        ("A lecture", 1),
        ("## Layers", 2),
        ("Signal", 2),
        ("Ground", 2),
        ("Say why.", 2),
        ("Then ask.", 2),
        ("Power", 3),
        ("# Vias", 4),
        ("## Drill", 5),
        ("0.2 mm", 5),
    ]
    assert (document.source_type, document.title) == ("slides", "Boards")


def test_shapes_in_the_order_in_which_they_are_read(tmp_path: Path) -> None:
    presentation = Presentation()
    slide = add(presentation, TITLE_ONLY, "Shapes")
    text_box(slide.shapes, "below", 1, 5)
    text_box(slide.shapes, "right", 5, 2.05)
    text_box(slide.shapes, "left", 1, 2.1)
    group = slide.shapes.add_group_shape()
    text_box(group.shapes, "in a group", 1, 3)
    text_box(group.shapes.add_group_shape().shapes, "in its group", 1, 3.5)
    table = slide.shapes.add_table(2, 2, Inches(1), Inches(4), Inches(4), Inches(1)).table
    for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = str(number)
    table.cell(1, 0).merge(table.cell(1, 1))
    code = text_box(slide.shapes, "def f():\v    return 1", 1, 6)
    for run in code.text_frame.paragraphs[0].runs:
        run.font.name = "Consolas"
    assert outline(read(tmp_path, presentation)) == [
        "# Shapes",
        "left",
        "right",
        "in a group",
        "in its group",
        "table: 0 | 1\n2 3 |",
        "below",
        "code: def f():\n    return 1",
    ]


def test_sections_of_powerpoint_are_headings(tmp_path: Path) -> None:
    presentation = Presentation()
    ids = [add(presentation, TITLE_ONLY, title).slide_id for title in ("One", "Two", "Three")]
    extension = f"""<p:extLst xmlns:p="http://schemas.openxmlformats.org/presentationml/2006/main"><p:ext uri="x">
      <p14:sectionLst xmlns:p14="http://schemas.microsoft.com/office/powerpoint/2010/main">
      <p14:section name="Default Section"><p14:sldIdLst><p14:sldId id="{ids[0]}"/></p14:sldIdLst></p14:section>
      <p14:section name="Vias"><p14:sldIdLst>
      <p14:sldId id="{ids[1]}"/><p14:sldId id="{ids[2]}"/></p14:sldIdLst></p14:section>
      </p14:sectionLst></p:ext></p:extLst>"""
    presentation.element.append(etree.fromstring(extension))
    assert outline(read(tmp_path, presentation)) == ["## One", "# Vias", "## Two", "## Three"]


def test_shapes_with_formulas(tmp_path: Path) -> None:
    """PowerPoint puts them, with a picture for old programs, where python-pptx does not look."""
    presentation = Presentation()
    slide = add(presentation, TITLE_ONLY, "Formula")
    box = text_box(slide.shapes, "Ohm: ", 1, 2)._element
    alternatives = etree.fromstring(
        '<mc:AlternateContent xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">'
        "<mc:Choice Requires='a14'/><mc:Fallback/></mc:AlternateContent>"
    )
    box.addprevious(alternatives)
    alternatives[0].append(box)
    paragraph = next(box.iter("{*}p"))
    paragraph.append(
        etree.fromstring(
            '<a14:m xmlns:a14="http://schemas.microsoft.com/office/drawing/2010/main"><m:oMath '
            'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"><m:r><m:t>U=RI</m:t></m:r></m:oMath></a14:m>'
        )
    )
    assert outline(read(tmp_path, presentation)) == ["# Formula", "Ohm: U=RI"]

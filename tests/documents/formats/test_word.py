from collections.abc import Callable
from pathlib import Path
from typing import Any

import docx
from docx.oxml import parse_xml
from docx.oxml.ns import nsdecls

from documents.document import Document
from documents.formats import word
from tests.documents.formats.packages import rewritten
from tests.documents.formats.reading import ignore_progress, outline


def read(tmp_path: Path, write: Callable[[Any], None]) -> Document:
    document = docx.Document()
    write(document)
    document.save(str(tmp_path / "a.docx"))
    return word.read(tmp_path / "a.docx", ignore_progress)


def test_the_order_of_headings_paragraphs_lists_tables_and_code(tmp_path: Path) -> None:
    def write(document: Any) -> None:
        document.core_properties.title = "Word Document"
        document.add_heading("Boards", 0)
        document.add_heading("Layers", 1)
        document.add_paragraph("A board\nhas layers.")
        table = document.add_table(3, 3)
        for number, cell in enumerate(cell for row in table.rows for cell in row.cells):
            cell.text = str(number)
        table.cell(1, 0).merge(table.cell(1, 1))
        table.cell(1, 2).merge(table.cell(2, 2))
        document.add_paragraph("first", style="List Number")
        document.add_paragraph("bullet", style="List Bullet")
        document.add_heading("Code", 3)
        for line in ("def f():", "    return 1"):
            document.add_paragraph().add_run(line).font.name = "Courier New"
        document.add_paragraph("")
        box = document.add_table(1, 1)
        box.cell(0, 0).text = "In a box."
        square = document.add_paragraph("10")
        square.add_run("3").font.superscript = True
        square.add_run(" Hz")

    document = read(tmp_path, write)
    assert outline(document) == [
        "# Layers",
        "A board has layers.",
        "table: 0 | 1 | 2\n3 4 | 5 8\n6 | 7 |",
        "- first",
        "- bullet",
        "### Code",
        "code: def f():\n    return 1",
        "In a box.",
        "10^3 Hz",
    ]
    assert (document.source_type, document.title) == ("document", "Boards")


def test_headings_of_localised_and_of_own_styles(tmp_path: Path) -> None:
    style = '<w:style w:type="paragraph" w:styleId="{}" {}><w:name w:val="{}"/>{}</w:style>'
    styles = {
        "标题 2": "",
        "Kapitel": '<w:basedOn w:val="Heading1"/>',
        "Mine": '<w:pPr><w:outlineLvl w:val="2"/></w:pPr>',
        "Loop": '<w:basedOn w:val="Loop"/>',
        "toc 1": "",
        "Source Code": "",
    }

    def write(document: Any) -> None:
        for name, content in styles.items():
            document.styles.element.append(parse_xml(style.format(name, nsdecls("w"), name, content)))
            document.add_paragraph(name, style=name)
        direct = document.add_paragraph("Direct")
        direct._p.get_or_add_pPr().append(parse_xml(f'<w:outlineLvl {nsdecls("w")} w:val="0"/>'))

    assert outline(read(tmp_path, write)) == [
        "## 标题 2",
        "# Kapitel",
        "### Mine",
        "Loop",
        "code: Source Code",
        "# Direct",
    ]


def test_what_paragraphs_hide(tmp_path: Path) -> None:
    """Changes, fields, formulas and boxes stand in elements that python-docx leaves out of its texts."""
    run = "<w:r><w:t>{}</w:t></w:r>"
    math = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
    box = f"<w:txbxContent><w:p>{run.format('In a box.')}</w:p></w:txbxContent>"
    power = "<m:sSup><m:e><m:r><m:t>x</m:t></m:r></m:e><m:sup><m:r><m:t>2</m:t></m:r></m:sup></m:sSup>"
    paragraph = f"""<w:p {nsdecls("w")} {math} xmlns:mc="http://schemas.openxmlformats.org/markup-compatibility/2006">
      {run.format("kept")}<w:ins>{run.format(" added")}</w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>
      <w:r><w:instrText>PAGE</w:instrText></w:r><w:hyperlink>{run.format(" link")}</w:hyperlink>
      <w:sdt><w:sdtContent>{run.format(" control ")}</w:sdtContent></w:sdt>
      <m:oMath><m:f><m:num><m:r><m:t>a+b</m:t></m:r></m:num><m:den><m:r><m:t>c</m:t></m:r></m:den></m:f>
      <m:r><m:t>=</m:t></m:r><m:rad><m:e>{power}</m:e></m:rad></m:oMath>
      <w:r><mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent></w:r></w:p>"""

    def write(document: Any) -> None:
        contents = parse_xml(
            f"""<w:sdt {nsdecls("w")}><w:sdtPr><w:docPartObj>
            <w:docPartGallery w:val="Table of Contents"/></w:docPartObj>
            </w:sdtPr><w:sdtContent><w:p>{run.format("Contents 1")}</w:p></w:sdtContent></w:sdt>"""
        )
        document.element.body.insert(0, contents)
        document.element.body.insert(1, parse_xml(paragraph))

    assert outline(read(tmp_path, write)) == ["kept added link control (a+b)/c=√(x^2)", "In a box."]


def test_templates_macros_and_strict_files_are_read(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("Title", 1)
    document.save(str(tmp_path / "a.docx"))
    macros = rewritten(
        tmp_path / "a.docx",
        {
            "[Content_Types].xml": lambda content: content.replace(
                b"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml",
                b"application/vnd.ms-word.document.macroEnabled.main+xml",
            )
        },
    )
    assert outline(word.read(macros, ignore_progress)) == ["# Title"]
    replaced = {
        name: lambda content: content.replace(
            b"http://schemas.openxmlformats.org/officeDocument/2006/relationships",
            b"http://purl.oclc.org/ooxml/officeDocument/relationships",
        ).replace(
            b"http://schemas.openxmlformats.org/wordprocessingml/2006/main",
            b"http://purl.oclc.org/ooxml/wordprocessingml/main",
        )
        for name in ("_rels/.rels", "word/_rels/document.xml.rels", "word/document.xml", "word/styles.xml")
    }
    assert outline(word.read(rewritten(tmp_path / "a.docx", replaced), ignore_progress)) == ["# Title"]

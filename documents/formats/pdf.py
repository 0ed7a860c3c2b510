"""PDF: text in reading order, headings, listings and tables.

PDFium gives the characters of a page with their places and fonts (40 to 60 pages a second and core; pdfminer.six takes
five times as long, and more than a hundred times as long for the character maps of some Chinese documents). The rest is
geometry: `pdf_page` makes segments of lines from characters, `pdf_furniture` leaves out running headers and footers,
`pdf_layout` orders columns by a recursive XY-cut, `pdf_headings` finds the headings, `pdf_blocks` makes paragraphs.

Left out: what repeats on every page, text at an angle to the rest of its page, tables of contents, and all but the last
of slides that show their points one after the other.
"""

import ctypes
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pypdfium2
import pypdfium2.raw as pdfium

from documents.document import Document, Report, UnreadableFileError
from documents.formats.pdf_blocks import Words, blocks
from documents.formats.pdf_furniture import remove_furniture, remove_partial_slides
from documents.formats.pdf_headings import OutlineEntry, find_headings, without_contents
from documents.formats.pdf_layout import Region, regions
from documents.formats.pdf_page import Glyphs, Page, clean, read_page

MAX_PAGES = 5000
_MAX_BOOKMARKS = 20_000
_TAIL = 64 * 1024
"""Bytes at the end of a file that are searched for its end mark: some programs append to a PDF."""
_NO_TITLE = re.compile(
    r"untitled.*|.*\.(?:docx?|pptx?|xlsx?|tex|dvi|indd|qxd|pdf|md|html?|odt|rtf|txt|ps)|microsoft (?:word|powerpoint).*"
    r"|powerpoint pres.*|presentation\d*|document\d*|title|slide \d+|无标题.*|未命名.*|幻灯片.*|[\W\d_]*",
    re.IGNORECASE,
)


def read(path: Path, report: Report) -> Document:
    """Read a PDF."""
    try:
        _check_ends(path)
        with pypdfium2.PdfDocument(path) as pdf:
            return _read(pdf, report)
    except pypdfium2.PdfiumError as error:
        raise UnreadableFileError(_reason(error)) from error
    except OSError as error:
        raise UnreadableFileError(f"The PDF cannot be read: {error.strerror}.") from error


def _check_ends(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(4096)
        file.seek(max(0, size - _TAIL))
        tail = file.read()
    if not head.strip(b"\0 \r\n"):
        raise UnreadableFileError("The file is empty. Upload it again.")
    if b"%PDF-" not in head:
        raise UnreadableFileError(
            "The file is not a PDF, although its name says so. Export it as a PDF, or correct its name."
        )
    length = re.search(rb"/Linearized.{0,200}?/L\s+(\d+)", head, re.DOTALL)
    if b"startxref" not in tail or (length and size < int(length.group(1))):
        raise UnreadableFileError(
            "The PDF is cut off: its end is missing. Download or export it again, and upload it whole."
        )


def _reason(error: pypdfium2.PdfiumError) -> str:
    if error.err_code == pdfium.FPDF_ERR_PASSWORD:
        return "The PDF is encrypted and needs a password. Save a copy without a password, and upload that."
    if error.err_code == pdfium.FPDF_ERR_SECURITY:
        return (
            "The PDF is protected by a method that is not supported. Save a copy without protection, and upload that."
        )
    return "The PDF is damaged. Export it again, or repair it (qpdf in.pdf out.pdf), and upload the copy."


def _read(pdf: pypdfium2.PdfDocument, report: Report) -> Document:
    count = len(pdf)
    if count == 0:
        raise UnreadableFileError("The PDF has no pages. Export it again.")
    if count > MAX_PAGES:
        raise UnreadableFileError(
            f"The PDF has {count:,} pages; more than {MAX_PAGES:,} are not read. Divide it into several files."
        )
    pages = []
    for index in range(count):
        pages.append(_read_page(pdf, index))
        report((index + 1) / count)
    characters = sum(page.characters for page in pages)
    glyphs = Glyphs()
    for page in pages:
        glyphs.add(page.glyphs)
    if glyphs.wrong() > 0.3 * characters:
        raise UnreadableFileError(
            "The PDF does not say which letters its glyphs are, so its text cannot be read. "
            "Export it again with another program, or run OCR on it (ocrmypdf --force-ocr in.pdf out.pdf)."
        )
    body_size, is_mono = _body(pages)
    _compare_weights(pages)
    remove_partial_slides(pages)
    outline = _outline(pdf, pages)
    remove_furniture(pages, body_size)
    _check_text(pages)
    ordered = [without_contents(regions(page.segments, page.number)) for page in pages]
    is_slides = sum(page.width > 1.1 * page.height for page in pages) > 0.8 * count
    headings = find_headings(ordered, outline, body_size, is_slides=is_slides)
    words = Words([row for page in ordered for region in page for row in region.rows])
    found = blocks(ordered, headings, words, is_mono=is_mono, is_slides=is_slides)
    return Document("pdf", title=_title(pdf, ordered, body_size), language=_language(pdf), blocks=found)


def _read_page(pdf: pypdfium2.PdfDocument, index: int) -> Page:
    try:
        page = pdf[index]
    except pypdfium2.PdfiumError as error:
        raise UnreadableFileError(
            f"Page {index + 1} of {len(pdf)} is damaged. Export the PDF again, or repair it (qpdf in.pdf out.pdf)."
        ) from error
    try:
        return read_page(page, index + 1)
    finally:
        page.close()


def _check_text(pages: list[Page]) -> None:
    """Refuse what is scanned for the most part. A page that shows nothing is blank and doesn't count."""
    scanned = read = 0
    has_text = False
    for page in reversed(pages):
        has_text = bool(page.segments) or (page.is_partial and has_text)
        read += has_text
        scanned += not has_text and page.has_graphics
    if not read and not scanned:
        raise UnreadableFileError("The PDF is empty: none of its pages shows anything.")
    if not read or scanned > len(pages) / 2:
        which = f"{scanned} of its {len(pages)} pages have" if read else "The PDF has"
        raise UnreadableFileError(
            f"{which} no text, only pictures of it: it was probably scanned. "
            "Run OCR on it (ocrmypdf in.pdf out.pdf), and upload the result."
        )


def _body(pages: list[Page]) -> tuple[float, bool]:
    """The size of most of the text outside listings, and whether most of it is in a monospace font."""
    sizes: Counter[tuple[bool, float]] = Counter()
    for segment in (segment for page in pages for segment in page.segments):
        sizes[segment.mono, segment.size] += len(segment.text)
    mono = sum(length for (is_mono, _), length in sizes.items() if is_mono)
    is_mono = mono > 0.7 * sizes.total()
    of_body = Counter({size: length for (is_listing, size), length in sizes.items() if is_mono or not is_listing})
    return (of_body.most_common(1)[0][0] if of_body else 10.0), is_mono


def _compare_weights(pages: list[Page]) -> None:
    """Make bold mean bolder than the body."""
    weights: Counter[bool] = Counter()
    segments = [segment for page in pages for segment in page.segments]
    for segment in segments:
        weights[segment.bold] += len(segment.text)
    if weights[True] > weights[False]:
        for segment in segments:
            segment.bold = False


def _outline(pdf: pypdfium2.PdfDocument, pages: list[Page]) -> list[OutlineEntry]:
    entries = []
    for number, bookmark in enumerate(pdf.get_toc(max_depth=10)):
        if number >= _MAX_BOOKMARKS:
            break
        destination = bookmark.get_dest()
        index = destination.get_index() if destination else None
        title = _phrase(bookmark.get_title)
        if index is None or not 0 <= index < len(pages) or not title:
            continue
        while pages[index].is_partial:
            index += 1
        entries.append(OutlineEntry(title, bookmark.level + 1, index + 1, _height(destination, pages[index])))
    return entries


def _phrase(get: Callable[[], str]) -> str:
    """A text outside of the pages; empty if it is in an encoding that it doesn't name."""
    try:
        text = get()
    except UnicodeDecodeError:
        return ""
    return "" if "\ufffd" in text else clean(re.sub(r"\s+", " ", text))


def _height(destination: pypdfium2.PdfDest, page: Page) -> float | None:
    mode, position = destination.get_view()
    if mode == pdfium.PDFDEST_VIEW_XYZ and len(position) > 1 and position[1] is not None:
        return page.upright(position[0] or 0, position[1])[1]
    if mode in {pdfium.PDFDEST_VIEW_FITH, pdfium.PDFDEST_VIEW_FITBH} and position and position[0] is not None:
        return page.upright(0, position[0])[1]
    return None


def _title(pdf: pypdfium2.PdfDocument, pages: list[list[Region]], body_size: float) -> str | None:
    """The title in the metadata, if it is one; else the largest text on the first page."""
    title = _phrase(lambda: pdf.get_metadata_value("Title")).lstrip("-–:. ")
    if title and len(title) <= 300 and not _NO_TITLE.fullmatch(title):
        return title
    rows = [row for region in next(filter(None, pages), []) for row in region.rows]
    sizes = [row.size for row in rows if sum(map(str.isalpha, row.text)) > 1]
    if not sizes or max(sizes) < 1.15 * body_size:
        return None
    start = next(index for index, row in enumerate(rows) if row.size == max(sizes))
    end = start + 1
    while (
        end < len(rows)
        and abs(rows[end].size - rows[start].size) < 1
        and rows[end].y - rows[end - 1].y < 2 * rows[start].size
    ):
        end += 1
    text = " ".join(row.text for row in rows[start:end])
    return text if 2 <= len(text) <= 200 else None


def _language(pdf: pypdfium2.PdfDocument) -> str | None:
    buffer = (ctypes.c_ushort * 32)()
    pdfium.FPDFCatalog_GetLanguage(pdf, buffer, ctypes.sizeof(buffer))
    tag = bytes(buffer).decode("utf-16-le", "replace").split("\0")[0].strip().replace("_", "-")
    return tag if re.fullmatch(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{1,8})*", tag) else None

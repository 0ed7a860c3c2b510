"""Which format a file has: by its content, and by its name where the content is text that may be anything.

Own signatures rather than libmagic or puremagic: they know hundreds of formats, but not which part of a ZIP archive or
of a JSON text makes it one of ours, nor that a text is Markdown.
"""

import mmap
import re
from collections.abc import Mapping
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import Final, NamedTuple

from documents.document import UnreadableFileError


class Format(NamedTuple):
    """A format that can be read."""

    extensions: tuple[str, ...]
    """Of the names of its files, in lower case, with the dot; the usual one first."""
    module: str
    """Which has `read(path, report)`."""


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {
        "pdf": Format((".pdf",), "documents.formats.pdf"),
        "slides": Format((".pptx", ".pptm", ".ppsx", ".ppsm", ".potx", ".potm"), "documents.formats.slides"),
        "document": Format((".docx", ".docm", ".dotx", ".dotm"), "documents.formats.word"),
        "markdown": Format(
            (".md", ".markdown", ".mdown", ".mkd", ".mdx", ".qmd", ".rmd"), "documents.formats.markdown"
        ),
        "html": Format((".html", ".htm", ".xhtml"), "documents.formats.html"),
        "text": Format((".txt", ".text", ".rst", ".adoc", ".asciidoc"), "documents.formats.text"),
        "transcript": Format((".vtt", ".srt", ".json"), "documents.formats.subtitles"),
        "notebook": Format((".ipynb",), "documents.formats.notebook"),
    }
)
"""By the `source_type` of their documents."""

SUPPORTED: Final = (
    "Supported are PDF, PowerPoint (.pptx), Word (.docx), Markdown (.md), HTML, plain text (.txt, .rst, .adoc), "
    "subtitles (.vtt, .srt), transcripts of Whisper (.json) and Jupyter notebooks (.ipynb)."
)

_HEAD = 64 * 1024
_PDF_WITHIN = 1024
"""Bytes: some programs write something before a PDF."""
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_SAVE_AS = "Open it in its program, and save it as {}."
_SUBTITLES = "Upload its subtitles (.vtt, .srt) or its transcript instead."
_OTHERS: Final = (
    (
        rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|II\*\0|MM\0\*|RIFF.{4}WEBP|.{4}ftyp(?:hei[cx]|mif1|avif)|8BPS",
        "an image",
        "Put it in a document with its text.",
    ),
    (
        rb".{4}ftyp(?!M4A)|\x1aE\xdf\xa3|RIFF.{4}AVI |FLV\x01|\0\0\x01[\xb3\xba]|0&\xb2u\x8ef\xcf\x11|G.{187}G.{187}G",
        "a video",
        _SUBTITLES,
    ),
    (
        rb"ID3[\x02-\x04]|OggS|fLaC|RIFF.{4}WAVE|.{4}ftypM4A|\xff[\xf1\xf9\xfa\xfb\xf2\xf3]|#!AMR|FORM.{4}AIF",
        "a sound recording",
        _SUBTITLES,
    ),
    (rb"MZ(?=[^\0]{0,200}\0)|\x7fELF|\xca\xfe\xba\xbe|[\xce\xcf]\xfa\xed\xfe|\xfe\xed\xfa[\xce\xcf]", "a program", ""),
    (
        rb"\x1f\x8b|7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|BZh[1-9]|\xfd7zXZ\0|\x28\xb5\x2f\xfd|.{257}ustar",
        "an archive",
        "Unpack it, and upload the files in it.",
    ),
    (rb"\{\\rtf", "a document in Rich Text Format (.rtf)", _SAVE_AS.format(".docx")),
    (rb"%!PS", "a PostScript file", "Convert it to PDF."),
    (rb"AT&TFORM", "a DjVu file", "Convert it to PDF."),
    (rb"SQLite format 3\0", "a database", ""),
)
"""Beginning, what it is, and what to do."""
_OLE_KINDS: Final = (
    ("EncryptedPackage", "The file is protected by a password. Save it without one, and upload it anew."),
    ("WordDocument", f"The file is a document of Word 97–2003 (.doc). {_SAVE_AS.format('.docx')}"),
    ("PowerPoint Document", f"The file is a presentation of PowerPoint 97–2003 (.ppt). {_SAVE_AS.format('.pptx')}"),
)
_HTML = re.compile(r"(?:<\?xml[^>]*\?>|<!--.*?-->|\s)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_TIMING = r"\s*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}\s*-->\s*(?:\d+:)?\d{1,2}:\d{2}[.,]\d{1,3}"
_SRT = re.compile(rf"\s*(?:\d+[ \t]*\n)?{_TIMING}")


def detect(path: Path, name: str) -> str:
    """The format of a file: a key of `FORMATS`.

    What a file contains counts more than its name: a PDF named `.docx` is read as a PDF.

    Args:
        path: The file.
        name: The name that its owner gave it.

    Raises:
        UnreadableFileError: It is empty or of an unsupported kind.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if not head:
        raise UnreadableFileError("The file is empty (0 bytes). Perhaps it was not saved or copied completely.")
    if b"%PDF-" in head[:_PDF_WITHIN]:
        return "pdf"
    if head.startswith(_ZIP):
        return _in_archive(path)
    if head.startswith(_OLE):
        raise UnreadableFileError(_ole_message(path))
    for beginning, kind, advice in _OTHERS:
        if re.match(beginning, head, re.DOTALL):
            raise UnreadableFileError(" ".join(f"The file is {kind}. {advice} {SUPPORTED}".split()))
    return _of_text(path, PurePath(name).suffix.lower())


def _in_archive(path: Path) -> str:
    from zipfile import BadZipFile, ZipFile

    try:
        with ZipFile(path) as archive:
            names = set(archive.namelist())
    except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UnreadableFileError(
            "The file is damaged or cut off. Open it in its program, save it again, and upload it anew."
        ) from error
    if "[Content_Types].xml" in names:
        if any(re.fullmatch(r"word/document\d*\.xml", part) for part in names):
            return "document"
        if "ppt/presentation.xml" in names:
            return "slides"
    if "xl/workbook.xml" in names or "xl/workbook.bin" in names:
        raise UnreadableFileError(
            f"The file is a spreadsheet. Save it as PDF, or its tables in a document. {SUPPORTED}"
        )
    if "content.xml" in names and "mimetype" in names:
        raise UnreadableFileError(f"The file is in OpenDocument format. {_SAVE_AS.format('.docx, .pptx or PDF')}")
    if "META-INF/container.xml" in names:
        raise UnreadableFileError(f"The file is an electronic book (EPUB). Convert it to PDF or HTML. {SUPPORTED}")
    raise UnreadableFileError(f"The file is an archive (ZIP). Unpack it, and upload the files in it. {SUPPORTED}")


def _ole_message(path: Path) -> str:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        for entry, message in _OLE_KINDS:
            if content.find(entry.encode("utf-16-le")) >= 0:
                return message
    return f"The file is of an old format of Office. {_SAVE_AS.format('.docx, .pptx or PDF')}"


def _of_text(path: Path, extension: str) -> str:
    from documents.formats.encodings import read_text

    text = read_text(path).lstrip()
    if text.startswith("WEBVTT"):
        return "transcript"
    if _SRT.match(text):
        return "transcript"
    if text[0] in "{[" and extension in (".json", ".ipynb", ""):
        return _of_json(text)
    if _HTML.match(text) and extension != ".md":
        return "html"
    named = next((name for name, known in FORMATS.items() if extension in known.extensions), None)
    if named in ("markdown", "html", "text"):
        return named
    if named == "transcript":
        raise UnreadableFileError(
            "The file contains no subtitles and no transcript: there are no texts with their times in it. "
            "If it is a text, name it .txt."
        )
    if named == "notebook":
        raise UnreadableFileError(
            "The file is no Jupyter notebook, or is damaged. Save it in Jupyter, and upload it anew."
        )
    if named:
        raise UnreadableFileError(
            f"The file is named {extension}, but its content is none. It may be damaged, cut off, or a text of another "
            "name. Open it in its program, save it again, and upload it anew."
        )
    if not extension:
        return "text"
    raise UnreadableFileError(f"Files named {extension[:20]} are not supported. {SUPPORTED}")


def _of_json(text: str) -> str:
    from documents.formats.json_files import parse_json
    from documents.formats.notebook import is_notebook
    from documents.formats.subtitles import is_transcript

    content = parse_json(text)
    if is_notebook(content):
        return "notebook"
    if is_transcript(content):
        return "transcript"
    raise UnreadableFileError(
        f"The JSON in the file is neither a transcript (a list of segments with text, start and end) nor a Jupyter "
        f"notebook. {SUPPORTED}"
    )

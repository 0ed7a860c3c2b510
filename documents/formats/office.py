"""What Word and PowerPoint files have in common: a ZIP archive of XML parts, and the formulas in them."""

import io
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar
from zipfile import ZipFile, ZipInfo

from documents.document import UnreadableFileError
from documents.formats.content import RAISED, alternative_text, cleaned
from models.text import one_line

if TYPE_CHECKING:
    from lxml.etree import _Element

MOST_PARTS: Final = 20_000
MOST_XML: Final = 200 * 1024**2
"""Bytes of XML that a file may unpack to. A text of 20 million characters has about half of it."""
MOST_RATIO: Final = 200
"""How much larger than the file its XML may be, if it is above `RATIO_FROM` bytes. Documents hardly reach 50."""
RATIO_FROM: Final = 20 * 1024**2

_Read = TypeVar("_Read")

_DOCTYPE = re.compile(rb"<!\s*(?:DOCTYPE|ENTITY)", re.IGNORECASE)
_STRICT = re.compile(rb"http://purl\.oclc\.org/ooxml/(\w+)/(\w+)")
_WORD = re.compile(
    rb"application/vnd\.(?:ms-word\.(?:document|template)\.macroEnabled(?:Template)?|"
    rb"openxmlformats-officedocument\.wordprocessingml\.template)\.main\+xml"
)
_POWERPOINT = re.compile(
    rb"application/vnd\.(?:ms-powerpoint\.(?:presentation|slideshow|template)\.macroEnabled|"
    rb"openxmlformats-officedocument\.presentationml\.(?:slideshow|template))\.main\+xml"
)
_DEFAULT_TITLE = re.compile(
    r"(?:microsoft )?(?:word|powerpoint)\b.*|(?:document|presentation|slide|文档|文稿|幻灯片)\s*\d*|"
    r".*\.(?:docx?|pptx?|dotx?)",
    re.IGNORECASE,
)
MONOSPACED: Final = re.compile(
    r"courier|consolas|mono|menlo|monaco|lucida console|fira code|source code|typewriter", re.IGNORECASE
)
"""Fonts in which code is written."""
_NOT_TEXT = re.compile(
    "(?:p|r|tbl|tr|tc|sect|sdt|sdtEnd)Pr|del|moveFrom|instrText|delText|Fallback|txbxContent|rt|object"
)
_CHARACTERS = {"tab": "\t", "ptab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def read_package(path: Path, program: str, read: Callable[[io.BytesIO], _Read]) -> _Read:
    """Read an Office file by a library, which sees nothing but XML parts of bounded size, without a DTD.

    Pictures, macros and embedded files are not even unpacked, and nothing outside the file is fetched.

    Raises:
        UnreadableFileError: It is damaged, protected or too large.
    """
    try:
        return read(_xml_only(path))
    except (UnreadableFileError, MemoryError, FileNotFoundError):
        raise
    except Exception as error:  # a missing part is a KeyError, a missing attribute an AttributeError, and so on
        raise UnreadableFileError(
            f"The file is damaged or cut off. Open it in {program}, save it again, and upload it anew."
        ) from error


def _xml_only(path: Path) -> io.BytesIO:
    """A copy of the file with its XML parts only, as a library expects them."""
    copy = io.BytesIO()
    with ZipFile(path) as archive, ZipFile(copy, "w") as result:
        parts = {part.filename: part for part in _xml_parts(archive, path.stat().st_size)}
        for name, part in parts.items():
            # No more than its declared size is ever unpacked.
            content = archive.read(part)
            if _has_doctype(content):
                raise UnreadableFileError(
                    "The file contains a document type definition, which no Office program writes and which can do "
                    "harm. Open it in its program, save it again, and upload it anew."
                )
            content = _STRICT.sub(rb"http://schemas.openxmlformats.org/\1/2006/\2", content)
            if name == "[Content_Types].xml":
                # Templates, shows and files with macros have the same content; only their type is another one.
                start = rb"application/vnd.openxmlformats-officedocument."
                content = _WORD.sub(start + rb"wordprocessingml.document.main+xml", content)
                content = _POWERPOINT.sub(start + rb"presentationml.presentation.main+xml", content)
            elif name.endswith(".rels"):
                content = _known_relationships(name, content, parts.keys())
            result.writestr(name, content)
    copy.seek(0)
    return copy


def _xml_parts(archive: ZipFile, size: int) -> list[ZipInfo]:
    parts = archive.infolist()
    if any(part.flag_bits & 0x1 for part in parts):
        raise UnreadableFileError("The file is protected by a password. Save it without one, and upload it anew.")
    xml = [part for part in parts if part.filename.endswith((".xml", ".rels"))]
    total = sum(part.file_size for part in xml)
    if len(parts) > MOST_PARTS or total > MOST_XML or (total > RATIO_FROM and total > MOST_RATIO * size):
        raise UnreadableFileError(
            f"The file unpacks to {total // 1024**2} MB of text in {len(parts)} parts, more than any usual document. "
            "Divide it into several files."
        )
    return xml


def _has_doctype(content: bytes) -> bool:
    if b"\0" in content[:4]:  # UTF-16
        content = content.replace(b"\0", b"")
    return bool(_DOCTYPE.search(content))


def _known_relationships(name: str, content: bytes, parts: object) -> bytes:
    """Without the relationships to what is outside the file, no XML, or missing: the libraries fail at them."""
    from lxml import etree

    root = etree.fromstring(content, etree.XMLParser(resolve_entities=False, no_network=True))
    folder = posixpath.dirname(posixpath.dirname(name))
    for relationship in list(root):
        target = posixpath.normpath(posixpath.join("/", folder, relationship.get("Target") or ""))
        if relationship.get("TargetMode") == "External" or target.lstrip("/") not in parts:  # type: ignore[operator]
            root.remove(relationship)
    return bytes(etree.tostring(root))


def usable_title(title: str | None) -> str | None:
    """The title from the properties of a file, unless the program made it up."""
    title = one_line(title or "")
    return title if title and not _DEFAULT_TITLE.fullmatch(title) else None


def local_name(element: "_Element") -> str:
    """The name of an element without its namespace; empty for a comment."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def text_of(paragraph: "_Element") -> str:
    """The text of a paragraph with its line breaks and formulas, and what stands for its pictures.

    Deleted text and the content of text boxes are left out.
    """
    return cleaned("".join(_texts(paragraph)))


def _texts(element: "_Element") -> Iterator[str]:
    for child in element:
        name = local_name(child)
        if _NOT_TEXT.fullmatch(name):
            continue
        if name == "t":
            yield child.text or ""
        elif name in _CHARACTERS:
            yield _CHARACTERS[name]
        elif name == "oMath":
            yield _formula(child)
        elif name == "r" and _is_raised(child):
            text = "".join(_texts(child))
            yield f"^{text}" if RAISED.fullmatch(text) else text
        elif name == "docPr":
            yield alternative_text(child.get("descr"))
        else:
            yield from _texts(child)


def _is_raised(run: "_Element") -> bool:
    """Whether a run of characters is an exponent or the like."""
    for properties in run:
        if local_name(properties) == "rPr":
            position = next((child for child in properties if local_name(child) == "vertAlign"), None)
            raised = position is not None and "superscript" in position.attrib.values()
            return raised or re.fullmatch(r"[1-9]\d*", properties.get("baseline") or "") is not None
    return False


def _formula(element: "_Element") -> str:
    """A formula in one line: `a^2`, `(a+b)/c`, `∑_(i=1)^n x_i`."""
    parts: dict[str, str] = {}
    for child in element:
        name = local_name(child)
        if name == "t":
            parts["text"] = parts.get("text", "") + (child.text or "")
        elif not name.endswith("Pr"):
            parts[name] = parts.get(name, "") + (" " if name in ("mr", "e") and name in parts else "") + _formula(child)
    base = parts.get("e", "")
    below = f"_{_grouped(parts['sub'])}" if parts.get("sub") else ""
    above = f"^{_grouped(parts['sup'])}" if parts.get("sup") else ""
    match local_name(element):
        case "f":
            text = f"{_grouped(parts.get('num', ''))}/{_grouped(parts.get('den', ''))}"
        case "sSup" | "sSub" | "sSubSup" | "sPre":
            text = f"{_grouped(base)}{below}{above}"
        case "nary":
            text = f"{_property(element, 'chr', '∫')}{below}{above} {base}"
        case "rad":
            text = f"√{parts.get('deg', '')}({base})"
        case "d":
            text = f"{_property(element, 'begChr', '(')}{base}{_property(element, 'endChr', ')')}"
        case "limLow" | "limUpp":
            text = f"{base}_{_grouped(parts.get('lim', ''))}"
        case "func":
            text = f"{parts.get('fName', '')} {base}"
        case _:
            text = "".join(child.text or "" if local_name(child) == "t" else _formula(child) for child in element)
    return text


def _grouped(text: str) -> str:
    text = text.strip()
    return text if len(text) == 1 or text.isalnum() else f"({text})"


def _property(element: "_Element", name: str, default: str) -> str:
    for child in element.iter("{*}" + name):
        return next(iter(child.attrib.values()), "")
    return default

"""What the readers of all formats share: how the text of a block is made from what a file contains."""

import re
from collections.abc import Iterable, Sequence

from documents.document import Block, Document, Kind, UnreadableFileError
from models.text import is_blank, one_line, without_surrogates

_UNWANTED = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\u202a-\u202e\u2066-\u2069]")
"""Control characters but for tab and line ends, characters without width, and those that reverse the direction."""
_LINE_ENDS = re.compile("\r\n?|[\x0c\u2028\u2029]")
_SPACES = re.compile("[\u00a0\u2000-\u200a\u202f\u205f]")
_WIDE = (
    "\u2e80-\u303e\u3041-\u33ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\ufe30-\ufe4f\uff00-\uffef\U00020000-\U0003ffff"
)
_BREAK_BETWEEN_WIDE = re.compile(rf"(?<=[{_WIDE}])[ \t]*\n[ \t]*(?=[{_WIDE}])")
_IS_WIDE = re.compile(f"[{_WIDE}]")
_LANGUAGE = re.compile(r"([A-Za-z]{2,3})(?:[-_][A-Za-z0-9]+)*")
_LANGUAGE_NAMES = {
    "arabic": "ar",
    "chinese": "zh",
    "dutch": "nl",
    "english": "en",
    "french": "fr",
    "german": "de",
    "italian": "it",
    "japanese": "ja",
    "korean": "ko",
    "polish": "pl",
    "portuguese": "pt",
    "russian": "ru",
    "spanish": "es",
    "turkish": "tr",
    "ukrainian": "uk",
    "vietnamese": "vi",
}
RAISED = re.compile(r"[+−-]?(?:\d{1,3}|[a-zA-Z])")
"""Text above the line that is an exponent, which would change its meaning in the line: `10^3`."""
_FILE_NAME = re.compile(r"\S+\.\w{2,4}", re.ASCII)
_MADE_UP_ALT = re.compile(
    r"(a |an )?(picture|photo|image|screenshot|diagram|logo|icon|图片|图像|图)?[ _-]*\d*|.*generated.*|.*自动生成.*",
    re.IGNORECASE | re.DOTALL,
)


def cleaned(text: str) -> str:
    """The text of a file with line feeds and plain spaces, without characters that show nothing or reverse others."""
    return _UNWANTED.sub("", _SPACES.sub(" ", _LINE_ENDS.sub("\n", without_surrogates(text))))


def paragraph(text: str) -> str:
    """The lines of a paragraph as one line. Chinese and Japanese have no space where a line ended."""
    return one_line(_BREAK_BETWEEN_WIDE.sub("", text))


def is_wide(character: str) -> bool:
    """Whether the character is one of those between which Chinese and Japanese have no space."""
    return bool(_IS_WIDE.match(character))


def listing(text: str) -> str:
    """Code without blank lines around it and without white space at line ends; indentation stays."""
    lines = [line.rstrip() for line in text.expandtabs(4).split("\n")]
    while lines and is_blank(lines[0]):
        del lines[0]
    while lines and is_blank(lines[-1]):
        del lines[-1]
    return "\n".join(lines)


def text_block(text: str, kind: Kind = Kind.TEXT, *, level: int = 0, page: int | None = None) -> list[Block]:
    """The text as a block of one line, or of lines if it is code; none if it shows nothing."""
    text = listing(text) if kind is Kind.CODE else paragraph(text)
    return [] if is_blank(text) else [Block(kind, text, level=level, page=page)]


def table_block(rows: Iterable[Sequence[str]], page: int | None = None) -> list[Block]:
    """The rows as a table; as paragraphs if there is one column, which only arranges the page."""
    cells = [[paragraph(cell) for cell in row] for row in rows]
    filled = [row for row in cells if not is_blank("".join(row))]
    if all(len(row) == 1 for row in filled):
        return [block for row in filled for block in text_block(row[0], page=page)]
    return [Block(Kind.TABLE, "\n".join(" | ".join(row).strip() for row in filled), page=page)]


def alternative_text(text: str | None) -> str:
    """The text that stands for a picture; empty if a program made it up or if it is only a name."""
    text = one_line(text or "")
    return "" if _MADE_UP_ALT.fullmatch(text) or _FILE_NAME.fullmatch(text) else text


def language_code(name: str | None) -> str | None:
    """The language in two or three letters: `en` for `en-US` and for `english`. None if it is no language."""
    name = (name or "").strip()
    if code := _LANGUAGE_NAMES.get(name.casefold()):
        return code
    found = _LANGUAGE.fullmatch(name)
    return found[1].lower() if found and found[1].lower() != "und" else None


def first_heading(blocks: Iterable[Block]) -> str | None:
    """The first heading of the highest level, which is the title of a document that has no other."""
    return next((block.text for block in blocks if block.kind is Kind.HEADING and block.level == 1), None)


def with_content(document: Document) -> Document:
    """The document itself.

    Raises:
        UnreadableFileError: It contains no text.
    """
    if not document.blocks:
        raise UnreadableFileError(
            "The file contains no text. If it consists of pictures, add their text (OCR), or upload another file."
        )
    return document

"""The text of a file in an unknown encoding."""

import codecs
import re
from pathlib import Path

from documents.document import UnreadableFileError
from documents.formats.content import cleaned
from models.text import is_blank

_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_CANDIDATES = ["gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1252", "cp1251"]
"""What is told apart by the letters that result, as none of it can be told by its bytes."""
_SAMPLE = 128 * 1024
_LEAST_FOR_STATISTICS = 64
"""Bytes above ASCII. With fewer, statistics name any language of the world."""
_COMMON_PAIR = re.compile(rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]")
_USUAL = re.compile(
    "[\t\n\r -~\u00a0-\u024f\u0370-\u04ff\u2010-\u2027\u3000-\u30ff\u4e00-\u9fff\uac00-\ud7a3\uff00-\uffef]"
)
_CONTROLS = frozenset(range(32)) - frozenset(b"\t\n\r\f\x1b")
MOST_CONTROLS = 0.01
"""The share of control characters above which bytes are no text."""


def read_text(path: Path) -> str:
    """The text of a file with line feeds only, see `content.cleaned`.

    Raises:
        UnreadableFileError: It is no text, or shows nothing.
    """
    text = cleaned(decode(path.read_bytes()))
    if is_blank(text):
        raise UnreadableFileError("The file is empty. Upload one that contains text.")
    return text


def decode(content: bytes, declared: str | None = None) -> str:
    """Bytes → text: by the mark at the beginning, as UTF-8, as declared, or by the letters that result.

    Raises:
        UnreadableFileError: It is no text.
    """
    text = _decode(content, declared)
    # A few control characters are mistakes; many of them are a program or a picture.
    if sum(map(text[:_SAMPLE].count, map(chr, _CONTROLS))) > MOST_CONTROLS * min(len(text), _SAMPLE):
        raise UnreadableFileError(
            "The file contains no text that can be read: its name says text, but its content is of another kind. "
            "Open it in the program that made it, and save it in a supported format."
        )
    return text


def _decode(content: bytes, declared: str | None) -> str:
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return content[len(mark) :].decode(encoding, "replace")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = "\0"
    if text.count("\0") <= MOST_CONTROLS * len(text):
        return text
    if unmarked := _utf_16_without_mark(content):
        return content.decode(unmarked, "replace")
    if declared and (as_declared := _as_declared(content, declared)) is not None:
        return as_declared
    mended = content.decode(errors="replace")
    wrong = mended.count("\ufffd")
    if 10 * wrong < sum(1 for byte in content if byte >= 0xC0):  # each character of UTF-8 has one such byte
        return mended
    return content.decode(_guessed(content), "replace")


def _as_declared(content: bytes, declared: str) -> str | None:
    try:
        # Who writes GB2312 or Latin-1 in a file means what browsers read instead.
        return content.decode(
            {"gb2312": "gb18030", "gbk": "gb18030", "iso-8859-1": "cp1252", "latin-1": "cp1252"}.get(
                declared.lower(), declared
            )
        )
    except (LookupError, UnicodeError, ValueError):
        return None


def _utf_16_without_mark(content: bytes) -> str | None:
    """Bytes in the wrong order are characters of all kinds of scripts, without a space or a line end."""
    for encoding in ("utf-16-le", "utf-16-be"):
        try:
            sample = content[:_SAMPLE].decode(encoding)
        except UnicodeDecodeError:
            continue
        if re.search("[ \n]", sample) and len(_USUAL.findall(sample)) > 0.95 * len(sample):
            return encoding
    return None


def _guessed(content: bytes) -> str:
    sample = content[:_SAMPLE]
    if len(sample) < len(content):
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    if sum(1 for byte in sample if byte >= 0x80) < _LEAST_FOR_STATISTICS:
        return "gb18030" if _is_common_chinese(sample) else "cp1252"
    from charset_normalizer import from_bytes  # only few files need it

    best = from_bytes(sample, cp_isolation=_CANDIDATES).best()
    return best.encoding if best else "cp1252"


def _is_common_chinese(content: bytes) -> bool:
    """Whether the bytes are pairs of the 3755 most common characters and of punctuation, but for a few."""
    pairs = re.findall(rb"[\x81-\xfe].", content, re.DOTALL)
    return 4 * sum(1 for pair in pairs if _COMMON_PAIR.match(pair)) > 3 * len(pairs)

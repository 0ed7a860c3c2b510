"""The text of one page of a PDF as segments: runs of characters on one line, with their place and type.

PDFium gives single characters in the order in which the page draws them. A segment ends where the next character is on
another line, or further away than a blank is wide; so it never reaches over the gap between two columns.
"""

import ctypes
import math
import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median
from typing import Any

import pypdfium2
import pypdfium2.raw as pdfium

from documents.document import UnreadableFileError
from models.text import without_surrogates

MAX_CHARACTERS = 100_000
"""Of one page. A densely printed page of a newspaper has 30,000."""

_MONOSPACE = re.compile(
    r"mono(?!type)|courier|typewriter|consol|menlo|code|cmtt|cmsltt|cmitt|ectt|sftt|lmtt|lmmono|tt\d+$", re.IGNORECASE
)
_BOLD = re.compile(
    r"bold|black|heavy|demi|medi(?![a-z])|cmbx|cmssbx|cmb10|sfbx|ecbx|-bd|simhei|heiti|fzhei|stheiti", re.IGNORECASE
)
_ITALIC = re.compile(r"ital|obli|cmti|cmsl|cmssi|sfti|ecti|-it\b", re.IGNORECASE)
_CHINESE = re.compile(r"sim(?:sun|hei)|song|ming|kai|fang|cjk|gothic|mincho", re.IGNORECASE)
"""Fonts that call themselves monospace because of their Chinese characters."""
_FIXED_PITCH = 1
_FORCE_BOLD = 1 << 18

_SPACES = frozenset(" \t\r\n\u00a0\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000")
_ACCENTS = {"´": "\u0301", "`": "\u0300", "¨": "\u0308", "ˆ": "\u0302", "˜": "\u0303", "ˇ": "\u030c", "¯": "\u0304"}
"""Old TeX fonts print an accent and its letter over each other."""
_ODD_FORMS = re.compile("[\ufb00-\ufb06\u2e80-\u2fdf\uf900-\ufaff]")
"""Ligatures, and radicals and compatibility forms that some fonts give in place of the ordinary Chinese character."""
HAN = "\u2e80-\u303f\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"
"""Range of a regular expression: characters that are written without blanks between them, and their punctuation."""
IS_HAN = re.compile(f"[{HAN}]")

_Pointer, _Int = ctypes.c_void_p, ctypes.c_int


def _plain(function: Any, result: Any, *arguments: Any) -> Any:
    """The function of PDFium with untyped handles, which takes a third of the time of a call with typed ones."""
    return ctypes.cast(function, ctypes.CFUNCTYPE(result, *arguments))


_unicode = _plain(pdfium.FPDFText_GetUnicode, ctypes.c_uint, _Pointer, _Int)
_text_object = _plain(pdfium.FPDFText_GetTextObject, _Pointer, _Pointer, _Int)
_has_no_unicode = _plain(pdfium.FPDFText_HasUnicodeMapError, _Int, _Pointer, _Int)
_origin = _plain(pdfium.FPDFText_GetCharOrigin, _Int, _Pointer, _Int, _Pointer, _Pointer)
_loose_box = _plain(pdfium.FPDFText_GetLooseCharBox, _Int, _Pointer, _Int, _Pointer)
_matrix = _plain(pdfium.FPDFText_GetMatrix, _Int, _Pointer, _Int, _Pointer)
_font_size = _plain(pdfium.FPDFText_GetFontSize, ctypes.c_double, _Pointer, _Int)
_font = _plain(pdfium.FPDFTextObj_GetFont, _Pointer, _Pointer)
_font_name = _plain(pdfium.FPDFFont_GetBaseFontName, ctypes.c_size_t, _Pointer, _Pointer, ctypes.c_size_t)
_font_flags = _plain(pdfium.FPDFFont_GetFlags, _Int, _Pointer)


@dataclass(frozen=True, slots=True)
class _Style:
    size: float
    """Height of the font in points, as printed."""
    quarter: int | None
    """Direction of the text in quarter turns against the clock; None if it is at another angle."""
    bold: bool
    italic: bool
    mono: bool


@dataclass(slots=True)
class _Character:
    text: str
    x0: float
    x1: float
    y: float
    style: _Style
    after_blank: bool


@dataclass(slots=True, eq=False)
class Segment:
    """Characters that stand together on a line. Points from the left and upper edge of the upright page."""

    text: str
    x0: float
    x1: float
    y: float
    """Of the baseline; grows downwards."""
    size: float
    bold: bool
    italic: bool
    mono: bool
    order: int
    """The place in the order in which the page draws its text."""

    @property
    def top(self) -> float:
        """Upper edge of an ordinary capital letter."""
        return self.y - 0.7 * self.size

    @property
    def bottom(self) -> float:
        """Lower edge of an ordinary letter: those of two lines do not touch, however tightly they are set."""
        return self.y + 0.2 * self.size


@dataclass(slots=True)
class Glyphs:
    """Numbers of characters whose font doesn't say which letters they are."""

    unknown: int = 0
    """Control characters, U+FFFD, and those for private use."""
    guessed: int = 0
    guessed_small: int = 0
    """Of the guessed ones: small letters and Chinese, which most of a text consists of, if the guess is right."""

    def add(self, other: "Glyphs") -> None:
        """Add those of another page."""
        self.unknown += other.unknown
        self.guessed += other.guessed
        self.guessed_small += other.guessed_small

    def wrong(self) -> int:
        """How many characters are not the letters that are shown."""
        return self.unknown + (self.guessed if self.guessed_small < 0.5 * self.guessed else 0)


@dataclass(slots=True)
class Page:
    """The text of a page."""

    number: int
    """From 1 on."""
    width: float
    height: float
    segments: list[Segment] = field(default_factory=list)
    characters: int = 0
    glyphs: Glyphs = field(default_factory=Glyphs)
    has_graphics: bool = False
    """Whether anything is drawn on it at all."""
    is_partial: bool = False
    """The next page shows all of this one and more; then it has no segments."""
    quarter: int = 0
    left: float = 0
    top: float = 0

    def upright(self, x: float, y: float) -> tuple[float, float]:
        """The place on the upright page of a point in the coordinates of the file."""
        x, y = _turned(x, y, self.quarter)
        return x - self.left, y - self.top


def read_page(page: pypdfium2.PdfPage, number: int) -> Page:
    """Take the text from a page.

    Raises:
        UnreadableFileError: It has more than `MAX_CHARACTERS`.
        pypdfium2.PdfiumError: It is damaged.
    """
    text_page = page.get_textpage()
    try:
        count = text_page.count_chars()
        if count > MAX_CHARACTERS:
            raise UnreadableFileError(
                f"Page {number} has {count:,} characters; more than {MAX_CHARACTERS:,} on a page are not read. "
                "Export the document again, with its text on ordinary pages."
            )
        handle = ctypes.cast(text_page.raw, _Pointer).value
        box = page.get_bbox()
        characters, glyphs = _characters(handle, count, box)
    finally:
        text_page.close()
    quarters = Counter(character.style.quarter for character in characters)
    quarter = max(range(4), key=lambda turn: quarters[turn])
    corners = [_turned(x, y, quarter) for x in (box[0], box[2]) for y in (box[1], box[3])]
    left, top = min(x for x, _ in corners), min(y for _, y in corners)
    result = Page(
        number,
        max(x for x, _ in corners) - left,
        max(y for _, y in corners) - top,
        characters=len(characters),
        glyphs=glyphs,
        has_graphics=pdfium.FPDFPage_CountObjects(page) > 0,
        quarter=quarter,
        left=left,
        top=top,
    )
    # Text in another direction than most of the page is a stamp in the margin or the label of an axis.
    result.segments = _segments([c for c in _placed(characters, result) if c.style.quarter == quarter])
    return result


def _turned(x: float, y: float, quarter: int) -> tuple[float, float]:
    """The point, x in the direction of the text and y downwards from line to line."""
    return ((x, -y), (y, x), (-x, y), (-y, -x))[quarter]


def _placed(characters: list[_Character], page: Page) -> list[_Character]:
    for character in characters:
        character.x0 -= page.left
        character.x1 -= page.left
        character.y -= page.top
    return characters


def _characters(handle: int | None, count: int, box: tuple[float, ...]) -> tuple[list[_Character], Glyphs]:
    """The visible characters, turned upright but not moved, and how well their letters are known."""
    x, y = ctypes.c_double(), ctypes.c_double()
    rectangle = pdfium.FS_RECTF()
    at_x, at_y, at_rectangle = ctypes.byref(x), ctypes.byref(y), ctypes.byref(rectangle)
    fonts: dict[int, tuple[bool, bool, bool]] = {}
    styles: dict[_Style, _Style] = {}
    current, after_blank = None, False
    style = _Style(1, 0, bold=False, italic=False, mono=False)
    characters = []
    glyphs = Glyphs()
    for index in range(count):
        text_object = _text_object(handle, index)
        if not text_object:  # PDFium guessed a blank or the end of a line
            continue
        code = _unicode(handle, index)
        if text_object != current:
            current = text_object
            style = _style(handle, index, text_object, fonts)
            style = styles.setdefault(style, style)
        text = chr(code) if code < 0x110000 else "\ufffd"
        if text in _SPACES:
            after_blank = True
            continue
        if code in {2, 0xFFFE}:  # PDFium's mark for a hyphen at the end of a line
            text = "-"
        elif code < 32 or 0x7F <= code < 0xA0:
            text = "\ufffd"
        if text == "\ufffd" or "\ue000" <= text <= "\uf8ff":
            glyphs.unknown += 1
        elif _has_no_unicode(handle, index):  # PDFium took the number of the glyph in the font, which may be right
            glyphs.guessed += 1
            glyphs.guessed_small += text.islower() or IS_HAN.match(text) is not None
        _origin(handle, index, at_x, at_y)
        if not (box[0] - 2 <= x.value <= box[2] + 2 and box[1] - 2 <= y.value <= box[3] + 2):
            continue
        _loose_box(handle, index, at_rectangle)
        turn = style.quarter or 0
        start, baseline = _turned(x.value, y.value, turn)
        ends = sorted(
            (_turned(rectangle.left, rectangle.bottom, turn)[0], _turned(rectangle.right, rectangle.top, turn)[0])
        )
        if not 0 < ends[1] - ends[0] < 5 * style.size:
            ends = [start, start + style.size / 2]
        characters.append(_Character(text, ends[0], ends[1], baseline, style, after_blank))
        after_blank = False
    return characters, glyphs


def _style(handle: int | None, index: int, text_object: int, fonts: dict[int, tuple[bool, bool, bool]]) -> _Style:
    matrix = pdfium.FS_MATRIX()
    _matrix(handle, index, ctypes.byref(matrix))
    size = round(abs(_font_size(handle, index)) * (math.hypot(matrix.c, matrix.d) or 1), 1)
    turn = math.atan2(matrix.b, matrix.a) / (math.pi / 2)
    quarter = round(turn) % 4 if abs(turn - round(turn)) < 0.05 else None
    font = _font(text_object) or 0
    if font not in fonts:
        fonts[font] = _font_traits(font)
    return _Style(size or 1, quarter, *fonts[font])


def _font_traits(font: int) -> tuple[bool, bool, bool]:
    """Whether a font is bold, italic, monospace."""
    if not font:
        return False, False, False
    buffer = ctypes.create_string_buffer(200)
    _font_name(font, buffer, len(buffer))
    name = buffer.value.decode("utf-8", "replace").split("+")[-1]
    flags = _font_flags(font)
    is_bold = bool(_BOLD.search(name)) or flags & _FORCE_BOLD > 0
    is_mono = bool(_MONOSPACE.search(name)) or (flags & _FIXED_PITCH > 0 and not _CHINESE.search(name))
    return is_bold, bool(_ITALIC.search(name)), is_mono


def _segments(characters: list[_Character]) -> list[Segment]:
    segments: list[Segment] = []
    run: list[_Character] = []
    base: _Character | None = None
    places: set[tuple[str, int, int]] = set()

    def end() -> None:
        if not run:
            return
        segment = _segment(run, len(segments))
        run.clear()
        x, y = round(segment.x0), round(segment.y)
        near = {(segment.text, x + i, y + j) for i in (-1, 0, 1) for j in (-1, 0, 1)}
        if segment.text and not near & places:  # not a shadow of the same text
            places.add((segment.text, x, y))
            segments.append(segment)

    for character in characters:
        if base is not None and not _continues(run[-1], base, character):
            end()
            base = None
        if base is None or character.style.size > 1.1 * base.style.size:
            base = character
        run.append(character)
    end()
    return _with_initials(segments)


def _continues(last: _Character, base: _Character, character: _Character) -> bool:
    """Whether the character stands next to the last one, on its line."""
    size, base_size = character.style.size, base.style.size
    larger = max(size, base_size)
    offset = abs(character.y - base.y)
    is_script = max(size, base_size) > 1.15 * min(size, base_size) or abs(last.y - base.y) > 0.1 * larger
    if offset > (0.55 if is_script else 0.25) * larger or larger > 1.9 * min(size, base_size):
        return False
    if abs(character.x0 - last.x0) < 0.01:  # PDFium gives each letter of a ligature the place of the whole
        return True
    gap = character.x0 - last.x1
    widest = (1.6 if character.after_blank or character.style.mono else 1.0) * larger
    return -1.2 * larger < gap < widest if last.text in _ACCENTS else -0.6 * larger < gap < widest


def _segment(run: list[_Character], order: int) -> Segment:
    sizes = Counter[float]()
    for character in run:
        sizes[character.style.size] += 1
    size = max(size for size, count in sizes.items() if count >= 0.25 * len(run) or count == max(sizes.values()))
    ys = Counter(round(character.y, 1) for character in run if character.style.size == size)
    share = len(run) / 2
    latin = [character for character in run if not IS_HAN.match(character.text)]
    is_mono = len(latin) > 0.7 * len(run) and sum(character.style.mono for character in latin) > 0.9 * len(latin)
    return Segment(
        clean(_text(run, is_mono=is_mono)),
        min(character.x0 for character in run),
        max(character.x1 for character in run),
        ys.most_common(1)[0][0],
        size,
        bold=sum(character.style.bold for character in run) > 1.6 * share,
        italic=sum(character.style.italic for character in run) > 1.6 * share,
        mono=is_mono,
        order=order,
    )


def _text(run: list[_Character], *, is_mono: bool) -> str:
    gaps = [character.x0 - last.x1 for last, character in pairwise(run) if character.x0 > last.x0]
    usual_gap = max(0.0, median(gaps)) if len(gaps) > 3 else 0.0  # between the letters of a word that is spaced out
    parts = [run[0].text]
    for last, character in pairwise(run):
        gap = character.x0 - last.x1
        size = min(last.style.size, character.style.size)
        if last.text in _ACCENTS and gap < -0.15 * size and character.text.isalpha():
            parts[-1] = unicodedata.normalize("NFC", character.text + _ACCENTS[last.text])
            continue
        if abs(character.x0 - last.x0) < 0.01:
            parts.append(character.text)
            continue
        if is_mono:
            width = character.x1 - character.x0
            blanks = round(gap / width) if width > 0 else 0
            parts.append(" " * max(blanks, int(character.after_blank)))
        elif IS_HAN.match(last.text) and IS_HAN.match(character.text):
            # A line may be stretched to the width of its column; and punctuation is in the half of its place.
            widest = 0.5 if last.text.isalpha() and character.text.isalpha() else 0.9
            parts.append(" " if gap > widest * size + 1.3 * usual_gap else "")
        elif character.after_blank or gap > 0.17 * size + 1.3 * usual_gap:
            parts.append(" ")
        parts.append(character.text)
    return "".join(parts)


def clean(text: str) -> str:
    """The text without characters that are not for reading; a soft hyphen stays only at its end."""
    text = without_surrogates(text)
    if _ODD_FORMS.search(text):
        text = _ODD_FORMS.sub(lambda found: unicodedata.normalize("NFKC", found.group()), text)
    kept = "".join(c for c in text if c.isprintable() or c in "\u00ad\u200c\u200d").replace("\ufffd", "")
    text = unicodedata.normalize("NFC", kept).strip()
    return text[:-1].replace("\u00ad", "") + text[-1:]


def _with_initials(segments: list[Segment]) -> list[Segment]:
    """Put a large letter, over several lines at the beginning of a text, before the line that it begins."""
    kept = []
    for segment, following in zip(segments, [*segments, None][1:], strict=True):
        if (
            following is not None
            and len(segment.text) == 1
            and segment.text.isupper()
            and segment.size > 1.8 * following.size
            and 0 <= following.x0 - segment.x1 + 0.3 * segment.size < segment.size
            and segment.top - following.size < following.top < segment.y - 0.3 * segment.size
        ):
            following.text = segment.text + following.text
            following.x0 = segment.x0
        else:
            kept.append(segment)
    return kept

"""PDF files for tests: text at given places, in fonts whose letters are all half as wide as they are high."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, radians, sin
from textwrap import wrap

WIDTH, HEIGHT = 600, 800
"""Of a page, in points."""
HAN = "排序算法，又称"
"""The characters of the font `han`."""

_FONTS = {
    "body": "/Type/Font/Subtype/Type1/BaseFont/Helvetica",
    "bold": "/Type/Font/Subtype/Type1/BaseFont/Helvetica-Bold",
    "code": "/Type/Font/Subtype/Type1/BaseFont/Courier",
}


@dataclass(frozen=True)
class Text:
    """Text on a page. `x` and `y` are the beginning of its baseline, from the left and upper edge of the page."""

    x: float
    y: float
    text: str
    size: float = 10
    font: str = "body"
    """`body`, `bold`, `code`, `song` (Chinese), `han`, `unknown`, whose glyphs are of no known letter, or `odd`.

    In `odd`, `A` is a soft hyphen, `B` the ligature fi, `C` a NUL character, `D` half a pair, `E` a radical for 一,
    and `F` a glyph for the three letters ffi. In `han`, `A` to `G` are the characters of `HAN`. `song` has its glyphs
    from a font of the system, and PDFium leaves out a character that is drawn alone and has no glyph."""
    angle: float = 0


def lines(
    x: float, y: float, texts: Sequence[str], *, step: float = 12, size: float = 10, font: str = "body"
) -> list[Text]:
    """Lines below each other."""
    return [Text(x, y + number * step, text, size, font) for number, text in enumerate(texts)]


def paragraph(x: float, y: float, text: str, width: float, *, step: float = 12, size: float = 10) -> list[Text]:
    """A text in lines that are at most `width` points wide."""
    return lines(x, y, wrap(text, int(width / size * 2), break_on_hyphens=False), step=step, size=size)


def pdf(
    pages: Sequence[Sequence[Text]],
    *,
    title: str | None = None,
    outline: Sequence[tuple[int, str, int, float]] = (),
    rotate: int = 0,
    language: str | None = None,
    pictures: Sequence[int] = (),
    size: tuple[int, int] = (WIDTH, HEIGHT),
) -> bytes:
    """Make a PDF.

    Args:
        pages: the texts of each, in the order in which they are drawn.
        title: in the metadata.
        outline: bookmarks: level from 1, title, page from 1, place from the upper edge.
        rotate: `/Rotate` of each page.
        language: of the catalogue.
        pictures: pages (from 1) that show a rectangle.
        size: width and height of each page.
    """
    objects: list[bytes] = [b""] * 3  # catalogue, pages, metadata
    fonts = {name: _add(objects, _font(name)) for name in _FONTS}
    fonts["song"] = _add(objects, _song(objects))
    characters = " ".join(f"<{code:02X}> <{ord(letter):04X}>" for code, letter in enumerate(HAN, ord("A")))
    fonts["han"] = _add(objects, _mapped(objects, f"{len(HAN)} beginbfchar {characters} endbfchar"))
    fonts["unknown"] = _add(objects, _mapped(objects, "1 beginbfrange <20> <FE> <E020> endbfrange"))
    odd = "<41> <00AD> <42> <FB01> <43> <0000> <44> <D800> <45> <2F00> <46> <006600660069>"
    fonts["odd"] = _add(objects, _mapped(objects, f"6 beginbfchar {odd} endbfchar"))
    resources = " ".join(f"/{name} {number} 0 R" for name, number in fonts.items())
    kids = []
    for number, texts in enumerate(pages, 1):
        drawn = "".join(_drawn(text, size[1]) for text in texts) + (
            "10 10 400 400 re f\n" if number in pictures else ""
        )
        content = _add(objects, _stream(drawn.encode("latin-1")))
        kids.append(
            _add(
                objects,
                f"<</Type/Page/Parent 2 0 R/MediaBox[0 0 {size[0]} {size[1]}]/Rotate {rotate}"
                f"/Resources<</Font<<{resources}>>>>/Contents {content} 0 R>>".encode(),
            )
        )
    outlines = _outline(objects, outline, kids, size[1])
    language_entry = f"/Lang({language})" if language else ""
    objects[0] = f"<</Type/Catalog/Pages 2 0 R/Outlines {outlines} 0 R{language_entry}>>".encode()
    objects[1] = f"<</Type/Pages/Count {len(kids)}/Kids[{' '.join(f'{kid} 0 R' for kid in kids)}]>>".encode()
    objects[2] = f"<</Title {_string(title or '')}>>".encode()
    return _file(objects)


def _add(objects: list[bytes], content: bytes) -> int:
    objects.append(content)
    return len(objects)


def _stream(data: bytes) -> bytes:
    return b"<</Length %d>>stream\n%s\nendstream" % (len(data), data)


def _font(name: str) -> bytes:
    width = 600 if name == "code" else 500
    widths = " ".join([*[str(width)] * 223, "900"])  # all the same would make it a monospace font
    return f"<<{_FONTS[name]}/FirstChar 32/LastChar 255/Widths[{widths}]/Encoding/WinAnsiEncoding>>".encode()


def _song(objects: list[bytes]) -> bytes:
    descendant = _add(
        objects,
        b"<</Type/Font/Subtype/CIDFontType0/BaseFont/STSong-Light/DW 1000"
        b"/CIDSystemInfo<</Registry(Adobe)/Ordering(GB1)/Supplement 4>>>>",
    )
    return (
        b"<</Type/Font/Subtype/Type0/BaseFont/STSong-Light/Encoding/UniGB-UCS2-H/DescendantFonts[%d 0 R]>>" % descendant
    )


def _mapped(objects: list[bytes], mapping: str) -> bytes:
    """A font that says which letters its glyphs are."""
    spaces = "1 begincodespacerange <00> <FF> endcodespacerange"
    lines = f"/CIDInit /ProcSet findresource begin begincmap /CMapType 2 def {spaces} {mapping} endcmap end"
    return _font("body")[:-2] + b"/ToUnicode %d 0 R>>" % _add(objects, _stream(lines.encode()))


def _drawn(text: Text, height: float) -> str:
    angle = radians(text.angle)
    matrix = f"{cos(angle):.4f} {sin(angle):.4f} {-sin(angle):.4f} {cos(angle):.4f} {text.x} {height - text.y}"
    if text.font == "song":
        string = f"<{text.text.encode('utf-16-be').hex()}>"
    else:
        string = f"<{text.text.encode('cp1252').hex()}>"
    return f"BT /{text.font} {text.size} Tf {matrix} Tm {string} Tj ET\n"


def _string(text: str) -> str:
    return f"<feff{text.encode('utf-16-be').hex()}>"


def _outline(
    objects: list[bytes], entries: Sequence[tuple[int, str, int, float]], kids: Sequence[int], height: float
) -> int:
    root = _add(objects, b"")
    numbers = [_add(objects, b"") for _ in entries]

    def children(start: int, level: int) -> list[int]:
        found = []
        for index in range(start, len(entries)):
            if entries[index][0] < level:
                break
            if entries[index][0] == level:
                found.append(index)
        return found

    def links(indexes: list[int]) -> str:
        return (
            f"/First {numbers[indexes[0]]} 0 R/Last {numbers[indexes[-1]]} 0 R/Count {len(indexes)}" if indexes else ""
        )

    def write(indexes: list[int], parent: int) -> None:
        for place, index in enumerate(indexes):
            level, title, page, y = entries[index]
            inner = children(index + 1, level + 1)
            before = f"/Prev {numbers[indexes[place - 1]]} 0 R" if place else ""
            after = f"/Next {numbers[indexes[place + 1]]} 0 R" if place + 1 < len(indexes) else ""
            objects[numbers[index] - 1] = (
                f"<</Title {_string(title)}/Parent {parent} 0 R{before}{after}{links(inner)}"
                f"/Dest[{kids[page - 1]} 0 R/XYZ 0 {height - y} 0]>>"
            ).encode()
            write(inner, numbers[index])

    top = children(0, 1)
    objects[root - 1] = f"<</Type/Outlines{links(top)}>>".encode()
    write(top, root)
    return root


def _file(objects: Sequence[bytes]) -> bytes:
    data = b"%PDF-1.7\n"
    places = []
    for number, content in enumerate(objects, 1):
        places.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, content)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    count = len(objects) + 1
    return (
        data
        + b"xref\n0 %d\n0000000000 65535 f \n%s" % (count, table)
        + b"trailer\n<</Size %d/Root 1 0 R/Info 3 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (count, len(data))
    )

"""Plain text. Headings are underlined, or begin with `=`, as in reStructuredText and AsciiDoc."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from unicodedata import east_asian_width

from documents.document import Block, Document, Kind, Report
from documents.formats.content import first_heading, table_block, text_block, with_content
from documents.formats.encodings import read_text

_RULE = re.compile(r"([=\-~^\"'`#*+:.<>_])\1{2,}\s*")
_ASCIIDOC = re.compile(r"(={1,6}) (\w.{0,200}?)(?: =+)?\s*")
_ASCIIDOC_SIGN = re.compile(r"\+|\|={3,}|\[(?:verse|source|quote|NOTE|TIP|WARNING|IMPORTANT|CAUTION|listing)\b.*\]")
_ASCIIDOC_MARKUP = re.compile(
    r"\+|\+{4}|_{4,}|={4,}|\*{4,}|:[\w-]+:(?: .*)?|\[\[.*\]\]|\[[a-zA-Z%.#]+(?:[,=%.#].*)?\]|//.*"
)
_ASCIIDOC_TABLE = "|==="
_ASCIIDOC_MACRO = re.compile(
    r"\b(?:latexmath|stem|footnote|image|xref|link|kbd|btn):{1,2}[^\s\[\]]{0,200}\[([^\[\]]{0,500})\]"
)
_ITEM = re.compile(r"[ \t]*(?:\.{1,3}|[-*•‣·○●▪+]|\(?(?:\d{1,3}(?:\.\d{1,3})*|[a-zA-Z])[.)])[ \t]+\S")
_NUMBER = r"[一二三四五六七八九十百零\d]{1,5}"
_NUMBERED = re.compile(
    rf"(?P<first>第 ?{_NUMBER} ?[章讲课篇部]|(?:chapter|lecture|part|unit|lesson) (?:\d{{1,3}}|[IVX]{{1,5}})\b)"
    r"[^。！？；.!?;]{0,80}|"
    rf"(?P<second>第 ?{_NUMBER} ?节)[^。！？；.!?;]{{0,80}}|"
    r"(?P<number>\d{1,2}(?:\.\d{1,2}){1,4})\.?[ \u3000]+[^\W\d_].{0,80}(?<![。！？；，.!?;,:：])",
    re.IGNORECASE,
)
"""A line of its own that tells by its number what it is."""
_DIRECTIVE = re.compile(r"[ \t]*\.\. (?:([\w:.-]+)::|\[[^\]]+\]|_|\||(?=\S))[ \t]*")
_CODE_DIRECTIVES = ("code", "code-block", "sourcecode", "parsed-literal", "math", "prompt")
_NO_TEXT = ("index", "toctree", "contents", "include", "image", "raw", "highlight", "testsetup")
_ASCIIDOC_LISTING = re.compile(r"(-{4,}|\.{4,}|`{3,}|~{3,})[\w ]*\s*")
_ROLE = re.compile(r":[a-zA-Z][\w:+-]{0,40}:`([^`]{1,300})`")
_REFERENCE = re.compile(r"`([^`<]{1,300}?)\s*<[^<>`]{1,300}>`_{1,2}")
_GRID = re.compile(r"\+-[-+]*-\+")
_COLUMNS = re.compile(r"=+(?: +=+)+")
_LONGEST_TITLE = 150
_LONGEST_LISTING = 500
"""Lines. Without a limit, each of many lines would search the rest of the file."""
_REPORT_EVERY = 10_000


def read(path: Path, report: Report) -> Document:
    """Read a text file.

    Raises:
        UnreadableFileError: It is no text, or empty.
    """
    lines = [line.rstrip() for line in read_text(path).expandtabs(4).split("\n")]
    blocks = list(_Reader(lines, report).blocks())
    return with_content(Document("text", first_heading(blocks), None, blocks))


class _Found(NamedTuple):
    """What a line begins."""

    blocks: list[Block]
    end: int
    """The position of the line after it."""


class _Reader:
    def __init__(self, lines: list[str], report: Report) -> None:
        self._lines = lines
        self._report = report
        self._is_asciidoc = any(_ASCIIDOC.fullmatch(line) or _ASCIIDOC_SIGN.fullmatch(line) for line in lines)
        self._styles: list[tuple[str, bool]] = []
        """The underlines in the order of their levels, each with whether there is a line above, too."""

    def blocks(self) -> Iterator[Block]:
        """The blocks of the lines."""
        position, next_report = 0, _REPORT_EVERY
        kinds = (self._asciidoc, self._heading, self._listing, self._table, self._directive)
        while position < len(self._lines):
            if position >= next_report:
                self._report(position / len(self._lines))
                next_report = position + _REPORT_EVERY
            if not self._lines[position]:
                position += 1
                continue
            found = next((found for kind in kinds if (found := kind(position))), None) or self._paragraph(position)
            position = found.end
            yield from found.blocks

    def _asciidoc(self, position: int) -> "_Found | None":
        """A table, or a line that only marks what follows."""
        line = self._lines[position]
        if not self._is_asciidoc:
            return None
        if title := _ASCIIDOC.fullmatch(line):
            return _Found(text_block(title[2], Kind.HEADING, level=len(title[1])), position + 1)
        if line.startswith(_ASCIIDOC_TABLE):
            end = next((n for n in range(position + 1, len(self._lines)) if self._lines[n] == line), position)
            rows = [row for row in self._lines[position + 1 : end] if row.startswith("|")]
            return _Found(table_block(map(_cells, rows)), end + 1)
        return _Found([], position + 1) if _ASCIIDOC_MARKUP.fullmatch(line) else None

    def _heading(self, position: int) -> "_Found | None":
        line, rule, second = [*self._lines[position : position + 3], "", ""][:3]
        if _RULE.fullmatch(line):
            # A line above and one below a title. Otherwise it is a mere rule.
            if rule and second == line and not self._is_asciidoc:
                return _Found(self._underlined(rule, line, overline=True), position + 3)
            return None if rule else _Found([], position + 1)
        if not rule and (position == 0 or not self._lines[position - 1]) and (number := _NUMBERED.fullmatch(line)):
            level = 1 if number["first"] else 2 if number["second"] else number["number"].count(".") + 1
            return _Found(text_block(line, Kind.HEADING, level=level), position + 1)
        if len(line) > _LONGEST_TITLE or not _RULE.fullmatch(rule) or not re.match(r"[\w(\[“\"'`:|\\/.-]", line):
            return None
        width = sum(1 + (east_asian_width(character) in "WF") for character in line)
        # AsciiDoc has listings between such lines, too: it knows underlines by their length.
        if len(rule) < min(len(line), width - 2) - 2 or (self._is_asciidoc and len(rule) > width + 2):
            return None
        return _Found(self._underlined(line, rule, overline=False), position + 2)

    def _underlined(self, title: str, rule: str, *, overline: bool) -> list[Block]:
        style = (rule[0], overline)
        if style not in self._styles:
            self._styles.append(style)
        return text_block(_plain(title), Kind.HEADING, level=self._styles.index(style) + 1)

    def _table(self, position: int) -> "_Found | None":
        """A table of reStructuredText."""
        border = self._lines[position].strip()
        if not (is_grid := bool(_GRID.fullmatch(border))) and not _COLUMNS.fullmatch(border):
            return None
        end = position
        while end < len(self._lines) and self._lines[end]:
            end += 1
        found = re.finditer(r"\+(?=-)" if is_grid else "=+", self._lines[position])
        starts = [match.start() + is_grid for match in found]
        ends = [*(start - is_grid for start in starts[1:]), None]
        columns = [slice(start, stop) for start, stop in zip(starts, ends, strict=True)]
        rows: list[list[str]] = []
        is_new = True
        for line in self._lines[position:end]:
            if re.fullmatch(r"\s*(?:\+[-=+]+\+|[=-]+(?: +[=-]+)*)", line):
                is_new = True
                continue
            cells = [_plain(line[part].strip(" |")) for part in columns]
            if is_new or (not is_grid and cells[0]):
                rows.append(cells)
            else:
                rows[-1] = [f"{above}\n{cell}" for above, cell in zip(rows[-1], cells, strict=True)]
            is_new = False
        return _Found(table_block(rows), end) if rows else None

    def _listing(self, position: int) -> "_Found | None":
        """Code between two equal lines."""
        fence = self._lines[position]
        if not _ASCIIDOC_LISTING.fullmatch(fence):
            return None
        for end in range(position + 2, min(position + _LONGEST_LISTING, len(self._lines))):
            if self._lines[end] == fence:
                return _Found(text_block("\n".join(self._lines[position + 1 : end]), Kind.CODE), end + 1)
        return None

    def _directive(self, position: int) -> "_Found | None":
        """A directive or a comment of reStructuredText."""
        line = self._lines[position]
        directive = _DIRECTIVE.match(line)
        if not directive:
            return None
        end = self._end_of_indented(position + 1, _indent(line))
        if directive[1] in _CODE_DIRECTIVES:
            return _Found(self._code(position + 1, end), end)
        if not directive[1] or directive[1] in _NO_TEXT:
            return _Found([], end)
        return _Found([], self._after_options(position + 1))

    def _paragraph(self, position: int) -> "_Found":
        """A paragraph or an item of a list, and the code that it announces with `::`."""
        end = position + 1
        while end < len(self._lines) and self._lines[end]:
            if _ITEM.match(self._lines[end]) or self._is_markup(end):
                break
            end += 1
        text = "\n".join(self._lines[position:end])
        end_of_code = self._end_of_indented(end, _indent(self._lines[position]))
        if not text.endswith("::") or self._is_asciidoc or end_of_code == end:
            return _Found(text_block(_plain(text)), end)
        introduction = text[:-2].rstrip()
        return _Found(
            [*text_block(_plain(f"{introduction}:" if introduction else "")), *self._code(end, end_of_code)],
            end_of_code,
        )

    def _is_markup(self, position: int) -> bool:
        line = self._lines[position]
        return self._is_asciidoc and any(
            pattern.fullmatch(line) for pattern in (_ASCIIDOC_LISTING, _ASCIIDOC_MARKUP, _ASCIIDOC_SIGN)
        )

    def _end_of_indented(self, position: int, indent: int) -> int:
        """The position after the lines that are indented more."""
        end = position
        for number in range(position, len(self._lines)):
            if self._lines[number]:
                if _indent(self._lines[number]) <= indent:
                    break
                end = number + 1
        return end

    def _after_options(self, position: int) -> int:
        while position < len(self._lines) and re.match(r"\s+:[\w-]+:", self._lines[position]):
            position += 1
        return position

    def _code(self, position: int, end: int) -> list[Block]:
        lines = self._lines[self._after_options(position) : end]
        common = min((_indent(line) for line in lines if line), default=0)
        return text_block("\n".join(line[common:] for line in lines), Kind.CODE)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))


def _cells(row: str) -> list[str]:
    return [_plain(cell) for cell in row.split("|")[1:]]


def _plain(text: str) -> str:
    """Without the marks of reStructuredText and AsciiDoc around references."""
    text = _ASCIIDOC_MACRO.sub(r"\1", text)
    return _ROLE.sub(lambda found: found[1].split(" <")[0], _REFERENCE.sub(r"\1", text)).replace("``", "`")

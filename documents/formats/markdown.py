"""Markdown: CommonMark with tables, front matter and formulas."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from documents.document import Block, Document, Kind, Report
from documents.formats.content import (
    RAISED,
    alternative_text,
    first_heading,
    language_code,
    paragraph,
    table_block,
    text_block,
    with_content,
)
from documents.formats.encodings import read_text

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.rules_block import StateBlock
    from markdown_it.rules_inline import StateInline
    from markdown_it.token import Token

_FRONT_MATTER = re.compile(r"\A\s*(---|\+\+\+)[ \t]*\n(.{0,5000}?\n)?(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL)
_FORMULA = re.compile(
    r"\$\$.{1,5000}?\$\$|\$(?![\s$])(?:[^$\n\\]|\\.){1,500}?(?<!\s)\$(?!\d)|\\\(.{1,500}?\\\)|\\\[.{1,5000}?\\\]",
    re.DOTALL,
)
_ATTRIBUTES = re.compile(r"\s*\{[#.:][^{}]*\}\s*$")
_COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
_MOST_NESTED = 40
"""Lists and quotations within each other; what is deeper is left out. Each takes some of Python's stack."""


def read(path: Path, report: Report) -> Document:
    """Read a Markdown file.

    Raises:
        UnreadableFileError: It contains no text.
    """
    properties, body = front_matter(read_text(path))
    report(0.1)
    blocks = read_blocks(body)
    language = language_code(properties.get("language") or properties.get("lang"))
    return with_content(Document("markdown", properties.get("title") or first_heading(blocks), language, blocks))


def front_matter(text: str) -> tuple[dict[str, str], str]:
    """The properties that a text has before it begins (YAML or TOML), and the text.

    Properties that are no text are left out.
    """
    found = _FRONT_MATTER.match(text)
    if not found:
        return {}, text
    properties = _properties(found[1], found[2] or "")
    return ({}, text) if properties is None else (properties, text[found.end() :])


def _properties(fence: str, text: str) -> dict[str, str] | None:
    import tomllib

    import yaml

    try:
        # The base loader makes nothing but text, lists and mappings. The one in C is there in all usual builds.
        loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
        content: Any = tomllib.loads(text) if fence == "+++" else yaml.load(text, loader)  # noqa: S506
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None  # a text between two lines
    return {
        str(key).lower(): paragraph(value)
        for key, value in content.items()
        if isinstance(value, str) and paragraph(value)
    }


def read_blocks(text: str) -> list[Block]:
    """The blocks of a text in Markdown, without front matter."""
    return list(_Reader().blocks(_parser().parse(text)))


def _parser() -> "MarkdownIt":
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"maxNesting": _MOST_NESTED}).enable(["table", "strikethrough"])
    # Before escapes and emphasis, which would take `\\`, `_` and `*` out of a formula.
    parser.inline.ruler.before("escape", "formula", _formula)
    parser.block.ruler.before("fence", "formula", _formula_block, {"alt": ["paragraph", "reference", "blockquote"]})
    return parser


def _formula(state: "StateInline", silent: bool) -> bool:
    if state.src[state.pos] not in "$\\":
        return False
    found = _FORMULA.match(state.src, state.pos, state.posMax)
    if not found:
        return False
    if not silent:
        state.push("formula", "", 0).content = found[0]
    state.pos = found.end()
    return True


def _formula_block(state: "StateBlock", start: int, end: int, silent: bool) -> bool:
    """`$$` at the beginning of a line, up to the line that ends with `$$`."""
    begin = state.bMarks[start] + state.tShift[start]
    if not state.src.startswith("$$", begin):
        return False
    for line in range(start, end):
        text = state.src[max(state.bMarks[line], begin + 2 if line == start else 0) : state.eMarks[line]].rstrip()
        if text.endswith("$$"):
            break
        if not text and line > start:
            return False  # a paragraph ends here
    else:
        return False
    if not silent:
        token = state.push("formula_block", "", 0)
        token.content = state.getLines(start, line + 1, state.blkIndent, False)
        token.map = [start, line + 1]
        state.line = line + 1
    return True


class _Reader:
    def __init__(self) -> None:
        self._level = 0
        """Of the heading that is read."""
        self._rows: list[list[str]] = []
        """Of the table that is read."""
        self._lists: list[int | None] = []
        """Of each list around: the number of the next item; None if it has bullets."""
        self._prefix = ""

    def blocks(self, tokens: Sequence["Token"]) -> Iterator[Block]:
        """The blocks of a text, in their order."""
        for token in tokens:
            self._follow(token)
            if token.type == "inline":
                yield from self._text(_inline(token))
            elif token.type in ("fence", "code_block"):
                yield from text_block(token.content, Kind.CODE)
            elif token.type == "formula_block":
                yield from text_block(token.content)
            elif token.type == "html_block":
                yield from _html(token.content)
            elif token.type == "table_close":
                yield from table_block(self._rows)
                self._rows = []

    def _follow(self, token: "Token") -> None:
        """Keep in mind what the next text belongs to."""
        match token.type:
            case "heading_open":
                self._level = int(token.tag[1])
            case "heading_close":
                self._level = 0
            case "bullet_list_open":
                self._lists.append(None)
            case "ordered_list_open":
                self._lists.append(int(token.attrs.get("start", 1)))
            case "bullet_list_close" | "ordered_list_close":
                self._lists.pop()
            case "list_item_open":
                number = self._lists[-1]
                self._prefix = "- " if number is None else f"{number}. "
                self._lists[-1] = None if number is None else number + 1
            case "list_item_close":
                self._prefix = ""
            case "tr_open":
                self._rows.append([])

    def _text(self, text: str) -> list[Block]:
        if self._level:
            return text_block(_ATTRIBUTES.sub("", text), Kind.HEADING, level=self._level)
        if self._rows:
            self._rows[-1].append(text)
            return []
        if not paragraph(text):
            return []
        prefix, self._prefix = self._prefix, ""
        return text_block(prefix + text)


def _html(html: str) -> Iterator[Block]:
    html = _COMMENT.sub("", html)
    if html.strip():
        from documents.formats.html import read_fragment

        yield from read_fragment(html)


def _inline(token: "Token") -> str:
    """The text that a reader sees: of a link its text, of a picture its description."""
    pieces = []
    children = token.children or []
    for number, child in enumerate(children):
        if child.type == "html_inline" and child.content.lower() == "<sup>":
            is_raised = number + 1 < len(children) and RAISED.fullmatch(children[number + 1].content)
            pieces.append("^" if is_raised else "")
        elif child.type == "image":
            pieces.append(alternative_text(child.content))
        elif child.type in ("softbreak", "hardbreak") or (child.type == "html_inline" and child.content[:3] == "<br"):
            pieces.append("\n")
        elif child.type in ("text", "code_inline", "formula", "text_special"):
            pieces.append(child.content)
    return "".join(pieces)

"""Web pages: the content of the article, without navigation, scripts and banners."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from documents.document import Block, Document, Kind, Report
from documents.formats.content import (
    RAISED,
    alternative_text,
    cleaned,
    first_heading,
    language_code,
    paragraph,
    table_block,
    text_block,
    with_content,
)
from documents.formats.encodings import decode
from models.text import is_blank

if TYPE_CHECKING:
    from selectolax.lexbor import LexborNode

_DROPPED_TAG = re.compile(
    "audio|button|canvas|datalist|dialog|embed|footer|frameset|head|iframe|input|map|menu|nav|noscript|object|option|"
    "param|script|select|style|svg|template|textarea|title|video"
)
_AROUND_ARTICLE = ("header", "aside")
"""Dropped outside the article; inside it they are its title and its remarks."""
_DROPPED_ROLE = re.compile("alert|banner|complementary|contentinfo|dialog|navigation|search|toolbar")
_DROPPED_NAME = re.compile(
    "anchor-link|anchorjs-link|breadcrumbs?|footer|footnote-(?:back|backref|ref)|headerlink|linenos?|"
    "MathJax(?:_Preview|_SVG)?|mw-(?:editsection|jump-link)|nav|nav-?panel|nav(?:bar|box|footer|header|igation)|page-toc|"
    "pagination|permalink|prev-next-area|related|search-form|(?:sphinx)?sidebar|site-(?:footer|header)|"
    "skip-(?:link|to-content)|table-of-contents|toc|toctree-wrapper|visually-hidden"
)
"""Classes and ids of what is around the content, in the programs that make documentation."""
_BANNER = re.compile(
    r"(cookie|gdpr|consent)s?[-_]?(banner|bar|consent|dialog|message|modal|notice|popup)", re.IGNORECASE
)
_HIDDEN = re.compile(r"(display\s*:\s*none|visibility\s*:\s*hidden)", re.IGNORECASE)
_BLOCK = re.compile(
    "address|article|aside|blockquote|body|caption|center|d[dlt]|details|div|fieldset|fig(?:caption|ure)|footer|form|"
    "header|hgroup|hr|html|legend|li|main|ol|p|section|summary|table|tbody|t[dhr]|tfoot|thead|ul"
)
_HEADING = re.compile("h[1-6]")
_LAYOUT = re.compile("pre|table|h[1-6]|[uod]l")
"""What a cell of a table of data does not contain: such a table arranges the page."""
_MARK_AT_HEADING = re.compile(r"\s*[¶§#🔗]\s*$")
_TURNS_PAGE = re.compile(r"\b(next|prev|previous|up)\b")
_LEAST_LINKS = 3
_CHARSET = re.compile(rb"""<meta[^>]{0,200}charset\s*=\s*["']?\s*([\w-]{2,40})""", re.IGNORECASE)
_REPORT_EVERY = 5_000


def read(path: Path, report: Report) -> Document:
    """Read a web page.

    Raises:
        UnreadableFileError: It contains no text.
    """
    from selectolax.lexbor import LexborHTMLParser

    content = path.read_bytes()
    declared = _CHARSET.search(content[:4096])
    page = LexborHTMLParser(cleaned(decode(content, declared and declared[1].decode("ascii", "replace"))))
    root = page.root
    if root is None:
        return with_content(Document("html"))
    blocks = list(_Reader(report).blocks(root))
    article = _article(root)
    if article is not None:
        inner = list(_Reader(report, within_article=True).blocks(article))
        # A page may have an empty or a second `main`, and its text elsewhere.
        if 10 * _length(inner) > _length(blocks):
            blocks = inner
    language = root.attributes.get("lang") or root.attributes.get("xml:lang")
    return with_content(Document("html", _title(root, blocks), language_code(language), blocks))


def read_fragment(html: str) -> list[Block]:
    """The blocks of a piece of HTML, as Markdown may contain it."""
    from selectolax.lexbor import LexborHTMLParser

    root = LexborHTMLParser(html).root
    return [] if root is None else list(_Reader(within_article=True).blocks(root))


def _article(root: "LexborNode") -> "LexborNode | None":
    for selector in ("main", "[role=main]", "article"):
        found = root.css(selector)
        if len(found) == 1:
            return found[0]
    return None


def _length(blocks: list[Block]) -> int:
    return sum(len(block.text) for block in blocks)


def _title(root: "LexborNode", blocks: list[Block]) -> str | None:
    """The title, or the first heading where the title is no more than this and the name of the site."""
    element = root.css_first("head > title")
    title = paragraph(cleaned(element.text() if element is not None else ""))
    heading = first_heading(blocks)
    return heading if not title or (heading and heading in title) else title


class _Reader:
    """Walks the tree without recursion: pages may be nested deeper than Python's stack."""

    def __init__(self, report: Report | None = None, *, within_article: bool = False) -> None:
        self._report = report
        self._within_article = within_article
        self._inline: list[str] = []
        self._prefix = ""
        self._has_heading = False
        self._lists: list[int | None] = []
        """Of each list around it: the number of its last item; None if it has bullets."""

    def blocks(self, root: "LexborNode") -> Iterator[Block]:
        """The blocks below a node, in their order."""
        seen = 0
        # (node, whether its children have been read)
        stack: list[tuple[LexborNode, bool]] = [(root, False)]
        while stack:
            node, is_left = stack.pop()
            tag = node.tag or ""
            if is_left:
                yield from self._leave(tag)
                continue
            seen += 1
            if self._report and seen % _REPORT_EVERY == 0:
                self._report(seen / (seen + len(stack) + _REPORT_EVERY))
            if node.is_text_node:
                self._inline.append(node.text_content or "")
                continue
            if not node.is_element_node or self._is_dropped(node, tag):
                continue
            if (special := self._special(node, tag)) is not None:
                yield from special
                continue
            yield from self._enter(node, tag)
            stack.append((node, True))
            stack.extend((child, False) for child in reversed(list(node.iter(include_text=True))))
        yield from self._flush()

    def _is_dropped(self, node: "LexborNode", tag: str) -> bool:
        if _DROPPED_TAG.fullmatch(tag) and not (tag == "script" and "math/tex" in (node.attributes.get("type") or "")):
            return True
        if tag in _AROUND_ARTICLE and not self._within_article:
            return True
        attributes = node.attributes
        if not attributes:
            return False
        if tag == "math":
            return False  # hidden from the eye beside a picture of the formula
        names = f"{attributes.get('class') or ''} {attributes.get('id') or ''}"
        return (
            "hidden" in attributes
            or attributes.get("aria-hidden") == "true"
            or bool(_DROPPED_ROLE.fullmatch(attributes.get("role") or ""))
            or any(map(_DROPPED_NAME.fullmatch, names.split()))
            or bool(_HIDDEN.search(attributes.get("style") or ""))
            or bool(_BANNER.search(names))
        )

    def _special(self, node: "LexborNode", tag: str) -> list[Block] | None:
        """The blocks of an element that is read as a whole; None if its children are read one by one."""
        if tag == "pre":
            return [*self._flush(), *text_block(_text(node), Kind.CODE)]
        if _HEADING.fullmatch(tag):
            title = _MARK_AT_HEADING.sub("", paragraph(_text(node)))
            self._has_heading = True
            return [*self._flush(), *text_block(title, Kind.HEADING, level=int(tag[1]))]
        if tag == "table" and not _is_layout(node):
            return [*self._flush(), *_table(node)]
        if tag in ("img", "br", "math", "script", "sup"):
            self._inline.append(_inline(node, tag))
            return []
        if tag in ("ul", "ol", "p") and not self._lists and self._is_menu(node, tag):
            return self._flush()
        return None

    def _is_menu(self, node: "LexborNode", tag: str) -> bool:
        """Whether it leads to other pages or parts of this one: a menu, a table of contents, `next` and `previous`."""
        links = node.css("a[href]")
        if any(map(_turns_page, links)):
            return True
        if tag == "p":
            return False
        if len(links) < _LEAST_LINKS or (self._has_heading and not all(map(_is_within_page, links))):
            return False
        return 10 * sum(len(link.text().strip()) for link in links) > 9 * len(paragraph(node.text()))

    def _enter(self, node: "LexborNode", tag: str) -> Iterator[Block]:
        if _BLOCK.fullmatch(tag):
            yield from self._flush()
        if tag in ("ul", "ol"):
            start = node.attributes.get("start") or "1"
            first = int(start) if start.isdecimal() and len(start) < 9 else 1
            self._lists.append(first - 1 if tag == "ol" else None)
        elif tag == "li":
            number = self._lists[-1] if self._lists else None
            if number is not None:
                self._lists[-1] = number + 1
            self._prefix = "- " if number is None else f"{number + 1}. "

    def _leave(self, tag: str) -> Iterator[Block]:
        if _BLOCK.fullmatch(tag):
            yield from self._flush()
        if tag in ("ul", "ol"):
            self._lists.pop()
        if tag == "li":
            self._prefix = ""

    def _flush(self) -> list[Block]:
        text = paragraph("".join(self._inline))
        self._inline.clear()
        if is_blank(text):
            return []
        prefix, self._prefix = self._prefix, ""
        return text_block(prefix + text)


def _turns_page(link: "LexborNode") -> bool:
    attributes = link.attributes
    # The keys that DocBook gives to: next, previous, up, home.
    return bool(_TURNS_PAGE.search(attributes.get("rel") or "")) or attributes.get("accesskey") in ("n", "p", "u", "h")


def _is_within_page(link: "LexborNode") -> bool:
    return (link.attributes.get("href") or "").startswith("#")


def _inline(node: "LexborNode", tag: str) -> str:
    attributes = node.attributes
    if tag == "br":
        return "\n"
    if tag == "img":
        return alternative_text(attributes.get("alt"))
    if tag == "sup":
        text = _text(node, is_within_line=True)
        return f"^{text}" if RAISED.fullmatch(text.strip()) else text
    if tag == "math":
        source = node.css_first("annotation[encoding='application/x-tex']")
        formula = (source.text() if source is not None else attributes.get("alttext")) or _text(
            node, is_within_line=True
        )
    else:
        formula = node.text()
    formula = paragraph(cleaned(formula))
    return f"${formula}$" if formula else ""


def _text(root: "LexborNode", *, is_within_line: bool = False) -> str:
    """The text below a node with its line ends, without what is dropped.

    Within a line there are no further formulas and exponents: they may be nested deeper than Python's stack.
    """
    special = ("img", "br") if is_within_line else ("img", "br", "math", "script", "sup")
    reader = _Reader(within_article=True)
    pieces: list[str] = []
    stack = [root]
    while stack:
        node = stack.pop()
        tag = node.tag or ""
        if node.is_text_node:
            pieces.append(node.text_content or "")
        elif node.is_element_node and (node is root or not reader._is_dropped(node, tag)):
            if node is not root and tag in special:
                pieces.append(_inline(node, tag))
                continue
            if _BLOCK.fullmatch(tag) and node is not root:
                pieces.append("\n")
            stack.extend(reversed(list(node.iter(include_text=True))))
    return cleaned("".join(pieces))


def _is_layout(table: "LexborNode") -> bool:
    if table.attributes.get("role") in ("presentation", "none"):
        return True
    return any(_LAYOUT.fullmatch(node.tag or "") for node in table.traverse() if node.mem_id != table.mem_id)


def _table(table: "LexborNode") -> list[Block]:
    rows: list[list[str]] = []
    blocks: list[Block] = []
    for node in table.traverse():
        if node.tag == "caption":
            blocks += text_block(_text(node))
        elif node.tag == "tr":
            rows.append([])
        elif node.tag in ("td", "th") and rows:
            rows[-1].append(_text(node))
    return [*blocks, *table_block(rows)]

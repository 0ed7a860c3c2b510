"""The pages of the documentation, and what is in them."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parents[2]
MARKDOWN = MarkdownIt("commonmark").enable("table")
SHELLS = ("console", "sh", "bash")


@dataclass(frozen=True)
class Page:
    """A page, by its path from the root of the repository."""

    path: str

    @cached_property
    def text(self) -> str:
        return (ROOT / self.path).read_text("utf-8")

    @cached_property
    def tokens(self) -> list[Token]:
        return MARKDOWN.parse(self.text)

    @cached_property
    def spans(self) -> list[Token]:
        """What is in the lines: words, code, links, pictures."""
        return [child for token in self.tokens for child in token.children or ()]

    @property
    def blocks(self) -> list[tuple[str, str]]:
        """Language and content of each block of code."""
        return [(token.info.strip(), token.content) for token in self.tokens if token.type == "fence"]

    @property
    def code(self) -> list[str]:
        """The code within the lines."""
        return [" ".join(span.content.split()) for span in self.spans if span.type == "code_inline"]

    @property
    def links(self) -> list[str]:
        """Where links lead, and where pictures are."""
        targets = (span.attrGet("href") or span.attrGet("src") for span in self.spans)
        return [str(target) for target in targets if target]

    @cached_property
    def headings(self) -> list[str]:
        following = zip(self.tokens, self.tokens[1:], strict=False)
        return [after.content for token, after in following if token.type == "heading_open"]

    @cached_property
    def anchors(self) -> set[str]:
        """As GitHub makes them."""
        texts = (re.sub(r"[`*\\]|\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in self.headings)
        return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in texts}

    @property
    def commands(self) -> Iterator[list[str]]:
        """The words of every command in the blocks for a shell."""
        for language, content in self.blocks:
            if language in SHELLS:
                yield from commands_in(content)

    @property
    def mentions(self) -> Iterator[list[str]]:
        """The words of every command within the lines. Arguments may be missing."""
        for code in self.code:
            if re.match(r"(\.venv/bin/)?(course-search|make|curl|alembic|uvicorn|python -m) [^|]+$", code):
                yield from commands_in(code)


def commands_in(script: str) -> Iterator[list[str]]:
    """The words of each command of a script, without assignments before it."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        while words:
            end = next((place for place, word in enumerate(words) if word in ("|", "||", "&&", ";")), len(words))
            command = words[:end]
            while command and re.match(r"(export$|[A-Za-z_]+=)", command[0]):
                command = command[1:]
            if command:
                yield command
            words = words[end + 1 :]


PAGES = [
    Page(str(path.relative_to(ROOT)))
    for path in sorted((*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("course_search_client/*.md")))
    if path.name != "CHANGELOG.md"
]
WRITTEN = [page for page in PAGES if not page.path.startswith(("docs/adr/", "docs/reference/"))]
"""The pages that people write, without the decisions, which keep what they were when they were made."""

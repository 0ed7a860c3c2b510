"""The context of a chunk: the titles above its text, from its metadata. It is embedded and indexed with the text.

A text seldom repeats the heading under which it stands, although the heading may be the only place that names its
subject. The text that a search returns does not contain the context.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

from models.tables import Chunk
from models.text import is_blank, without_surrogates

SEPARATOR = " > "
MAX_CHARACTERS = 200
"""Upper limit of the length of a context."""
NO_FIELDS = "none"
"""The value of CONTEXT_FIELDS for no context. An empty setting means the default."""
VECTOR_WEIGHT = 0.08
"""Weight of the last title in the vector of a chunk; the text has the weight 1."""
GENERAL_FACTOR = 0.25
"""Weight of a title, divided by that of the title after it."""
RECIPE = f"{VECTOR_WEIGHT} {GENERAL_FACTOR}"
"""How a context enters a vector. It is part of the hashes, so a change embeds all chunks that have a context again."""
FORGOTTEN = "\n"
"""The context of a record whose vector was made with another context than the chunk has now. No chunk has this one."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True)
class ContextFields:
    """Which fields of the chunks' metadata are context."""

    names: tuple[str, ...] = ()
    """From the general to the specific, such as the titles of lecture and section."""

    @classmethod
    def parse(cls, names: str) -> Self:
        """The fields of the setting CONTEXT_FIELDS: names with commas between them."""
        stripped = dict.fromkeys(name.strip() for name in names.split(","))
        return cls(tuple(name for name in stripped if name and name != NO_FIELDS))

    def of(self, chunk: Chunk) -> str:
        """The context of a chunk: one line, like `Heaps > Building a heap`; empty if it has none.

        A field contains a title or a list of titles; anything else is ignored. A title that is repeated counts once. If
        the context is too long, general titles are left out, and the last one is cut.
        """
        distinct: dict[str, str] = {}
        for title in self._titles(chunk):
            distinct.setdefault(title.casefold(), title)
        titles = list(distinct.values())
        while len(titles) > 1 and len(SEPARATOR.join(titles)) > MAX_CHARACTERS:
            del titles[0]
        return SEPARATOR.join(titles)[:MAX_CHARACTERS].rstrip()

    def _titles(self, chunk: Chunk) -> Iterator[str]:
        metadata = chunk.extra if isinstance(chunk.extra, dict) else {}
        for name in self.names:
            value = metadata.get(name)
            for title in value if isinstance(value, list) else [value]:
                if isinstance(title, str) and not is_blank(title):
                    yield " ".join(_CONTROLS.sub(" ", without_surrogates(title)).split())


NO_CONTEXT = ContextFields()


def weighted_titles(context: str) -> Iterator[tuple[str, float]]:
    """The titles of a context with their weights: the last has weight 1, and each one before it a quarter of the next.

    A title that stands above many chunks distinguishes them less than the heading directly above the text.
    """
    weight = 1.0
    for title in reversed(context.split(SEPARATOR)):
        if title.strip():
            yield title, weight
            weight *= GENERAL_FACTOR

"""Long queries are searched by what fits: SEARCH_MAX_QUERY_CHARS characters, EMBEDDING_MAX_TOKENS tokens.

The answer says what was left out. The size of a request is limited by MAX_REQUEST_BYTES.
"""

from collections.abc import Mapping, Sequence
from string import ascii_letters, digits
from typing import Any, NamedTuple

from models.text import cut_at_word, without_blank_start
from search_api.embeddings.service import EmbeddedQuery


class FittedQuery(NamedTuple):
    """The part of a query that is searched."""

    text: str
    """It ends at the end of a word."""
    all_characters: int
    """Length of the whole query; that of `text` if nothing but white space at its ends was left out."""


_PLAIN = {0xFEE0 + ord(character): character for character in ascii_letters + digits}
"""Full-width letters and digits, which an input method for Chinese types; models do not know them."""


def fitted(query: str, max_characters: int) -> FittedQuery:
    """The query with plain letters and digits, cut if it is longer than `max_characters` code points."""
    query = query.translate(_PLAIN)
    if len(query) <= max_characters:
        return FittedQuery(query, len(query))
    visible = without_blank_start(query).rstrip()
    return FittedQuery(cut_at_word(visible, max_characters), len(visible))


def query_cuts(queries: Sequence[FittedQuery], embedded: Mapping[str, EmbeddedQuery]) -> list[dict[str, Any]] | None:
    """What was left out of each query that was cut, as `QueryCut` documents it; None if nothing was.

    Args:
        queries: The queries of the request.
        embedded: The vectors by text; empty if the search needs none.
    """
    cuts = []
    for index, (text, all_characters) in enumerate(queries):
        characters = _cut(len(text), all_characters)
        tokens = _cut(embedded[text].tokens, embedded[text].all_tokens) if text in embedded else None
        if characters or tokens:
            cuts.append({"query": index, "characters": characters, "tokens": tokens})
    return cuts or None


def _cut(used: int, whole: int) -> dict[str, int] | None:
    return {"used": used, "of": whole} if used < whole else None

"""Finds the words of a query in a text, so that a page can highlight them.

The text goes through the same analyser as the keyword index, so the highlighted words are those that BM25 counts. That
takes about 0.2 ms per text, so the tokens of recent texts are cached.
"""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from retrieval.keywords.analysis import analyse

CACHED_TEXTS = 4096
"""Maximum number of texts whose tokens are cached; about 3 KB per text."""


def matches(text: str, query_terms: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of each match in code points, ascending. Overlapping and adjacent matches are merged."""
    wanted = frozenset(query_terms)
    spans: list[tuple[int, int]] = []
    for start, end in sorted((start, end) for term, start, end in zip(*_tokens(text), strict=True) if term in wanted):
        if spans and start <= spans[-1][1]:
            spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


class _Tokens(NamedTuple):
    """The tokens of a text as three columns, which take a tenth of the memory of `Token` objects."""

    terms: tuple[str, ...]
    starts: "array[int]"
    ends: "array[int]"


@lru_cache(CACHED_TEXTS)
def _tokens(text: str) -> _Tokens:
    tokens = analyse(text)
    return _Tokens(
        tuple(token.term for token in tokens),
        array("I", (token.start for token in tokens)),
        array("I", (token.end for token in tokens)),
    )

"""Finds the words of a query in a text, for a page to mark.

The whole text is analysed by the same analyser as the index, so what is marked is what was found. That takes about 0.2
ms per text, so the tokens of recently shown texts are kept.
"""

from array import array
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from retrieval.keywords.analysis import analyse

KEPT_TEXTS = 4096
"""Texts whose tokens are kept; about 3 KB each."""


def matches(text: str, query_terms: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of each match in code points, in reading order and without overlaps."""
    wanted = frozenset(query_terms)
    spans: list[tuple[int, int]] = []
    for term, start, end in zip(*_tokens(text), strict=True):
        if term not in wanted:
            continue
        if spans and start <= spans[-1][1]:
            spans[-1] = (min(start, spans[-1][0]), max(end, spans[-1][1]))
        else:
            spans.append((start, end))
    return spans


class _Tokens(NamedTuple):
    """The tokens of a text as three columns, which takes a tenth of the memory of token objects."""

    terms: tuple[str, ...]
    starts: "array[int]"
    ends: "array[int]"


@lru_cache(KEPT_TEXTS)
def _tokens(text: str) -> _Tokens:
    tokens = analyse(text)
    return _Tokens(
        tuple(token.term for token in tokens),
        array("I", (token.start for token in tokens)),
        array("I", (token.end for token in tokens)),
    )

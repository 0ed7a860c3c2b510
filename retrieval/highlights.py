"""Where a text holds words of a query: what a page marks.

The analyser has the last word on what is one, but it need not read the whole text. A word and its stem begin alike, so
only those pieces between spaces are analysed that hold the beginning of a term.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache

from retrieval.analysis import Token, analyse

_SPACE = re.compile(r"\s")
_ENDING = 2
"""Letters at the end of a stem that its word may have otherwise: `hope`, `hoping`; `die`, `dying`."""

_MANY = 40
"""Of so many pieces the whole text is analysed sooner, and kept for the next query."""


def matches(text: str, query_terms: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of each match in code points, in reading order and without overlaps."""
    wanted = frozenset(query_terms)
    spans: list[tuple[int, int]] = []
    for term, start, end in _tokens(text, wanted):
        if term in wanted:
            if spans and start <= spans[-1][1]:
                spans[-1] = (min(start, spans[-1][0]), max(end, spans[-1][1]))
            else:
                spans.append((start, end))
    return spans


def _tokens(text: str, wanted: frozenset[str]) -> Iterator[Token]:
    """All tokens that are wanted, among others."""
    if not wanted:
        return
    lower = text.lower()
    is_plain = text.isascii() or (len(lower) == len(text) and unicodedata.is_normalized("NFKC", text))
    beginnings = _beginnings(lower, wanted) if is_plain else []  # or else its letters may be written in other ways
    if not is_plain or len(beginnings) > _MANY:
        yield from _all_tokens(text)
        return
    end = 0
    for beginning in beginnings:
        if beginning < end:
            continue
        start = beginning
        while start > end and not text[start - 1].isspace():
            start -= 1
        space = _SPACE.search(text, beginning)
        end = space.start() if space else len(text)
        for token in analyse(text[start:end]):
            yield Token(token.term, token.start + start, token.end + start)


def _beginnings(lower: str, wanted: frozenset[str]) -> list[int]:
    """Places where a word that is wanted may begin, rising."""
    places = []
    for beginning in {term[: max(1, len(term) - _ENDING)] for term in wanted}:
        place = lower.find(beginning)
        while place >= 0:
            places.append(place)
            place = lower.find(beginning, place + 1)
    return sorted(places)


@lru_cache(maxsize=512)  # some 10 MB
def _all_tokens(text: str) -> tuple[Token, ...]:
    return tuple(analyse(text))

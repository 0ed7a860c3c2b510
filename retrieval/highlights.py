"""Finds the words of a query in a text, so that a page can highlight them.

The text goes through the analyser of the keyword search, so the highlighted words are those that BM25 counts. That
takes about 0.5 ms per text, so the tokens of recent texts are cached.
"""

from collections.abc import Iterator, Mapping, Sequence
from threading import Lock

import regex
from cachetools import LRUCache, cached

from retrieval.analysis import Token, analyse
from retrieval.analysis.normalization import CJK
from retrieval.query_terms import Marks

CACHED_TOKENS = 400_000
"""Maximum number of tokens of recent texts in the cache, about 200 bytes each: the texts of some thousand results."""

_IN_CHINESE = regex.compile(rf"[{CJK}]\s+[{CJK}]")


def matches(text: str, marks: Marks) -> list[tuple[int, int]]:
    """Start and end of each match in code points, ascending.

    Overlapping and adjacent matches are merged, and those of Chinese that is written with spaces.
    """
    spans: list[tuple[int, int]] = []
    last = -1
    for start, end in sorted(_found(text, marks)):
        if start > last and not (spans and _IN_CHINESE.fullmatch(text, last - 1, start + 1)):
            spans.append((start, end))
            last = end
        elif end > last:
            spans[-1] = (spans[-1][0], end)
            last = end
    return spans


def _found(text: str, marks: Marks) -> Iterator[tuple[int, int]]:
    tokens = _tokens(text)
    for term in marks.terms:
        for token in tokens.get(term, ()):
            yield token.start, token.end
    for first, second, distance in marks.pairs:
        if first in tokens and second in tokens:
            others = {token.position: token for token in tokens[second] if token.position >= 0}
            for token in tokens[first]:
                other = others.get(token.position + distance)
                if token.position >= 0 and other:
                    yield min(token.start, other.start), max(token.end, other.end)
    for literal in marks.literal:
        yield from _occurrences(text, literal)


def _occurrences(text: str, literal: str) -> Iterator[tuple[int, int]]:
    at = text.find(literal) if literal else -1
    while at >= 0:
        yield at, at + len(literal)
        at = text.find(literal, at + len(literal))


def _number(tokens: Mapping[str, Sequence[Token]]) -> int:
    return sum(map(len, tokens.values()))


@cached(LRUCache(CACHED_TOKENS, getsizeof=_number), lock=Lock(), info=True)
def _tokens(text: str) -> dict[str, list[Token]]:
    """The occurrences of each term."""
    tokens: dict[str, list[Token]] = {}
    for token in analyse(text):
        tokens.setdefault(token.term, []).append(token)
    return tokens

"""Finds the words of a query in a text, so that a page can highlight them.

The text goes through the analyser of the keyword search, so the highlighted words are those that BM25 counts. That
takes about 0.5 ms per text, so the tokens of recent texts are cached.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from threading import Lock
from typing import NamedTuple

import regex
from cachetools import LRUCache, cached

from retrieval.analysis import analyse
from retrieval.analysis.normalization import CJK
from retrieval.query_terms import Marks

CACHED_TOKENS = 400_000
"""Maximum number of tokens of recent texts in the cache, about 25 bytes each: the texts of some thousand results."""

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
    wanted = marks.terms.union(*(pair[:2] for pair in marks.pairs))
    places: defaultdict[str, list[_Place]] = defaultdict(list)
    tokens = _tokens(text)
    for number in [number for number, term in enumerate(tokens.terms) if term in wanted]:
        places[tokens.terms[number]].append(_Place(*tokens.places[3 * number : 3 * number + 3]))
    for term in marks.terms:
        for place in places.get(term, ()):
            yield place.start, place.end
    for first, second, distance in marks.pairs:
        others = {place.position: place for place in places.get(second, ()) if place.position >= 0}
        for place in places.get(first, ()):
            other = others.get(place.position + distance)
            if place.position >= 0 and other:
                yield min(place.start, other.start), max(place.end, other.end)
    for literal in marks.literal:
        yield from _occurrences(text, literal)


def _occurrences(text: str, literal: str) -> Iterator[tuple[int, int]]:
    at = text.find(literal) if literal else -1
    while at >= 0:
        yield at, at + len(literal)
        at = text.find(literal, at + len(literal))


class _Place(NamedTuple):
    """Where a token is: start and end in code points, and the number of the word (see `Token`)."""

    start: int
    end: int
    position: int


class _Tokens(NamedTuple):
    """The tokens of a text, in a few bytes each."""

    terms: tuple[str, ...]
    places: "array[int]"
    """The three numbers of each token's `_Place`."""


def _number(tokens: _Tokens) -> int:
    return len(tokens.terms)


@cached(LRUCache(CACHED_TOKENS, getsizeof=_number), lock=Lock(), info=True)
def _tokens(text: str) -> _Tokens:
    tokens = list(analyse(text))
    return _Tokens(
        tuple(_shared(token.term) for token in tokens),
        array("i", chain.from_iterable((token.start, token.end, token.position) for token in tokens)),
    )


@lru_cache(maxsize=50_000)
def _shared(term: str) -> str:
    """The same object for equal terms: most words stand in many texts."""
    return term

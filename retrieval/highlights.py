"""Finds the words of a query in a text, so that a page can highlight them.

The text goes through the analyser of the keyword search, so the highlighted words are those that BM25 counts. That
takes about 0.2 ms per text, so the tokens of recent texts are cached.
"""

from collections.abc import Sequence
from functools import lru_cache

from retrieval.analysis import analyse

CACHED_TEXTS = 4096
"""Maximum number of texts whose tokens are cached; about 20 KB per text."""


def matches(text: str, query_terms: Sequence[str]) -> list[tuple[int, int]]:
    """Start and end of each match in code points, ascending. Overlapping and adjacent matches are merged."""
    of_term = _spans(text)
    found = [span for term in query_terms if term in of_term for span in of_term[term]]
    spans: list[tuple[int, int]] = []
    last = -1
    for start, end in sorted(found):
        if start > last:
            spans.append((start, end))
            last = end
        elif end > last:
            spans[-1] = (spans[-1][0], end)
            last = end
    return spans


@lru_cache(CACHED_TEXTS)
def _spans(text: str) -> dict[str, list[tuple[int, int]]]:
    """Start and end of each occurrence of each term."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for term, start, end in analyse(text):
        spans.setdefault(term, []).append((start, end))
    return spans

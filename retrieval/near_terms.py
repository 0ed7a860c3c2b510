"""Finds the terms of a course that a misspelt word may mean.

The first letter must be right. The others may differ by one edit in words of 5 to 7 letters, and by two in longer
ones; to swap two neighbours is one edit (optimal string alignment distance).
"""

from collections.abc import Iterable

from rapidfuzz import process
from rapidfuzz.distance import OSA

SHORTEST = 5
"""Shorter terms are not corrected: too many words are near them."""
LONG = 8
"""Number of letters from which on two edits are accepted."""


class NearTerms:
    """The terms of a course by first letter and length. Threads may share it.

    Args:
        terms: The vocabulary.
    """

    def __init__(self, terms: Iterable[str]) -> None:
        self._terms: dict[tuple[str, int], list[str]] = {}
        for term in terms:
            if len(term) >= SHORTEST - 1 and is_correctable(term):
                self._terms.setdefault((term[0], len(term)), []).append(term)

    def near(self, term: str) -> tuple[list[str], int]:
        """The nearest terms, and their distance in edits; an empty list if no term is near enough."""
        if len(term) < SHORTEST or not is_correctable(term):
            return [], 0
        edits = 2 if len(term) >= LONG else 1
        found = [
            (round(distance), near)
            for length in range(len(term) - edits, len(term) + edits + 1)
            for near, distance, _ in process.extract_iter(
                term, self._terms.get((term[0], length), ()), scorer=OSA.distance, score_cutoff=edits
            )
        ]
        nearest = min((distance for distance, _ in found), default=0)
        return sorted(near for distance, near in found if distance == nearest), nearest


def is_correctable(term: str) -> bool:
    """Whether a term consists of letters of an alphabet; not of Chinese characters, digits or signs."""
    return term.isalpha() and ord(max(term)) < 0x0600

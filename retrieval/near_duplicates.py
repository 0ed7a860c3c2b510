"""Finds the texts of a course that repeat others: a lecture uploaded twice, a slide used again with slight edits.

A text is compared by its *shingles*: all runs of five tokens, where a token is a word, a number, an operator or a
Chinese character (Broder, "On the resemblance and containment of documents", 1997). Two texts are near-duplicates,
nearly the same, if

* they share most of their shingles: the Jaccard similarity is at least `LEAST_SIMILARITY`;
* nothing that distinguishes passages is exchanged: no number, operator or name for another one, and no word for
  another one throughout (a text about pull-ups and the same text about pull-downs); in a short text nothing at all;
* neither is a short formula, like the title of an exercise.

Each text belongs to the group of the first text that it is a near-duplicate of and that begins a group. So groups do
not chain: the Jaccard distance is a metric, so two texts of one group always share most of their shingles too.
Windows of a transcript that overlap by half share a third of their shingles and form no group. But a text of which all
is in other texts is marked (`Overlaps.repeated`), so that an answer can leave it out after these.
"""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.analysis.normalization import CJK

LEAST_SIMILARITY = 0.7
"""Least Jaccard similarity of near-duplicates. In seven real courses and collections, different passages had at most
0.4, and those of a lecture that is in its course twice, in two editions, 0.6 to 1."""
LEAST_SHINGLES = 24
"""Texts with fewer different shingles have no near-duplicates."""
LONG = 100
"""Number of shingles from which on a word may be exchanged for another one."""
MOST_COMPARED = 8
"""Groups that a text is compared with at most, to bound the time in a course of very similar texts."""
_RUN = 5

_TOKEN = re.compile(
    rf"[^\W_{CJK}]+|[{CJK}]"
    r"|(?:(?<=[\w)\]])|(?<=[\w)\]] ))(?:[+*/<>=!&|^%~≤≥≠±×÷]+(?= ?[\w(\[])|-[=>]|-(?= ?\d))"  # between two operands
)
_INNER_WORD = re.compile(r"(?<=[\w,;:(] )[^\W_]+|[^\W_]+[A-Z][^\W_]*")
_Shingles = NDArray[np.uint64]
_Numbers = defaultdict[str, int]
_Words = tuple[Counter[str], set[str]]
_MULTIPLIER = 0x9E3779B97F4A7C15


class Overlaps(NamedTuple):
    """What the texts of a course have in common, each (texts,)."""

    groups: NDArray[np.int32]
    """The group of near-duplicates, as the row of its first text. Equal texts are in one group."""
    repeated: NDArray[np.uint8]
    """1 if all of the text is also in others, which need not be one, in runs of at least five tokens; else 0."""


def overlaps(texts: Sequence[str]) -> Overlaps:
    """Compare the texts of a course."""
    first: dict[str, int] = {}
    first_rows = np.fromiter((first.setdefault(text, row) for row, text in enumerate(texts)), np.int32, len(texts))
    groups, repeated = first_rows.copy(), np.zeros(len(texts), dtype=np.uint8)
    shingles: dict[int, _Shingles] = {}
    for row, hashes, is_shared in _shared_shingles(texts, first.values()):
        repeated[row] = _is_covered(is_shared)
        if np.count_nonzero(is_shared) >= LEAST_SIMILARITY * len(hashes):
            shingles[row] = np.unique(hashes)
    words = lru_cache(maxsize=1000)(_words)
    leaders_with: dict[int, list[int]] = {}
    for (row, of_row), prefix in zip(shingles.items(), _prefixes(list(shingles.values())), strict=True):
        found = Counter(leader for shingle in prefix for leader in leaders_with.get(shingle, ()))
        for leader, _ in found.most_common(MOST_COMPARED):
            of_leader = shingles[leader]
            is_long = min(len(of_row), len(of_leader)) >= LONG
            is_similar = _similarity(of_row, of_leader) >= LEAST_SIMILARITY
            if is_similar and not _differ(words(texts[row]), words(texts[leader]), is_long):
                groups[row] = leader
                break
        else:
            for shingle in prefix:
                leaders = leaders_with.setdefault(shingle, [])
                if len(leaders) < MOST_COMPARED:
                    leaders.append(row)
    return Overlaps(groups[first_rows], repeated[first_rows])


class SaidTexts:
    """What some texts say: all of their shingles."""

    def __init__(self) -> None:
        self._shingles: set[tuple[str, ...]] = set()

    def add(self, text: str) -> None:
        """Add a text."""
        self._shingles.update(_runs(_tokens(text.lower())))

    def contain(self, text: str) -> bool:
        """Whether all of a text is in them, in runs of at least five tokens."""
        runs = _runs(_tokens(text.lower()))
        return bool(runs) and _is_covered(np.array([run in self._shingles for run in runs]))


def _runs(tokens: Sequence[str]) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[offset:] for offset in range(_RUN)), strict=False))


def _is_covered(is_shared: NDArray[np.bool_]) -> bool:
    """Whether each token of a text is in a shingle that is shared."""
    covered = np.zeros(len(is_shared) + _RUN - 1, dtype=bool)
    for offset in range(_RUN):
        covered[offset : offset + len(is_shared)] |= is_shared
    return bool(covered.all())


def _shared_shingles(texts: Sequence[str], rows: Iterable[int]) -> Iterator[tuple[int, _Shingles, NDArray[np.bool_]]]:
    """The rows with enough shingles; these, in the order of the text; and whether each is in another text too."""
    numbers: _Numbers = defaultdict(count().__next__)
    long = [(row, hashes) for row in rows if len(hashes := _shingles(texts[row], numbers)) >= LEAST_SHINGLES]
    if not long:
        return
    # 32 bits are enough to count, and take half of the memory; a shingle that seems to be shared costs only time.
    ordered = np.concatenate([np.unique(hashes.astype(np.uint32)) for _, hashes in long])
    ordered.sort()
    shared = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    if not len(shared):
        return
    for row, hashes in long:
        short = hashes.astype(np.uint32)
        places = np.searchsorted(shared, short).clip(max=len(shared) - 1)
        yield row, hashes, shared[places] == short


def _shingles(text: str, numbers: _Numbers) -> _Shingles:
    """The shingles of a text as hashes, in the order of the text. `numbers` numbers the tokens of the course."""
    tokens = list(map(numbers.__getitem__, _tokens(text.lower())))
    if len(tokens) < LEAST_SHINGLES:
        return np.empty(0, dtype=np.uint64)
    values = (np.array(tokens, dtype=np.uint64) + np.uint64(1)) * np.uint64(_MULTIPLIER)
    values ^= values >> np.uint64(29)
    hashes = np.zeros(len(values) - _RUN + 1, dtype=np.uint64)
    for offset in range(_RUN):
        hashes = hashes * np.uint64(_MULTIPLIER) + values[offset : offset + len(hashes)]
    hashes ^= hashes >> np.uint64(32)
    return hashes


def _tokens(text: str) -> list[str]:
    return _TOKEN.findall(text if text.isascii() else unicodedata.normalize("NFKC", text))


def _prefixes(shingles: Sequence[_Shingles]) -> Iterator[list[int]]:
    """The rarest shingles of each text, of which two near-duplicates share at least one, whatever else they share."""
    if not shingles:
        return
    _, numbers, counts = np.unique(np.concatenate(shingles), return_inverse=True, return_counts=True)
    start = 0
    for of_text in shingles:
        frequency = counts[numbers[start : start + len(of_text)]]
        start += len(of_text)
        size = len(of_text) - math.ceil(LEAST_SIMILARITY * len(of_text)) + 1
        yield of_text[np.argsort(frequency, kind="stable")[:size]].tolist()


def _similarity(one: _Shingles, other: _Shingles) -> float:
    common = len(np.intersect1d(one, other, assume_unique=True))
    return common / (len(one) + len(other) - common)


def _differ(one: _Words, other: _Words, is_long: bool) -> bool:
    """Whether something that distinguishes passages is exchanged for something else."""
    (ours, our_names), (theirs, their_names) = one, other
    only_ours, only_theirs = ours - theirs, theirs - ours
    if not (only_ours and only_theirs):
        return False
    if not is_long or min(max(only_ours.values()), max(only_theirs.values())) > 1:
        return True
    names = our_names | their_names
    return all(any(not token.isalpha() or token in names for token in only) for only in (only_ours, only_theirs))


def _words(text: str) -> _Words:
    """How often each token occurs, and the words with a capital that begin no sentence; both in lower case."""
    names = {word.lower() for word in _INNER_WORD.findall(text) if word != word.lower()}
    return Counter(_tokens(text.lower())), names

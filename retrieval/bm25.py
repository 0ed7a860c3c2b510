"""BM25 keyword search (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009).

The postings of a course are arrays of its snapshot: for each term the rows of the chunks that contain it, and their
weights. A search adds up the weights of its terms. So every chunk is scored: no candidate is missed, and chunks found
by vector have a BM25 score as well.

Terms that stand near each other in the query count more in chunks where they do so too (Büttcher, Clarke and Lushman,
"Term proximity scoring for ad-hoc retrieval on very large text collections", 2006). A pair of terms is scored like a
term: an occurrence counts 1 / (1 + k)², where k says by how many words the second is out of its place.
"""

import math
from array import array
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.context import weighted_titles
from retrieval.analysis import analyse
from retrieval.analysis.query import Pair
from retrieval.analysis.words import is_function_word
from retrieval.near_terms import NearTerms
from retrieval.snapshots.file import Arrays, Vocabulary, vocabulary_as_arrays

K1 = 1.2
"""Term frequency saturation. Same value as the default of Lucene."""
B = 0.75
"""Strength of the length normalization, 0.0 to 1.0. Same value as the default of Lucene."""
TITLE_WEIGHT = 0.5
"""How often a term of the last title of the context counts as if it were in the text (BM25F)."""
PAIRS = 0.3
"""Factor of the score of a pair of terms."""
NEAR = 3
"""Maximum number of words by which the second term of a pair may be out of its place."""
WHOLE = 0.75
"""Least weight of a token that counts in the length of its chunk, so that parts of names do not."""
MAX_PLACES = 3_000
"""A pair of two terms with more occurrences says little, and is skipped."""
_GAP = 16
"""Positions between two chunks, so that no pair is found across them."""


class Bm25:
    """The postings of a course. They are immutable, so threads may share them.

    Args:
        arrays: What `postings_as_arrays` returned.
        chunks: Number of chunks.
    """

    def __init__(self, arrays: Arrays, chunks: int) -> None:
        self.vocabulary = Vocabulary(arrays, "terms")
        self.arrays = arrays
        """What `postings_as_arrays` returned, for a copy of several courses (`retrieval.stack`)."""
        self._starts = arrays["postings.starts"].data
        self._rows: NDArray[np.int32] = arrays["postings.rows"]
        self._weights: NDArray[np.float32] = arrays["postings.weights"]
        self._norms: NDArray[np.float32] = arrays["postings.norms"]
        self._place_starts = arrays["places.starts"].data
        self._places: NDArray[np.int32] = arrays["places.data"]
        self._first_places: NDArray[np.int32] = arrays["places.chunks"]
        self._chunks = chunks
        self.rarest = (K1 + 1) * _idf(1, chunks)
        """The highest score of a word that only one chunk contains."""

    @cached_property
    def near_terms(self) -> NearTerms:
        """Finds the terms that a misspelt word may mean. Made when it is first needed: 0.1 s for 100,000 terms."""
        return NearTerms(self.vocabulary)

    def idf(self, number: int | None) -> float:
        """How rare a term is, by its number in the vocabulary; the highest value for None, a term that is not there."""
        frequency = 0 if number is None else self._starts[number + 1] - self._starts[number]
        return _idf(frequency, self._chunks)

    def highest(self, query: Mapping[str, float]) -> float:
        """The highest score possible for query terms with their weights."""
        numbers = self.vocabulary.find(query) if query else []
        return (K1 + 1) * sum(weight * self.idf(number) for weight, number in zip(query.values(), numbers, strict=True))

    def occurrences(self, pair: Pair) -> int:
        """How often the terms of the pair stand exactly so."""
        first, second = self.vocabulary.find(pair[:2])
        if first is None or second is None:
            return 0
        wanted = self._places_of(first) + np.int32(pair.distance)
        there = self._places_of(second)
        return len(np.intersect1d(wanted, there, assume_unique=True)) if len(wanted) and len(there) else 0

    def scores(
        self, query: Mapping[str, float], pairs: Mapping[Pair, float] | None = None
    ) -> tuple[NDArray[np.float32], float]:
        """BM25 score of every chunk for query terms with their weights, and the highest score possible.

        Args:
            query: The weight of each term, at least 0.0.
            pairs: The weight of each pair of terms.

        Returns:
            The scores (chunks,), 0.0 if a chunk contains no term; and the sum of weight · idf · (k1 + 1) over the terms
            and the pairs that occur, with the highest possible idf for a term that no chunk contains.
        """
        rows: list[NDArray[np.int32]] = []
        weights: list[NDArray[np.float32]] = []
        highest = 0.0
        numbers = dict(zip(query, self.vocabulary.find(query), strict=True))
        for term, weight in query.items():
            frequency, number = 0, numbers[term]
            if number is not None:
                postings = slice(self._starts[number], self._starts[number + 1])
                rows.append(self._rows[postings])
                weights.append(self._weights[postings] * np.float32(weight) if weight != 1 else self._weights[postings])
                frequency = len(rows[-1])
            highest += weight * (K1 + 1) * _idf(frequency, self._chunks)
        if pairs:
            highest += self._add_pairs(numbers, pairs, rows, weights)
        if not rows:
            return np.zeros(self._chunks, dtype=np.float32), highest
        scores = np.bincount(np.concatenate(rows), np.concatenate(weights), self._chunks)
        return scores.astype(np.float32), highest

    def _add_pairs(
        self,
        numbers: Mapping[str, int | None],
        pairs: Mapping[Pair, float],
        rows: list[NDArray[np.int32]],
        weights: list[NDArray[np.float32]],
    ) -> float:
        """Append the rows and scores of the pairs; the highest score of those that occur."""
        here: list[NDArray[np.int32]] = []
        away: list[NDArray[np.int32]] = []
        used: list[float] = []
        for (first, second, distance), weight in pairs.items():
            one, two = numbers.get(first), numbers.get(second)
            if one is None or two is None:
                continue
            near = self._near(self._places_of(one), self._places_of(two), distance)
            if near is not None:
                here.append(near[0])
                away.append(near[1])
                used.append(weight)
        if not used:
            return 0.0
        # All pairs at once, because each call of NumPy takes longer than its work.
        out = np.concatenate(away)
        near_ = (out <= NEAR).nonzero()[0]
        if not len(near_):
            return 0.0
        of_pair = np.repeat(np.arange(len(used)), [len(each) for each in here])[near_]
        row = self._first_places.searchsorted(np.concatenate(here)[near_], "right") - 1
        found = row + of_pair * self._chunks
        is_first = np.ones(len(found), dtype=np.bool_)
        np.not_equal(found[1:], found[:-1], out=is_first[1:])
        starts = is_first.nonzero()[0]
        counts = np.add.reduceat(1.0 / (1.0 + out[near_]) ** 2, starts)
        row, of_pair = row[starts], of_pair[starts]
        frequency = np.bincount(of_pair, minlength=len(used))
        idf = np.log1p((self._chunks - frequency + 0.5) / (frequency + 0.5))
        factors = PAIRS * (K1 + 1) * np.where(frequency, idf * used, 0.0)
        rows.append(row.astype(np.int32))
        weights.append((factors[of_pair] * counts / (counts + self._norms[row])).astype(np.float32))
        return float(factors.sum())

    def _near(
        self, here: NDArray[np.int32], there: NDArray[np.int32], distance: int
    ) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """Places of the rarer of two terms, and by how many words the nearest other one is out of its place."""
        if len(here) > len(there):
            here, there, distance = there, here, -distance
        if not len(here) or len(here) > MAX_PLACES:
            return None
        wanted = here + np.int32(distance)
        at = there.searchsorted(wanted)
        after, before = there.take(at, mode="clip"), there.take(at - 1, mode="clip")
        return here, np.minimum(np.abs(after - wanted), np.abs(before - wanted))

    def _places_of(self, number: int) -> NDArray[np.int32]:
        return self._places[self._place_starts[number] : self._place_starts[number + 1]]


def postings_as_arrays(texts: Iterable[str], contexts: Iterable[str] = repeat("")) -> dict[str, NDArray[Any]]:
    """The vocabulary, the postings and the places of texts with their contexts, one row per text.

    A context finds its text, and is not part of its length.

    * `terms`: see `Vocabulary`;
    * `postings.starts` (terms + 1,): the postings of term t are in the range starts[t] to starts[t + 1];
    * `postings.rows` (postings,): the row of each posting, ascending within each term;
    * `postings.weights` (postings,): the contribution of the term to the BM25 score of the row;
    * `postings.norms` (chunks,): what BM25 adds to the frequency of a term in its denominator;
    * `places.starts` (terms + 1,) and `places.data` (places,): where each term stands, ascending, counted in words from
      the start of the course;
    * `places.chunks` (chunks,): the place of the first word of each chunk.
    """
    numbers: dict[str, int] = {}
    sizes, offsets, of_terms, positions, token_weights = array("i"), array("i"), array("i"), array("i"), array("f")
    offset = 0
    for text, context in zip(texts, contexts, strict=False):
        tokens = analyse(text)
        in_titles: dict[str, float] = {}
        for title, weight in weighted_titles(context):
            for token in analyse(title):
                in_titles.setdefault(token.term, TITLE_WEIGHT * weight * token.weight)  # the most specific comes first
        sizes.append(len(tokens) + len(in_titles))
        offsets.append(offset)
        of_terms.extend([numbers.setdefault(token.term, len(numbers)) for token in tokens])
        of_terms.extend([numbers.setdefault(term, len(numbers)) for term in in_titles])
        token_weights.extend([token.weight for token in tokens])
        token_weights.extend(in_titles.values())
        places = [token.position for token in tokens]
        positions.extend([offset + place if place >= 0 else -1 for place in places])
        positions.extend(repeat(-1, len(in_titles)))
        offset += max(places, default=0) + _GAP
    chunks = len(sizes)
    vocabulary, arrays = vocabulary_as_arrays("terms", numbers)
    rank = np.empty(len(numbers), dtype=np.int32)
    rank[[numbers[term] for term in vocabulary]] = np.arange(len(numbers), dtype=np.int32)
    token_terms = rank[np.asarray(of_terms, dtype=np.int32)]
    token_rows = np.repeat(np.arange(chunks, dtype=np.int32), np.asarray(sizes, dtype=np.int32))
    amounts = np.asarray(token_weights, dtype=np.float64)
    says_something = ~np.array([is_function_word(term) for term in vocabulary], dtype=bool)
    length = np.bincount(token_rows, (amounts >= WHOLE) & says_something[token_terms], minlength=chunks)
    norms = K1 * (1 - B + B * length / max(1.0, float(length.mean()) if chunks else 1.0))
    by_term = np.argsort(token_terms, kind="stable")  # the rows ascend already
    terms, rows = token_terms[by_term], token_rows[by_term]
    first = np.flatnonzero((np.diff(terms, prepend=-1) != 0) | (np.diff(rows, prepend=-1) != 0))
    count = np.add.reduceat(amounts[by_term], first) if len(first) else amounts
    rows, frequency = rows[first], np.bincount(terms[first], minlength=len(numbers))
    idf = np.array([_idf(int(each), chunks) for each in frequency])
    weights = np.repeat(idf, frequency) * count * (K1 + 1) / (count + norms[rows])
    token_places = np.asarray(positions, dtype=np.int32)
    placed = np.flatnonzero(token_places >= 0)
    placed = placed[np.lexsort((token_places[placed], token_terms[placed]))]
    return arrays | {
        "postings.starts": _ends(frequency),
        "postings.rows": rows,
        "postings.weights": weights.astype(np.float32),
        "postings.norms": norms.astype(np.float32),
        "places.starts": _ends(np.bincount(token_terms[placed], minlength=len(numbers))),
        "places.data": token_places[placed],
        "places.chunks": np.asarray(offsets, dtype=np.int32),
    }


def _ends(counts: NDArray[np.integer[Any]]) -> NDArray[np.int64]:
    """Where each of several ranges of these lengths starts, and where the last one ends."""
    ends = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=ends[1:])
    return ends


def _idf(frequency: int, chunks: int) -> float:
    """The idf of Lucene, which is never negative."""
    return math.log1p((chunks - frequency + 0.5) / (frequency + 0.5))

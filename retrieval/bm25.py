"""BM25 keyword search (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009).

The postings of a course are arrays of its snapshot: for each term the rows of the chunks that contain it, and their
weights. A search adds up the weights of its terms. So every chunk is scored: no candidate is missed, and chunks found
by vector have a BM25 score as well.
"""

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.analysis import terms
from retrieval.snapshots.file import Arrays, Vocabulary, vocabulary_as_arrays

K1 = 1.2
"""Term frequency saturation. Same value as the default of Lucene."""
B = 0.75
"""Strength of the length normalization, 0.0 to 1.0. Same value as the default of Lucene."""
_MAX_COUNT = np.iinfo(np.uint16).max


class Bm25:
    """The postings of a course. They are immutable, so threads may share them.

    Args:
        arrays: What `postings_as_arrays` returned.
        chunks: Number of chunks.
    """

    def __init__(self, arrays: Arrays, chunks: int) -> None:
        self.vocabulary = Vocabulary(arrays, "terms")
        self._starts = arrays["postings.starts"].data
        self._rows: NDArray[np.int32] = arrays["postings.rows"]
        self._weights: NDArray[np.float32] = arrays["postings.weights"]
        self._chunks = chunks

    def scores(self, query: Mapping[str, int]) -> tuple[NDArray[np.float32], float]:
        """BM25 score of every chunk for query terms with their counts, and the highest score possible.

        Returns:
            The scores (chunks,), 0.0 if a chunk contains no term; and the sum of idf · (k1 + 1) over the terms, with
            the highest possible idf for a term that no chunk contains.
        """
        rows: list[NDArray[np.int32]] = []
        weights: list[NDArray[np.float32]] = []
        highest = 0.0
        for number, count in zip(self.vocabulary.find(query), query.values(), strict=True):
            frequency = 0
            if number is not None:
                postings = slice(self._starts[number], self._starts[number + 1])
                rows.append(self._rows[postings])
                weights.append(self._weights[postings] * np.float32(count) if count > 1 else self._weights[postings])
                frequency = len(rows[-1])
            highest += count * (K1 + 1) * _idf(frequency, self._chunks)
        if not rows:
            return np.zeros(self._chunks, dtype=np.float32), highest
        scores = np.bincount(np.concatenate(rows), np.concatenate(weights), self._chunks)
        return scores.astype(np.float32), highest


def postings_as_arrays(texts: Iterable[str]) -> dict[str, NDArray[Any]]:
    """The vocabulary and the postings of texts, one row per text.

    * `terms`: see `Vocabulary`;
    * `postings.starts` (terms + 1,): the postings of term t are in the range starts[t] to starts[t + 1];
    * `postings.rows` (postings,): the row of each posting, ascending within each term;
    * `postings.weights` (postings,): the contribution of the term to the BM25 score of the row.
    """
    numbers: dict[str, int] = {}
    lengths, sizes, of_rows, counts = array("i"), array("i"), array("i"), array("H")
    for text in texts:
        in_text = Counter(terms(text))
        lengths.append(in_text.total())
        sizes.append(len(in_text))
        of_rows.extend(numbers.setdefault(term, len(numbers)) for term in in_text)
        counts.extend(min(count, _MAX_COUNT) for count in in_text.values())
    vocabulary, arrays = vocabulary_as_arrays("terms", numbers)
    rank = np.empty(len(numbers), dtype=np.int32)
    rank[[numbers[term] for term in vocabulary]] = np.arange(len(numbers), dtype=np.int32)
    term_numbers = rank[np.asarray(of_rows, dtype=np.int32)]
    rows = np.repeat(np.arange(len(sizes), dtype=np.int32), np.asarray(sizes, dtype=np.int32))
    by_term = np.lexsort((rows, term_numbers))
    rows, frequency = rows[by_term], np.bincount(term_numbers, minlength=len(numbers))
    starts = np.zeros(len(numbers) + 1, dtype=np.int64)
    np.cumsum(frequency, out=starts[1:])
    count = np.asarray(counts, dtype=np.float64)[by_term]
    length = np.asarray(lengths, dtype=np.float64)
    norms = K1 * (1 - B + B * length[rows] / max(1.0, float(length.mean()) if len(length) else 1.0))
    idf = np.array([_idf(int(each), len(sizes)) for each in frequency])
    weights = np.repeat(idf, frequency) * count * (K1 + 1) / (count + norms)
    return arrays | {
        "postings.starts": starts,
        "postings.rows": rows,
        "postings.weights": weights.astype(np.float32),
    }


def _idf(frequency: int, chunks: int) -> float:
    """The idf of Lucene, which is never negative."""
    return math.log1p((chunks - frequency + 0.5) / (frequency + 0.5))

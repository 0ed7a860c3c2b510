"""The scores of two channels, vector and keyword, become one. Pure functions over all chunks of a course.

A cosine says how near a chunk is, BM25 how many and how rare words of the query it holds. Neither is right everywhere,
and which of them is differs from query to query, so a channel's score has two parts:

* its *strength*: the cosine as it is, BM25 as a share of the query's best;
* its *certainty*: how far the chunk stands out from all the others, as a share among them (the softmax of the
  standard scores). A channel that singles out one chunk has a share near 1 to give, one that finds everything alike
  gives each chunk next to nothing, and the other one decides.

The final score is the weighted mean of the channels. The vector's weight falls where the embedding model cannot read
the query: its cosines are noise then, and noise stands out, too. Constants were chosen on several sets by `make eval`;
see docs/adr.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]

CERTAINTY = 3.0
"""What a share of 1 counts for, beside a strength of at most 1."""
VECTOR_SHARPNESS, KEYWORD_SHARPNESS = 1.4, 0.5
"""How fast a chunk's share grows with its standard score: BM25 has a long tail, cosines have not."""
ILLEGIBLE, LEGIBLE = 0.5, 0.9
"""A query of which the model reads no more than the first share is noise to it; from the second on it is understood."""
RRF_K = 60
"""Usual damping of reciprocal ranks."""


class Weights(NamedTuple):
    """What the channels count for; only their ratio matters."""

    vector: float
    keyword: float

    @property
    def shares(self) -> "Weights":
        """The same, adding up to 1."""
        total = self.vector + self.keyword
        return Weights(self.vector / total, self.keyword / total)


VECTOR_ONLY, KEYWORD_ONLY = Weights(1.0, 0.0), Weights(0.0, 1.0)
DEFAULT_WEIGHTS = Weights(0.7, 0.3)


def weights_for(legibility: float) -> Weights:
    """The weights of a query of which the embedding model reads this share, 0.0 to 1.0."""
    trust = min(1.0, max(0.0, (legibility - ILLEGIBLE) / (LEGIBLE - ILLEGIBLE)))
    return Weights(DEFAULT_WEIGHTS.vector * trust, DEFAULT_WEIGHTS.keyword).shares


def weighted(cosines: Scores, bm25: Scores, weights: Weights, mask: Mask | None = None) -> Scores:
    """The weighted mean of both channels, each strength and certainty together, 0.0 to 1.0.

    Args:
        cosines: (chunks,) of the query.
        bm25: (chunks,) of the query.
        weights: Of the channels; a query without a word that any chunk holds listens to the vector alone.
        mask: The chunks that may be found: only they are compared with one another.
    """
    vector_weight, keyword_weight = weights.shares if _best(bm25, mask) > 0 else VECTOR_ONLY
    score: Scores = np.zeros(len(cosines), dtype=np.float32)
    if vector_weight:
        score += vector_weight * (np.maximum(cosines, 0) + CERTAINTY * certainty(cosines, VECTOR_SHARPNESS, mask))
    if keyword_weight:
        strength: Scores = bm25 / np.float32(_best(bm25, mask))
        score += keyword_weight * (strength + CERTAINTY * certainty(bm25, KEYWORD_SHARPNESS, mask))
    return score / np.float32(1 + CERTAINTY)


def reciprocal_rank(cosines: Scores, bm25: Scores, weights: Weights, mask: Mask | None = None) -> Scores:
    """Weighted sum of 1 / (60 + rank) in each channel; a chunk without a word of the query has no rank among words.

    Equal scores share a rank. The arguments are those of `weighted`.
    """
    vector_weight, keyword_weight = weights.shares
    found = bm25 > 0
    by_words = np.where(found, 1 / (RRF_K + _ranks(bm25, mask)), 0)
    score = vector_weight / (RRF_K + _ranks(cosines, mask)) + keyword_weight * by_words
    return score.astype(np.float32)


def certainty(scores: Scores, sharpness: float, mask: Mask | None = None) -> Scores:
    """How far each chunk stands out, as shares that add up to 1 (over the chunks of the mask)."""
    compared: Scores = scores if mask is None else scores[mask]
    spread = float(compared.std())
    if not spread:
        return np.zeros(len(scores), dtype=np.float32)
    below_best = np.minimum(scores - compared.max(), 0)
    raised = np.exp(below_best * np.float32(sharpness / spread))
    if mask is not None:
        raised[~mask] = 0
    shares: Scores = raised / raised.sum()
    return shares


def _best(bm25: Scores, mask: Mask | None) -> float:
    return float(bm25.max() if mask is None else bm25.max(where=mask, initial=0))


def _ranks(scores: Scores, mask: Mask | None) -> NDArray[np.float32]:
    """Rank of each chunk, from 1; beyond the mask there are none (infinite)."""
    compared = scores if mask is None else scores[mask]
    values, which = np.unique(compared, return_inverse=True)
    higher = len(compared) - np.cumsum(np.bincount(which, minlength=len(values)))
    ranks = np.full(len(scores), np.inf, dtype=np.float32)
    ranks[slice(None) if mask is None else mask] = 1 + higher[which]
    return ranks

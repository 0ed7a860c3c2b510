"""The scores of two channels, vector and keyword, become one. Pure functions over all chunks of a course.

A cosine says how near a chunk is, BM25 how many and how rare words of the query it holds. Neither is right everywhere,
and which of them is differs from query to query, so a channel's score has two parts:

* its *strength*: the cosine as it is, BM25 as a share of the query's best;
* its *certainty*: how far the chunk stands out from the others, as a share among them (the softmax of the standard
  scores). A channel that singles out one chunk has a share near 1 to give; where many stand out alike each has little,
  and the other channel decides.

The final score is the weighted mean of the channels. The vector's weight falls where the embedding model cannot read
the query: its cosines are noise then, and noise stands out, too. Whoever gives weights gets the plain weighted sum of
the strengths. Constants were chosen on several sets by `make eval`; see docs/adr.
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
NO_SPREAD = 1e-4
"""Scores that differ by less are alike: what is left is rounding."""


class Weights(NamedTuple):
    """What the channels count for; only their ratio matters."""

    vector: float
    keyword: float

    @property
    def shares(self) -> "Weights":
        """The same, adding up to 1."""
        total = self.vector + self.keyword
        return Weights(self.vector / total, self.keyword / total)


VECTOR_ONLY = Weights(1.0, 0.0)
DEFAULT_WEIGHTS = Weights(0.7, 0.3)


def weights_for(legibility: float) -> Weights:
    """The weights of a query of which the embedding model reads this share, 0.0 to 1.0."""
    trust = min(1.0, max(0.0, (legibility - ILLEGIBLE) / (LEGIBLE - ILLEGIBLE)))
    return Weights(DEFAULT_WEIGHTS.vector * trust, DEFAULT_WEIGHTS.keyword).shares


class Fused(NamedTuple):
    """What each channel adds to the scores."""

    vector: Scores
    """(chunks,)"""
    keyword: Scores
    """(chunks,)"""
    weights: Weights
    """What the channels counted for, adding up to 1."""

    @property
    def score(self) -> Scores:
        """(chunks,): the two together."""
        return self.vector + self.keyword


def by_certainty(cosines: Scores, bm25: Scores, legibility: float, mask: Mask | None = None) -> Fused:
    """The weighted mean of both channels, each strength and certainty together, 0.0 to 1.0.

    Args:
        cosines: (chunks,) of the query.
        bm25: (chunks,) of the query; where no chunk holds a word of it, the vector alone is listened to.
        legibility: How much of the query the embedding model can read, 0.0 to 1.0.
        mask: The chunks that are compared with one another: those that may be found, each text once.
    """
    weights = weights_for(legibility) if _best(bm25, mask) > 0 else VECTOR_ONLY
    total = np.float32(1 + CERTAINTY)
    near, words = _strengths(cosines, bm25, mask)
    vector = keyword = np.zeros(len(cosines), dtype=np.float32)
    if weights.vector:
        vector = weights.vector / total * (near + CERTAINTY * certainty(cosines, VECTOR_SHARPNESS, mask))
    if weights.keyword:
        keyword = weights.keyword / total * (words + CERTAINTY * certainty(bm25, KEYWORD_SHARPNESS, mask))
    return Fused(vector, keyword, weights)


def weighted_sum(cosines: Scores, bm25: Scores, weights: Weights, mask: Mask | None = None) -> Fused:
    """The weighted mean of the cosine (0 where it is negative) and BM25 as a share of its best."""
    near, words = _strengths(cosines, bm25, mask)
    weights = weights.shares
    return Fused(weights.vector * near, weights.keyword * words, weights)


def reciprocal_rank(cosines: Scores, bm25: Scores, weights: Weights, mask: Mask | None = None) -> Fused:
    """Weighted 1 / (60 + rank) in each channel; a chunk without a word of the query has no rank among words.

    Equal scores share a rank.
    """
    weights = weights.shares
    by_vector = weights.vector / (RRF_K + _ranks(cosines, mask))
    by_keyword = np.where(bm25 > 0, weights.keyword / (RRF_K + _ranks(bm25, mask)), 0)
    return Fused(by_vector.astype(np.float32), by_keyword.astype(np.float32), weights)


def certainty(scores: Scores, sharpness: float, mask: Mask | None = None) -> Scores:
    """How far each chunk stands out among those of the mask, as shares that add up to 1 over them."""
    compared: Scores = scores if mask is None else scores[mask]
    spread = float(compared.std())
    if spread < NO_SPREAD:
        return np.full(len(scores), 1 / len(compared), dtype=np.float32)
    below_best = np.minimum(scores - compared.max(), 0)
    raised: Scores = np.exp(below_best * np.float32(sharpness / spread))
    raised /= raised.sum() if mask is None else raised[mask].sum()
    return raised


def _strengths(cosines: Scores, bm25: Scores, mask: Mask | None) -> tuple[Scores, Scores]:
    best = _best(bm25, mask)
    return np.maximum(cosines, 0), bm25 / np.float32(best) if best else bm25


def _best(bm25: Scores, mask: Mask | None) -> float:
    return float(bm25.max() if mask is None else bm25.max(where=mask, initial=0))


def _ranks(scores: Scores, mask: Mask | None) -> NDArray[np.float32]:
    """Rank of each chunk among those of the mask, from 1."""
    compared = np.sort(scores if mask is None else scores[mask])
    ranks: NDArray[np.float32] = 1 + len(compared) - np.searchsorted(compared, scores, side="right").astype(np.float32)
    return ranks

"""Fuses the scores of the vector channel and the keyword channel into one score per chunk.

The cosine says how close a chunk is to the query in meaning. BM25 counts how many words of the query the chunk
contains, and how rare they are. Which channel is better differs from query to query. So by default, the score of each
channel has two parts:

* *strength*: the cosine, or BM25 divided by the highest BM25 score of any chunk for the query;
* *certainty*: how far the chunk stands out from the other chunks, as the softmax of its standard score (z-score). If a
  channel scores one chunk far above the others, its certainty approaches 1 as the course grows. If many chunks score
  alike, each certainty is small, and the other channel decides.

The default fused score is the weighted mean of both channels (certainty-weighted fusion). The weight of the vector
channel is lower if the embedding model cannot read the query, because the cosines are noise then. If the caller gives
weights, the fused score is the weighted mean of the strengths. The third method is reciprocal rank fusion (RRF). The
constants were tuned on several retrieval sets (docs/adr/0011).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float32]
Mask = NDArray[np.bool_]

CERTAINTY = 3.0
"""Factor of the certainty in a channel's score; that of the strength is 1. Strength and certainty are each at most
1."""
VECTOR_SHARPNESS, KEYWORD_SHARPNESS = 1.4, 0.5
"""Factor of the standard score in the softmax (an inverse temperature); lower for BM25, which has a longer tail."""
ILLEGIBLE, LEGIBLE = 0.5, 0.9
"""Legibility of the query up to which the vector channel has no weight, and from which on it has its full weight."""
RRF_K = 60
"""The constant k of reciprocal rank fusion (Cormack, Clarke and Büttcher, SIGIR 2009)."""
NO_SPREAD = 1e-4
"""A smaller standard deviation of the scores is mere rounding error."""


class Weights(NamedTuple):
    """Weights of the channels. Only their ratio matters."""

    vector: float
    keyword: float

    @property
    def shares(self) -> "Weights":
        """The weights scaled to a sum of 1."""
        total = self.vector + self.keyword
        return Weights(self.vector / total, self.keyword / total)


VECTOR_ONLY = Weights(1.0, 0.0)
DEFAULT_WEIGHTS = Weights(0.7, 0.3)


def weights_for(legibility: float) -> Weights:
    """The default weights for a query with this legibility, 0.0 to 1.0 (see `embedding.engine.legibility`)."""
    readable = min(1.0, max(0.0, (legibility - ILLEGIBLE) / (LEGIBLE - ILLEGIBLE)))
    return Weights(DEFAULT_WEIGHTS.vector * readable, DEFAULT_WEIGHTS.keyword).shares


class FusedScores(NamedTuple):
    """The fused scores as the sum of two parts, each (chunks,)."""

    vector: Scores
    keyword: Scores
    weights: Weights
    """The weights used; their sum is 1."""

    @property
    def score(self) -> Scores:
        """The fused scores (chunks,)."""
        return self.vector + self.keyword


def certainty_weighted(cosines: Scores, bm25: Scores, legibility: float, mask: Mask | None = None) -> FusedScores:
    """The weighted mean of both channels, 0.0 to 1.0.

    The score of a channel is (strength + CERTAINTY · certainty) / (1 + CERTAINTY).

    Args:
        cosines: Cosine similarities to the query, (chunks,).
        bm25: BM25 scores for the query, (chunks,). If all are 0, only the vector channel counts.
        legibility: Share of the query that the embedding model can read, 0.0 to 1.0.
        mask: The chunks to compare with one another: those that pass the filter, each text once.
    """
    weights = weights_for(legibility) if _best(bm25, mask) > 0 else VECTOR_ONLY
    total = np.float32(1 + CERTAINTY)
    cosine_part, bm25_part = _strengths(cosines, bm25, mask)
    vector = keyword = np.zeros(len(cosines), dtype=np.float32)
    if weights.vector:
        vector = weights.vector / total * (cosine_part + CERTAINTY * certainty(cosines, VECTOR_SHARPNESS, mask))
    if weights.keyword:
        keyword = weights.keyword / total * (bm25_part + CERTAINTY * certainty(bm25, KEYWORD_SHARPNESS, mask))
    return FusedScores(vector, keyword, weights)


def weighted_sum(cosines: Scores, bm25: Scores, weights: Weights, mask: Mask | None = None) -> FusedScores:
    """The weighted mean of the strengths: the cosine (0.0 if negative), and BM25 divided by the highest BM25 score."""
    cosine_part, bm25_part = _strengths(cosines, bm25, mask)
    weights = weights.shares
    return FusedScores(weights.vector * cosine_part, weights.keyword * bm25_part, weights)


def reciprocal_rank_fusion(cosines: Scores, bm25: Scores, weights: Weights, mask: Mask | None = None) -> FusedScores:
    """Weighted mean of 1 / (60 + rank) over the channels, so at most 1/61. Equal scores share a rank.

    A chunk that contains no word of the query gets 0 from the keyword channel.
    """
    weights = weights.shares
    by_vector = weights.vector / (RRF_K + _ranks(cosines, mask))
    by_keyword = np.where(bm25 > 0, weights.keyword / (RRF_K + _ranks(bm25, mask)), 0)
    return FusedScores(by_vector.astype(np.float32), by_keyword.astype(np.float32), weights)


def certainty(scores: Scores, sharpness: float, mask: Mask | None = None) -> Scores:
    """Softmax of `sharpness` times the standard score: (chunks,). The sum over the chunks of the mask is 1."""
    compared: Scores = scores if mask is None else scores[mask]
    spread = float(compared.std())
    if spread < NO_SPREAD:
        return np.full(len(scores), 1 / len(compared), dtype=np.float32)
    below_best = np.minimum(scores - compared.max(), 0)
    exponentials: Scores = np.exp(below_best * np.float32(sharpness / spread))
    exponentials /= exponentials.sum() if mask is None else exponentials[mask].sum()
    return exponentials


def _strengths(cosines: Scores, bm25: Scores, mask: Mask | None) -> tuple[Scores, Scores]:
    best = _best(bm25, mask)
    return np.maximum(cosines, 0), bm25 / np.float32(best) if best else bm25


def _best(bm25: Scores, mask: Mask | None) -> float:
    return float(bm25.max() if mask is None else bm25.max(where=mask, initial=0))


def _ranks(scores: Scores, mask: Mask | None) -> NDArray[np.float32]:
    """Rank of each chunk among the chunks of the mask, from 1 for the best: (chunks,)."""
    compared = np.sort(scores if mask is None else scores[mask])
    ranks: NDArray[np.float32] = 1 + len(compared) - np.searchsorted(compared, scores, side="right").astype(np.float32)
    return ranks

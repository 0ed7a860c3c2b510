"""Fuses the scores of the vector channel and the keyword channel into one score per chunk.

Every method first computes statistics over all chunks that are compared. It returns a function that fuses the scores
of any of these chunks, and never decreases when a cosine increases. So a search can bound the fused scores by bounds of
the cosines, and compute exact ones only for the best chunks.

The cosine says how close a chunk is to the query in meaning. BM25 counts how many words of the query the chunk
contains, and how rare they are. Which channel is better differs from query to query. So by default, the score of each
channel has two parts:

* *strength*: the standard score (z-score) of the cosine, as a share of `BEST_Z`; BM25 divided by the highest BM25 score
  of any chunk for the query. Cosines themselves are not comparable: the best and the median one are .7 and .1 under
  one model, and .9 and .8 under another;
* *certainty*: how far the chunk stands out from the other chunks, as the softmax of its standard score. If a channel
  scores one chunk far above the others, its certainty approaches 1 as the course grows. If many chunks score alike,
  each certainty is small, and the other channel decides.

The default fused score is the weighted mean of both channels (certainty-weighted fusion), a convex combination of
scores that are normalized by their distribution (Bruch, Gai and Ingber, "An Analysis of Fusion Functions for Hybrid
Retrieval", TOIS 2023). The weight of the vector channel is lower if the embedding model cannot read the query, because
the cosines are noise then. The weight of the keyword channel is lower if the course does not have the words of the
query, because the few that are left match by accident. If the caller gives weights, the fused score is the weighted
mean of cosine and relative BM25. The third method is reciprocal rank fusion (RRF). The constants were tuned on several
retrieval sets and two models (docs/adr/0011, docs/adr/0027).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating[Any]]

CERTAINTY = 3.0
"""Factor of the certainty in a channel's score; that of the strength is 1. Strength and certainty are each at most
1."""
VECTOR_SHARPNESS, KEYWORD_SHARPNESS = 1.4, 0.5
"""Factor of the standard score in the softmax (an inverse temperature); lower for BM25, which has a longer tail."""
FEW_CHUNKS = 50
"""In a course with fewer chunks, one of them always stands out, so the sharpness for cosines is lower."""
LONE_CERTAINTY = 0.9
"""Least certainty of the only chunk that contains words of the query. In a small course, it stands out less."""
ILLEGIBLE, LEGIBLE = 0.5, 0.9
"""Legibility of the query up to which the vector channel has no weight, and from which on it has its full weight."""
STRANGE, FAMILIAR = 0.5, 0.9
"""Known share of the query up to which the keyword channel has no weight, and from which on it has its full weight."""
BEST_Z = 12.0
"""The standard score at which the strength of a cosine is 1: hardly any is higher."""
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


KEYWORD_ONLY = Weights(0.0, 1.0)
DEFAULT_WEIGHTS = Weights(0.7, 0.3)


def readable(legibility: float) -> float:
    """How far the model can be trusted to read a query with this legibility: 0.0 to 1.0."""
    return _between(ILLEGIBLE, LEGIBLE, legibility)


def weights_for(legibility: float, known: float) -> Weights:
    """The default weights for a query.

    Args:
        legibility: Share of the query that the model can read, 0.0 to 1.0 (see `embedding.engine.legibility`).
        known: Share of its words that the course has, weighted by their rarity, 0.0 to 1.0.
    """
    vector = DEFAULT_WEIGHTS.vector * readable(legibility)
    keyword = DEFAULT_WEIGHTS.keyword * _between(STRANGE, FAMILIAR, known) ** 2
    return Weights(vector, keyword).shares if vector + keyword else KEYWORD_ONLY


def _between(low: float, high: float, share: float) -> float:
    return min(1.0, max(0.0, (share - low) / (high - low)))


class FusedScores(NamedTuple):
    """The fused scores as the sum of two parts, each (chunks,)."""

    vector: Scores
    keyword: Scores

    @property
    def score(self) -> Scores:
        """The fused scores (chunks,)."""
        return self.vector + self.keyword


Fuse = Callable[[Scores, Scores], FusedScores]
"""Fuses cosines and BM25 scores of chunks, each (chunks,)."""


class Fuser(NamedTuple):
    """A fusion method with the statistics of one query."""

    fuse: Fuse
    weights: Weights | None
    """The weights used, with a sum of 1; None unless both channels are used."""


def certainty_weighted(cosines: Scores, bm25: Scores, legibility: float, known: float) -> Fuser:
    """The weighted mean of both channels, 0.0 to 1.0.

    The score of a channel is (strength + CERTAINTY · certainty) / (1 + CERTAINTY).

    Args:
        cosines: Cosine similarities to the query of all chunks that are compared, (chunks,); each text once.
        bm25: Their BM25 scores for the query, (chunks,). If all are 0, the keyword channel does not count.
        legibility: Share of the query that the embedding model can read, 0.0 to 1.0.
        known: Share of its words that the course has, weighted by their rarity, 0.0 to 1.0.
    """
    best = float(bm25.max())
    weights = weights_for(legibility, known if best > 0 else 0.0)
    by_vector, by_keyword = weights.vector / (1 + CERTAINTY), weights.keyword / (1 + CERTAINTY)
    cosine_certainty = certainty(cosines, _vector_sharpness(len(cosines))) if by_vector else None
    bm25_certainty = certainty(bm25, _keyword_sharpness(len(bm25))) if by_keyword and best > 0 else None
    mean, spread = float(np.add.reduce(cosines)) / len(cosines), standard_deviation(cosines)
    best_z = BEST_Z * max(spread, NO_SPREAD)

    def fuse(cosines: Scores, bm25: Scores) -> FusedScores:
        vector: Scores = np.zeros(len(cosines), dtype=np.float32)
        keyword: Scores = vector
        if cosine_certainty:
            strength = np.clip((cosines - mean) / best_z, 0, 1)
            vector = by_vector * (strength + CERTAINTY * cosine_certainty(cosines))
        if bm25_certainty:
            keyword = bm25 * (by_keyword / best) + bm25_certainty(bm25) * (by_keyword * CERTAINTY)
        return FusedScores(vector, keyword)

    return Fuser(fuse, weights)


def _vector_sharpness(chunks: int) -> float:
    return VECTOR_SHARPNESS * math.sqrt(min(1.0, chunks / FEW_CHUNKS))


def _keyword_sharpness(chunks: int) -> float:
    """The sharpness at which the only chunk with a score has `LONE_CERTAINTY`, if that is higher than the usual one."""
    if chunks < 2:
        return KEYWORD_SHARPNESS
    standard_score = chunks / math.sqrt(chunks - 1)  # its distance from the others in standard deviations
    odds = LONE_CERTAINTY / (1 - LONE_CERTAINTY) * (chunks - 1)
    return max(KEYWORD_SHARPNESS, math.log(odds) / standard_score)


def weighted_sum(bm25: Scores, weights: Weights) -> Fuser:
    """The weighted mean of the strengths: the cosine (0.0 if negative), and BM25 divided by the highest BM25 score."""
    best, weights = float(bm25.max()) or 1.0, weights.shares
    return Fuser(
        lambda cosines, bm25: FusedScores(weights.vector * np.maximum(cosines, 0), weights.keyword / best * bm25),
        weights,
    )


def reciprocal_rank_fusion(cosines: Scores, bm25: Scores, weights: Weights) -> Fuser:
    """Weighted mean of 1 / (60 + rank) over the channels, so at most 1/61. Equal scores share a rank.

    A chunk that contains no word of the query gets 0 from the keyword channel.
    """
    weights, all_cosines, all_bm25 = weights.shares, np.sort(cosines), np.sort(bm25)

    def fuse(cosines: Scores, bm25: Scores) -> FusedScores:
        by_vector = weights.vector / (RRF_K + _ranks(cosines, all_cosines))
        by_keyword = np.where(bm25 > 0, weights.keyword / (RRF_K + _ranks(bm25, all_bm25)), 0)
        return FusedScores(by_vector, by_keyword)

    return Fuser(fuse, weights)


def certainty(scores: Scores, sharpness: float) -> Callable[[Scores], Scores]:
    """Softmax of `sharpness` times the standard score, as a function. The sum over the given scores is 1."""
    count, spread = len(scores), standard_deviation(scores)
    if spread < NO_SPREAD:
        return lambda some: np.full(len(some), 1 / count, dtype=np.float32)
    best, factor = float(scores.max()), sharpness / spread
    exponentials = np.exp((scores - best) * factor)
    share = 1 / float(np.add.reduce(exponentials))
    # The exponentials of all scores are known, and computing them takes most of the time.
    return lambda some: share * (exponentials if some is scores else np.exp((some - best) * factor))


def standard_deviation(scores: Scores) -> float:
    """The same as `scores.std()`, in a third of the time."""
    deviations = scores - np.add.reduce(scores) / len(scores)
    return math.sqrt(float(deviations @ deviations) / len(scores))


def _ranks(scores: Scores, ascending: Scores) -> Scores:
    """Rank of each score among all of them, from 1 for the best: (chunks,)."""
    ranks: Scores = 1.0 + len(ascending) - np.searchsorted(ascending, scores, side="right")
    return ranks

"""Retrieval metrics (nDCG, recall, MRR) and bootstrap confidence intervals.

A ranking is a list of chunk ids, best first. Judgements map the ids of relevant chunks to a relevance score; chunks
without a judgement are not relevant. All metrics range from 0.0 to 1.0; higher is better.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000
SEED = 0

Judgements = Mapping[str, float]


class Estimate(NamedTuple):
    """A mean over queries with its 95 % bootstrap confidence interval."""

    mean: float
    low: float
    high: float


def ndcg(ranking: Sequence[str], judgements: Judgements, depth: int = 10) -> float:
    """Normalized discounted cumulative gain: the gain of the ranking divided by that of the ideal ranking.

    The gain is linear in the relevance score, and discounted by log2(rank + 1) (Järvelin and Kekäläinen, "Cumulated
    gain-based evaluation of IR techniques", TOIS 2002). One judgement must be above 0.
    """
    gains = [judgements.get(chunk_id, 0.0) for chunk_id in ranking[:depth]]
    ideal = sorted(judgements.values(), reverse=True)[:depth]
    return _discounted(gains) / _discounted(ideal)


def recall(ranking: Sequence[str], judgements: Judgements, depth: int = 20) -> float:
    """Share of the relevant chunks that are among the first `depth` results. One judgement must be above 0."""
    relevant = _relevant(judgements)
    return len(relevant.intersection(ranking[:depth])) / len(relevant)


def reciprocal_rank(ranking: Sequence[str], judgements: Judgements, depth: int = 10) -> float:
    """1 divided by the rank of the first relevant chunk; 0.0 if there is none among the first `depth`."""
    relevant = _relevant(judgements)
    return next((1 / rank for rank, chunk_id in enumerate(ranking[:depth], start=1) if chunk_id in relevant), 0.0)


def estimate(values: ArrayLike) -> Estimate:
    """The mean of one value per query, with its bootstrap interval. The random seed is fixed."""
    sample = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(SEED)
    means = [sample[random.integers(len(sample), size=len(sample))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(sample.mean()), float(low), float(high))


def milliseconds(seconds: ArrayLike, percentile: float) -> float:
    """A percentile of durations, in milliseconds."""
    return round(float(np.percentile(np.asarray(seconds, dtype=np.float64), percentile)) * 1000, 3)


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


def _relevant(judgements: Judgements) -> set[str]:
    return {chunk_id for chunk_id, score in judgements.items() if score > 0}

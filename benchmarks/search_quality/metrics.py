"""How good a ranking is, and how sure one can be of an average over queries.

A ranking is a list of chunk ids, best first; judgements give the chunks that answer a query a score, all others have
none. Figures are 0.0 to 1.0, the higher the better.
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
    """An average over queries, and where it would lie for 95 % of such sets of queries."""

    mean: float
    low: float
    high: float


def ndcg(ranking: Sequence[str], judgements: Judgements, depth: int = 10) -> float:
    """Gain (the judgement's score, less the lower it stands) over that of the best possible ranking."""
    gains = [judgements.get(chunk_id, 0.0) for chunk_id in ranking[:depth]]
    ideal = sorted(judgements.values(), reverse=True)[:depth]
    return _discounted(gains) / _discounted(ideal)


def recall(ranking: Sequence[str], judgements: Judgements, depth: int = 20) -> float:
    """Share of the chunks that answer the query that were found at all."""
    answers = _answers(judgements)
    return len(answers.intersection(ranking[:depth])) / len(answers)


def reciprocal_rank(ranking: Sequence[str], judgements: Judgements, depth: int = 10) -> float:
    """1 over the place of the first chunk that answers the query; 0.0 when there is none."""
    answers = _answers(judgements)
    return next((1 / place for place, chunk_id in enumerate(ranking[:depth], start=1) if chunk_id in answers), 0.0)


def estimate(values: ArrayLike) -> Estimate:
    """The mean of one value a query, with its bootstrap interval; the same values give the same interval."""
    sample = np.asarray(values, dtype=np.float64)
    random = np.random.default_rng(SEED)
    means = [sample[random.integers(len(sample), size=len(sample))].mean() for _ in range(RESAMPLES)]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(sample.mean()), float(low), float(high))


def milliseconds(seconds: ArrayLike, percentile: float) -> float:
    """A percentile of some durations."""
    return round(float(np.percentile(np.asarray(seconds, dtype=np.float64), percentile)) * 1000, 3)


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(place + 1) for place, gain in enumerate(gains, start=1))


def _answers(judgements: Judgements) -> set[str]:
    return {chunk_id for chunk_id, score in judgements.items() if score > 0}

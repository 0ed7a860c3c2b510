"""Chooses results that differ from one another.

This is maximal marginal relevance (MMR):
Carbonell and Goldstein, "The use of MMR, diversity-based reranking for reordering documents and producing summaries",
SIGIR 1998. The best hit is chosen first, and then again and again the one with the highest

    (1 - diversity) · relevance - diversity · similarity to the nearest chosen hit.

Scores have another range with each method, and cosines with each model. So both are scaled to reach from 0 to 1 among
the candidates.

Only the choice depends on the diversity. The chosen hits stay in the order of their scores, because the score of an
answer orders its results.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from retrieval.cosines import Cosines
from retrieval.search import Hit

CANDIDATES = 4
"""Candidates for each result."""
_DIGITS = 6
"""Values are rounded to this number of decimals, so that rounding errors decide nothing."""


def diverse(cosines: Cosines, hits: Sequence[Hit], limit: int, diversity: float) -> list[Hit]:
    """The `limit` hits that are chosen by MMR, in the order of their scores.

    Args:
        cosines: Those of the course, which compare the vectors of the hits.
        hits: The candidates, best first.
        limit: Number of hits to choose.
        diversity: 0.0 (the best hits) to 1.0 (the best hit, and those least similar to what is chosen).
    """
    if not diversity or len(hits) <= limit:
        return list(hits[:limit])
    relevance = (1 - diversity) * _scaled(np.array([hit.score for hit in hits], dtype=np.float64))
    similarity = diversity * _scaled(cosines.among(np.array([hit.row for hit in hits])))
    chosen, nearest = [0], similarity[0]
    while len(chosen) < limit:
        value = np.round(relevance - nearest, _DIGITS)
        value[chosen] = -np.inf
        chosen.append(int(value.argmax()))  # of equal values the first, which has the best score
        nearest = np.maximum(nearest, similarity[chosen[-1]])
    return [hits[at] for at in sorted(chosen)]


def _scaled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values such that the lowest is 0 and the highest 1, of a matrix without its diagonal; 0 if all are equal."""
    others = values if values.ndim == 1 else values[~np.eye(len(values), dtype=bool)]
    lowest, highest = others.min(), others.max()
    if highest - lowest < 10**-_DIGITS:
        return np.zeros_like(values)
    scaled: NDArray[np.float64] = (values - lowest) / (highest - lowest)
    return scaled

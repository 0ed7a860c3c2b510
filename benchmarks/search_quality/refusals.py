"""Tells how well an answer shows that a course does not cover a question: questions of one course asked of another.

A value is the highest `relevance` of a result, or the score of the first where the API gives no relevance; minus
infinity without a result. Questions of the course itself should have high values, questions of other courses low ones.
"""

from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import Any, NamedTuple

import numpy as np

from benchmarks.search_quality.retrieval_sets import RetrievalSet

TRUE_REFUSALS = 0.8
"""The threshold of a value is chosen so that this share of the questions of other courses is refused."""
FOREIGN_QUERIES = 100
"""Maximum number of questions of another course, evenly spaced."""


class Verdict(NamedTuple):
    """What an answer says about the question."""

    value: float
    """Highest relevance, or score of the first result; minus infinity without a result."""
    answerable: bool | None
    """Whether the course covers the question; None if the API does not tell."""
    judged_by: str
    """`relevance` or `score`."""


def verdict(answer: Mapping[str, Any]) -> Verdict:
    """The verdict of an answer of the search API."""
    answerable = answer.get("answerable")
    results = answer["results"]
    if not results:
        return Verdict(-inf, answerable, "relevance")
    relevances = [result.get("relevance") for result in results]
    if None in relevances:
        return Verdict(float(results[0]["score"]), answerable, "score")
    return Verdict(float(max(relevances)), answerable, "relevance")


def refusal_figures(own: Sequence[Verdict], foreign: Sequence[Verdict]) -> dict[str, Any]:
    """How well verdicts on a course's own questions differ from those on the questions of other courses.

    The area under the ROC curve is the chance that a question of its own has a higher value than one of another course.
    """
    own_values = np.array([verdict.value for verdict in own])
    foreign_values = np.sort([verdict.value for verdict in foreign])
    below, not_above = (np.searchsorted(foreign_values, own_values, side) for side in ("left", "right"))
    highest_refused = foreign_values[ceil(TRUE_REFUSALS * len(foreign_values)) - 1]
    verdicts = [*own, *foreign]
    tells = all(verdict.answerable is not None for verdict in verdicts)
    return {
        "own": len(own),
        "foreign": len(foreign),
        "judged_by": "score" if any(verdict.judged_by == "score" for verdict in verdicts) else "relevance",
        "auroc": round(float((below + not_above).mean() / 2 / len(foreign_values)), 4),
        "false_refusals": round(float((own_values <= highest_refused).mean()), 4),
        "own_answerable": _share(own) if tells else None,
        "foreign_answerable": _share(foreign) if tells else None,
    }


def are_related(first: RetrievalSet, second: RetrievalSet) -> bool:
    """Whether one may answer the questions of the other: they share a chunk, or half of the ids of their lectures.

    Translations of a book have the same lectures.
    """
    shared = len(first.lecture_ids & second.lecture_ids)
    least = min(len(first.lecture_ids), len(second.lecture_ids))
    return bool(first.chunk_ids & second.chunk_ids) or 2 * shared >= least


def _share(verdicts: Sequence[Verdict]) -> float:
    return round(sum(bool(verdict.answerable) for verdict in verdicts) / len(verdicts), 4)

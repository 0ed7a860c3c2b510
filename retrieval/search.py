"""A query over one course: every chunk scored by each channel, the scores fused, the best taken.

    query, course index → scores of a channel (chunks,) → one score (chunks,) → rows, best first → hits

Chunks with the very same text are one hit, which names them all. The order is the same at every call: equal scores are
ordered by the cosine, then by the chunk's id.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding.vectors import Vectors
from retrieval import fusion
from retrieval.analysis import terms
from retrieval.course_index import CourseIndex
from retrieval.fusion import Fused, Mask, Scores, Weights

_EQUAL = 1e-6
"""Scores that differ by less are equal: the same product is off by as much from one row to another."""


class Method(StrEnum):
    """Which channels a search listens to."""

    VECTOR = "vector"
    KEYWORD = "keyword"
    HYBRID = "hybrid"


class Fusion(StrEnum):
    """How the scores of two channels become one."""

    WEIGHTED = "weighted"
    RRF = "rrf"


class Query(NamedTuple):
    """One phrasing of what is looked for."""

    text: str
    vector: Vectors | None
    """Unit vector (dimensions,); without one, the words alone are searched for."""
    legibility: float = 1.0
    """How much of the text the embedding model can read, 0.0 to 1.0."""


@dataclass(frozen=True)
class Thresholds:
    """What a hit must reach; None asks nothing, and 0.0 is a threshold."""

    score: float | None = None
    """Of the final score."""
    vector: float | None = None
    """Of the cosine."""
    keyword: float | None = None
    """Of the keyword score as a share of the best possible."""


@dataclass(frozen=True)
class Options:
    """How to search."""

    method: Method = Method.HYBRID
    fusion: Fusion = Fusion.WEIGHTED
    weights: Weights | None = None
    """None: the surer channel counts for more, see `fusion`."""
    thresholds: Thresholds = Thresholds()
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)


class Explanation(NamedTuple):
    """Where the score of a hit comes from."""

    query: int
    """Which of the queries found it."""
    cosine: float | None
    """Cosine similarity; None in a search for words alone."""
    bm25: float
    keyword_share: float
    """BM25 over that of a chunk that says nothing but the query."""
    vector_part: float
    """What the vector adds to the score."""
    keyword_part: float
    """What words add to it."""
    weights: Weights | None
    """What the channels of a hybrid search counted for, adding up to 1."""
    terms: tuple[str, ...]
    """Terms of the query, whether the chunk holds them or not."""


class Hit(NamedTuple):
    """A text that was found."""

    row: int
    """Of the chunk; of several with this text, the best, or the one with the lowest id."""
    score: float
    copies: tuple[int, ...]
    """Rows of the others."""
    explanation: Explanation


class _Scored(NamedTuple):
    """What one query says of every chunk."""

    final: Scores
    cosines: Scores | None
    bm25: Scores
    share: Scores
    """BM25 as a share of what the query could reach."""
    fused: Fused | None
    terms: Mapping[str, int]


def search(index: CourseIndex, queries: Sequence[Query], options: Options, limit: int) -> list[Hit]:
    """The best `limit` texts of the course, best first; with several queries, a chunk counts as its best one.

    The threshold of the final score is left to the caller, who may yet change that score by reranking.
    """
    mask = index.mask(options.filters)
    if not len(index) or (mask is not None and not mask.any()):
        return []
    compared = index.distinct(mask) if options.method is Method.HYBRID else mask
    scored = [_score(index, query, options, mask, compared) for query in queries]
    finals = [_allowed(one, options.thresholds, mask) for one in scored]
    final = finals[0] if len(finals) == 1 else np.max(finals, axis=0)
    cosines = [one.cosines for one in scored if one.cosines is not None]
    nearest = np.max(cosines, axis=0) if len(cosines) > 1 else next(iter(cosines), None)
    hits: list[Hit] = []
    for row in _best_first(final, nearest, index, limit):
        which = 0 if len(finals) == 1 else int(np.argmax([one[row] for one in finals]))
        copies = tuple(copy for copy in index.copies(row) if copy != row and final[copy] > -np.inf)
        hits.append(Hit(row, float(final[row]), copies, _explain(scored[which], row, which)))
    return hits


def _score(index: CourseIndex, query: Query, options: Options, mask: Mask | None, compared: Mask | None) -> _Scored:
    """What a query says of the chunks; `compared`: those of the mask, each text once."""
    counts = Counter(terms(query.text))
    bm25 = index.keywords.scores(counts)
    ideal = index.keywords.ideal(counts)
    share = bm25 / np.float32(ideal) if ideal else bm25
    cosines = None if query.vector is None else index.cosines(query.vector, mask)
    if cosines is None or options.method is Method.KEYWORD:
        return _Scored(np.where(bm25 > 0, share, np.float32(-np.inf)), None, bm25, share, None, counts)
    if options.method is Method.VECTOR:
        return _Scored(cosines, cosines, bm25, share, None, counts)
    if options.fusion is Fusion.RRF:
        weights = options.weights or fusion.weights_for(query.legibility)
        fused = fusion.reciprocal_rank(cosines, bm25, weights, compared)
    elif options.weights:
        fused = fusion.weighted_sum(cosines, bm25, options.weights, compared)
    else:
        fused = fusion.by_certainty(cosines, bm25, query.legibility, compared)
    return _Scored(fused.score, cosines, bm25, share, fused, counts)


def _allowed(scored: _Scored, thresholds: Thresholds, mask: Mask | None) -> Scores:
    """The final scores; minus infinity for what is filtered out or does not reach a channel's threshold."""
    allowed = mask
    for scores, least in ((scored.cosines, thresholds.vector), (scored.share, thresholds.keyword)):
        if scores is not None and least is not None:
            reached = scores >= least
            allowed = reached if allowed is None else allowed & reached
    return scored.final if allowed is None else np.where(allowed, scored.final, np.float32(-np.inf))


def _best_first(final: Scores, nearest: Scores | None, index: CourseIndex, limit: int) -> list[int]:
    """Rows of the `limit` best different texts, by score, cosine and chunk id; of each text its best row."""
    wanted = limit
    while True:
        least = np.partition(final, -wanted)[-wanted] - _EQUAL if wanted < len(final) else -np.inf
        rows = np.flatnonzero((final >= least) & (final > -np.inf))
        keys = [-_rounded(scores[rows]) for scores in (nearest, final) if scores is not None]
        rows = rows[np.lexsort((rows, *keys))]
        by_text: dict[int, int] = {}
        for row in rows.tolist():
            by_text.setdefault(index.copies(row)[0], row)
        if len(by_text) >= limit or least == -np.inf:
            return list(by_text.values())[:limit]
        wanted *= 4


def _rounded(scores: Scores) -> NDArray[np.float64]:
    return np.round(scores.astype(np.float64) / _EQUAL)


def _explain(scored: _Scored, row: int, query: int) -> Explanation:
    score = float(scored.final[row])
    if scored.fused:
        vector_part, keyword_part = float(scored.fused.vector[row]), float(scored.fused.keyword[row])
    else:
        vector_part, keyword_part = (0.0, score) if scored.cosines is None else (score, 0.0)
    return Explanation(
        query,
        None if scored.cosines is None else float(scored.cosines[row]),
        float(scored.bm25[row]),
        float(scored.share[row]),
        vector_part,
        keyword_part,
        scored.fused.weights if scored.fused else None,
        tuple(scored.terms),
    )

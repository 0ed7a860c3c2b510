"""Searches one course in memory: each channel scores every chunk, the scores are fused, the best chunks are returned.

    queries, course index → scores per channel (chunks,) → fused scores (chunks,) → rows, best first → hits

Chunks with exactly the same text form one hit, which lists all of them. The order is deterministic: chunks with equal
scores are ordered by cosine, then by chunk id.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from retrieval import fusion
from retrieval.course_index import CourseIndex
from retrieval.fusion import FusedScores, Mask, Scores, Weights
from retrieval.keywords.analysis import terms

_TOLERANCE = 1e-6
"""Scores are rounded to multiples of this before they are compared: rounding in the matrix product can differ by this
much between rows."""


class Method(StrEnum):
    """Which channels a search uses."""

    VECTOR = "vector"
    KEYWORD = "keyword"
    HYBRID = "hybrid"


class Fusion(StrEnum):
    """How a hybrid search combines the scores of both channels."""

    WEIGHTED = "weighted"
    RRF = "rrf"


class Query(NamedTuple):
    """One phrasing of the query."""

    text: str
    vector: Vectors | None
    """Unit vector (dimensions,); None in a keyword search."""
    legibility: float = 1.0
    """Share of the letters that the embedding model can read, 0.0 to 1.0 (see `embedding.engine.legibility`)."""


@dataclass(frozen=True)
class Thresholds:
    """Minimum scores of a hit. None means no threshold, which differs from 0.0."""

    vector: float | None = None
    """Minimum cosine similarity."""
    keyword: float | None = None
    """Minimum BM25 score, as a share of the highest score possible for the query."""


@dataclass(frozen=True)
class SearchOptions:
    """The options of a search."""

    method: Method = Method.HYBRID
    fusion: Fusion = Fusion.WEIGHTED
    weights: Weights | None = None
    """None: certainty-weighted fusion, or the default weights for the query's legibility in RRF
    (`retrieval.fusion`)."""
    thresholds: Thresholds = Thresholds()
    filters: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Accepted values for each metadata field. A hit has an accepted value in every field."""


class Explanation(NamedTuple):
    """How the score of a hit was computed."""

    query: int
    """Index of the query with the highest score for this hit."""
    cosine: float | None
    """Cosine similarity; None in a keyword search."""
    bm25: float
    keyword_share: float
    """BM25 score as a share of the highest score possible for the query."""
    vector_part: float
    """Contribution of the vector channel to the score."""
    keyword_part: float
    """Contribution of the keyword channel to the score."""
    weights: Weights | None
    """Weights of the channels, with a sum of 1; None unless the search is hybrid."""
    terms: tuple[str, ...]
    """All terms of the query, including terms that the chunk does not contain."""


class Hit(NamedTuple):
    """One result of a search: a text, with all chunks that have this text."""

    record: Record
    """The best chunk with this text; of equal ones, the first by id."""
    score: float
    """Vector: -1.0 to 1.0. Keyword and weighted fusion: up to 1.0. RRF: up to 1/61. Reranked: a probability."""
    copies: tuple[Record, ...] = ()
    """The other chunks with this text."""
    row: int = -1
    """Row of the chunk in the course index; -1 if Chroma found it."""
    explanation: Explanation | None = None
    """None if Chroma found it."""


class _QueryScores(NamedTuple):
    """The scores of every chunk for one query, each (chunks,)."""

    final: Scores
    cosines: Scores | None
    bm25: Scores
    keyword_share: Scores
    """BM25 score as a share of the highest score possible for the query."""
    fused: FusedScores | None
    terms: Mapping[str, int]


def search_index(index: CourseIndex, queries: Sequence[Query], options: SearchOptions, limit: int) -> list[Hit]:
    """The best `limit` texts of the course, best first.

    With several queries, the score of a chunk is its highest one. The caller applies any threshold for the final score,
    because reranking may replace that score.
    """
    mask = index.mask(options.filters)
    if not len(index) or (mask is not None and not mask.any()):
        return []
    # Certainty compares each text once, so that copies do not change it.
    compared = index.distinct(mask) if options.method is Method.HYBRID else mask
    scored = [_score(index, query, options, mask, compared) for query in queries]
    finals = [_with_thresholds(scores, options.thresholds, mask) for scores in scored]
    final = finals[0] if len(finals) == 1 else np.max(finals, axis=0)
    cosines = [scores.cosines for scores in scored if scores.cosines is not None]
    nearest = np.max(cosines, axis=0) if len(cosines) > 1 else next(iter(cosines), None)
    hits: list[Hit] = []
    for row in _best_rows(final, nearest, index, limit):
        query = 0 if len(finals) == 1 else int(np.argmax([scores[row] for scores in finals]))
        copies = tuple(index.records[copy] for copy in index.copies(row) if copy != row and final[copy] > -np.inf)
        explanation = _explain(scored[query], row, query)
        hits.append(Hit(index.records[row], float(final[row]), copies, row, explanation))
    return hits


def _score(
    index: CourseIndex, query: Query, options: SearchOptions, mask: Mask | None, compared: Mask | None
) -> _QueryScores:
    """The scores of every chunk for one query; `compared` is the mask with each text once."""
    counts = Counter(terms(query.text))
    bm25 = index.keywords.scores(counts)
    highest = index.keywords.highest_score(counts)
    share = bm25 / np.float32(highest) if highest else bm25
    cosines = None if query.vector is None else index.cosines(query.vector, mask)
    if cosines is None or options.method is Method.KEYWORD:
        return _QueryScores(np.where(bm25 > 0, share, np.float32(-np.inf)), None, bm25, share, None, counts)
    if options.method is Method.VECTOR:
        return _QueryScores(cosines, cosines, bm25, share, None, counts)
    if options.fusion is Fusion.RRF:
        weights = options.weights or fusion.weights_for(query.legibility)
        fused = fusion.reciprocal_rank_fusion(cosines, bm25, weights, compared)
    elif options.weights:
        fused = fusion.weighted_sum(cosines, bm25, options.weights, compared)
    else:
        fused = fusion.certainty_weighted(cosines, bm25, query.legibility, compared)
    return _QueryScores(fused.score, cosines, bm25, share, fused, counts)


def _with_thresholds(scores: _QueryScores, thresholds: Thresholds, mask: Mask | None) -> Scores:
    """The final scores (chunks,); minus infinity for chunks outside the mask or below a threshold."""
    allowed = mask
    for channel, threshold in ((scores.cosines, thresholds.vector), (scores.keyword_share, thresholds.keyword)):
        if channel is not None and threshold is not None:
            reached = channel >= threshold
            allowed = reached if allowed is None else allowed & reached
    return scores.final if allowed is None else np.where(allowed, scores.final, np.float32(-np.inf))


def _best_rows(final: Scores, nearest: Scores | None, index: CourseIndex, limit: int) -> list[int]:
    """Rows of the best `limit` distinct texts, by score, then cosine, then chunk id."""
    candidates = limit
    while True:
        least = np.partition(final, -candidates)[-candidates] - _TOLERANCE if candidates < len(final) else -np.inf
        rows = np.flatnonzero((final >= least) & (final > -np.inf))
        keys = [-_rounded(scores[rows]) for scores in (nearest, final) if scores is not None]
        rows = rows[np.lexsort((rows, *keys))]
        by_text: dict[int, int] = {}
        for row in rows.tolist():
            by_text.setdefault(index.copies(row)[0], row)
        if len(by_text) >= limit or least == -np.inf:
            return list(by_text.values())[:limit]
        candidates *= 4


def _rounded(scores: Scores) -> NDArray[np.float64]:
    return np.round(scores.astype(np.float64) / _TOLERANCE)


def _explain(scores: _QueryScores, row: int, query: int) -> Explanation:
    score = float(scores.final[row])
    if scores.fused:
        vector_part, keyword_part = float(scores.fused.vector[row]), float(scores.fused.keyword[row])
    else:
        vector_part, keyword_part = (0.0, score) if scores.cosines is None else (score, 0.0)
    return Explanation(
        query,
        None if scores.cosines is None else float(scores.cosines[row]),
        float(scores.bm25[row]),
        float(scores.keyword_share[row]),
        vector_part,
        keyword_part,
        scores.fused.weights if scores.fused else None,
        tuple(scores.terms),
    )

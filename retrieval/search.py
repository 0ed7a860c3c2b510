"""Searches one course: each channel scores every chunk, the scores are fused, the best chunks are returned.

    queries, snapshot → scores per channel (chunks,) → fused scores (chunks,) → rows, best first → hits

The cosines of all chunks are approximate in a large course. With the bound of their errors they give an upper bound of
each fused score. Exact scores are computed of the chunks whose upper bound reaches the exact score of the last hit, so
the hits, their scores and their order are those of exact cosines.

Chunks with exactly the same text form one hit. The order is deterministic: chunks with equal scores are ordered by
cosine, then by chunk id.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding.vectors import Vectors
from retrieval import fusion
from retrieval.analysis import terms
from retrieval.fusion import FusedScores, Fuser, Scores, Weights
from retrieval.snapshots.snapshot import CourseSnapshot, Rows

_TOLERANCE = 1e-6
"""Scores are rounded to multiples of this before they are compared, so that rounding errors decide nothing."""
_DIGITS = 6
"""Ranks are those of cosines that are rounded to this number of decimals."""


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

    def by_keyword(self) -> "SearchOptions":
        """The same options for a search by words only."""
        return replace(self, method=Method.KEYWORD, thresholds=Thresholds(keyword=self.thresholds.keyword))


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
    """One result of a search: a text."""

    row: int
    """The first chunk by id with this text, among those that pass the filters."""
    score: float
    """Vector: -1.0 to 1.0. Keyword and weighted fusion: up to 1.0. RRF: up to 1/61. Reranked: a probability."""
    copies: Rows
    """The other chunks with this text, among those that pass the filters."""
    explanation: Explanation


def search_snapshot(
    snapshot: CourseSnapshot, queries: Sequence[Query], options: SearchOptions, limit: int
) -> list[Hit]:
    """The best `limit` texts of the course, best first.

    With several queries, the score of a chunk is its highest one. The caller applies any threshold for the final score,
    because reranking may replace that score.
    """
    passing = snapshot.rows(options.filters)
    rows = snapshot.distinct(passing)
    if not (len(snapshot) if rows is None else len(rows)):
        return []
    scored = [_QueryScores(snapshot, query, options, rows) for query in queries]
    upper = scored[0].upper if len(scored) == 1 else np.max([scores.upper for scores in scored], axis=0)
    places = _highest(upper, 2 * limit)
    exact, finals, best = _exact_scores(scored, places)
    if limit <= len(places) < len(upper):
        least = np.partition(best, -limit)[-limit] - _TOLERANCE
        reaching = np.flatnonzero((upper > -np.inf) & (upper >= least))
        if len(reaching) > len(places):
            places = reaching
            exact, finals, best = _exact_scores(scored, places)
    keys = [-_rounded(best)]
    if exact[0].cosines is not None:
        keys.insert(0, -_rounded(np.max([scores.cosines for scores in exact if scores.cosines is not None], axis=0)))
    order = np.lexsort((places, *keys))
    order = order[best[order] > -np.inf][:limit]
    hits: list[Hit] = []
    for at in order.tolist():
        query = 0 if len(finals) == 1 else int(np.argmax([final[at] for final in finals]))
        row = int(places[at] if rows is None else rows[places[at]])
        explanation = scored[query].explain(exact[query], at, query)
        hits.append(Hit(row, float(best[at]), snapshot.copies(row, passing), explanation))
    return hits


def _highest(upper: Scores, limit: int) -> NDArray[np.intp]:
    """Where the `limit` highest upper bounds are."""
    return np.argpartition(upper, -limit)[-limit:] if limit < len(upper) else np.arange(len(upper))


def _exact_scores(
    scored: Sequence["_QueryScores"], places: NDArray[np.intp]
) -> tuple[list["_ExactScores"], list[Scores], Scores]:
    """The exact scores of the chunks in these places for each query, the final ones of these, and the best of those."""
    exact = [scores.exact(places) for scores in scored]
    finals = [scores.final for scores in exact]
    return exact, finals, finals[0] if len(finals) == 1 else np.max(finals, axis=0)


class _ExactScores(NamedTuple):
    """The exact scores of some chunks for one query, each (chunks,)."""

    final: Scores
    """Minus infinity below a threshold, and in a keyword search without any of the words."""
    cosines: Scores | None
    fused: FusedScores
    places: NDArray[np.intp]


class _QueryScores:
    """The scores of every chunk that is compared, for one query.

    Args:
        snapshot: The course.
        query: The query.
        options: The options of the search.
        rows: The chunks that are compared: those that pass the filters, each text once; None for all chunks.
    """

    def __init__(self, snapshot: CourseSnapshot, query: Query, options: SearchOptions, rows: Rows | None) -> None:
        self._snapshot, self._rows, self._vector = snapshot, rows, query.vector
        self._thresholds = options.thresholds
        counts = Counter(terms(query.text))
        self._terms = tuple(counts)
        bm25, highest = snapshot.bm25.scores(counts)
        self._bm25, self._highest = self._compared(bm25), highest or 1.0
        self._is_rrf = options.method is Method.HYBRID and options.fusion is Fusion.RRF
        self._cosines: Scores | None = None
        if query.vector is None or options.method is Method.KEYWORD:
            self._fuser = _by_keyword(self._highest)
            self.upper = self._final(self._fuser.fuse(self._bm25, self._bm25), None, self._bm25)
            return
        if self._is_rrf:  # ranks must not be approximate
            self._cosines = self._compared(snapshot.cosines.product(query.vector)).round(_DIGITS)
            bounds = self._cosines
        else:
            self._cosines, bounds = snapshot.cosines.approximate(query.vector, rows)
        self._fuser = self._fuser_of(options, query.legibility, self._cosines)
        self.upper = self._final(self._fuser.fuse(bounds, self._bm25), bounds, self._bm25)

    def exact(self, places: NDArray[np.intp]) -> _ExactScores:
        """The exact scores of the chunks in these places."""
        bm25, cosines = self._bm25[places], None
        if self._is_rrf and self._cosines is not None:
            cosines = self._cosines[places]
        elif self._cosines is not None and self._vector is not None:
            rows = places if self._rows is None else self._rows[places]
            cosines = self._snapshot.cosines.exact(self._vector, rows)
        fused = self._fuser.fuse(bm25 if cosines is None else cosines, bm25)
        return _ExactScores(self._final(fused, cosines, bm25), cosines, fused, places)

    def explain(self, exact: _ExactScores, at: int, query: int) -> Explanation:
        """How the score of one of the chunks was computed."""
        bm25 = float(self._bm25[exact.places[at]])
        return Explanation(
            query,
            None if exact.cosines is None else float(exact.cosines[at]),
            bm25,
            bm25 / self._highest,
            float(exact.fused.vector[at]),
            float(exact.fused.keyword[at]),
            self._fuser.weights,
            self._terms,
        )

    def _compared(self, scores: Scores) -> Scores:
        return scores if self._rows is None else scores[self._rows]

    def _fuser_of(self, options: SearchOptions, legibility: float, cosines: Scores) -> Fuser:
        if options.method is Method.VECTOR:
            return _BY_VECTOR
        if options.fusion is Fusion.RRF:
            weights = options.weights or fusion.weights_for(legibility)
            return fusion.reciprocal_rank_fusion(cosines, self._bm25, weights)
        if options.weights:
            return fusion.weighted_sum(self._bm25, options.weights)
        return fusion.certainty_weighted(cosines, self._bm25, legibility)

    def _final(self, fused: FusedScores, cosines: Scores | None, bm25: Scores) -> Scores:
        final = fused.score
        if cosines is None:
            final = np.where(bm25 > 0, final, -np.inf)
        elif self._thresholds.vector is not None:
            least = min(max(self._thresholds.vector, -2.0), 2.0) - _TOLERANCE
            final = np.where(cosines >= least, final, -np.inf)
        if self._thresholds.keyword is not None:
            shares = bm25.astype(np.float64) / self._highest  # as in the explanation
            final = np.where(shares >= self._thresholds.keyword, final, -np.inf)
        return final


_BY_VECTOR = Fuser(lambda cosines, bm25: FusedScores(cosines, np.zeros_like(bm25)), None)


def _by_keyword(highest: float) -> Fuser:
    return Fuser(lambda _, bm25: FusedScores(np.zeros_like(bm25), bm25 / highest), None)


def _rounded(scores: Scores) -> Scores:
    return np.round(scores.astype(np.float64) / _TOLERANCE)

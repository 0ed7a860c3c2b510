"""Searches one course: each channel scores every chunk, the scores are fused, the best chunks are returned.

    queries, snapshot → scores per channel (chunks,) → fused scores (chunks,) → rows, best first → hits

The cosines of all chunks are approximate in a large course. With the bound of their errors they give an upper bound of
each fused score. Exact scores are computed of the chunks whose upper bound reaches the exact score of the last hit, so
the hits, their scores and their order are those of exact cosines.

Chunks that nothing supports are left out: no word of the query, and a cosine that questions of other fields reach, too.
Chunks with exactly the same text form one hit. So do near-duplicates (`retrieval.near_duplicates`), of which the best
one is the hit. The order is deterministic: chunks with equal scores are ordered by
cosine, then by chunk id.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import EllipsisType
from typing import NamedTuple, overload

import numpy as np
from numpy.typing import NDArray

from embedding.vectors import Vectors
from retrieval import fusion
from retrieval.analysis.query import analyse_query
from retrieval.filters import Filter
from retrieval.fusion import FusedScores, Fuser, Scores, Weights
from retrieval.lecture_order import UpTo
from retrieval.query_terms import QueryTerms, resolve
from retrieval.relevance import Calibration, KeywordEvidence, relevance
from retrieval.snapshots.snapshot import CourseSnapshot, Rows

_TOLERANCE = 1e-6
"""Scores are rounded to multiples of this before they are compared, so that rounding errors decide nothing."""
LEAST_SUPPORT = 0.02
"""A chunk with a smaller share of the best BM25 score has no word of the query but words of grammar."""
_JUDGED = 20
"""Relevance is computed of this number of chunks at least, so that the best of it does not depend on the limit."""
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
    words: QueryTerms | None = None
    """The text in the terms of the course, if they are known already."""


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
    filters: Filter | None = None
    """Which chunks may be hits; None for all."""
    up_to: UpTo | None = None
    """The last lecture that a hit may be of; None for all, and for chunks without a lecture."""

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
    words: QueryTerms
    """The terms of the query, including terms that the chunk does not contain."""


class Hit(NamedTuple):
    """One result of a search: a text."""

    row: int
    """The first chunk by id with this text, among those that pass the filters."""
    score: float
    """Vector: -1.0 to 1.0. Keyword and weighted fusion: up to 1.0. RRF: up to 1/61. Reranked: a probability."""
    copies: Rows
    """The other chunks with this text, among those that pass the filters."""
    near_copies: Rows
    """The chunks with nearly this text, among those that pass the filters."""
    relevance: float | None
    """The chance that it answers, 0.0 to 1.0 (`retrieval.relevance`); None if it cannot be estimated."""
    explanation: Explanation


class RankedHits(Sequence[Hit]):
    """Hits, best first. Each is made when it is accessed, because an answer shows few of those that are counted.

    Args:
        rows: Their rows in the snapshot, (hits,).
        scores: Their scores, (hits,).
        relevances: Their relevance, (hits,); None if it cannot be estimated.
        is_complete: Whether these are all hits of the search.
        hit: Makes the hit with this rank, from 0.
    """

    def __init__(
        self,
        rows: Rows,
        scores: Scores,
        relevances: Scores | None,
        *,
        is_complete: bool,
        hit: Callable[[int], Hit],
    ) -> None:
        self.rows = rows
        self.scores = scores
        self.relevances = relevances
        self.is_complete = is_complete
        self._hit = hit

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, rank: int) -> Hit: ...
    @overload
    def __getitem__(self, rank: slice) -> list[Hit]: ...
    def __getitem__(self, rank: int | slice) -> Hit | list[Hit]:
        ranks = range(len(self))[rank]
        return self._hit(ranks) if isinstance(ranks, int) else [self._hit(each) for each in ranks]


class Results(NamedTuple):
    """What a search found."""

    ranked: RankedHits
    """Best first."""
    best_relevance: float | None
    """The highest relevance of any chunk that may be a hit; None if it cannot be estimated."""
    unknown_terms: tuple[str, ...]
    """The words of the queries that the course never uses, as typed; without words of grammar."""

    @property
    def hits(self) -> list[Hit]:
        """All ranked hits."""
        return list(self.ranked)


def terms_of(text: str, snapshot: CourseSnapshot) -> QueryTerms:
    """A query in the terms of a course."""
    return resolve(analyse_query(text), snapshot.bm25)


def search_snapshot(
    snapshot: CourseSnapshot,
    queries: Sequence[Query],
    options: SearchOptions,
    limit: int,
    calibration: Calibration | None = None,
) -> Results:
    """The best `limit` texts of the course, best first.

    With several queries, the score of a chunk is the mean of its scores, and its relevance the highest one. The caller
    applies any threshold for the final score, because reranking may replace that score.

    Args:
        snapshot: The course.
        queries: The phrasings of one query.
        options: How to search.
        limit: Maximum number of hits. With the number of chunks, all of them are scored exactly.
        calibration: What cosines mean in this course. Without it, only a keyword search can estimate relevance.
    """
    passing = snapshot.rows(options.filters, options.up_to)
    rows = snapshot.distinct(passing)
    scored = [_QueryScores(snapshot, query, options, rows, calibration) for query in queries]
    unknown = tuple(dict.fromkeys(term for scores in scored for term in scores.unknown_terms))
    if not (len(snapshot) if rows is None else len(rows)):
        return Results(_NO_HITS, 0.0 if scored[0].estimates_relevance else None, unknown)
    least_final = -1.0 if options.method is Method.VECTOR else 0.0
    upper = _mean([scores.upper for scores in scored], least_final)
    count = max(2 * limit, _JUDGED)
    groups = snapshot.near_groups(np.arange(len(upper)) if rows is None else rows)
    candidates = upper
    if groups is None:
        places = _highest(upper, count)
    else:  # one of each group, so that they are as many hits
        candidates = _best_of_groups(upper, groups)
        places = _highest(candidates, count)
        places = places[candidates[places] > -np.inf]
    exact, finals, best = _exact_scores(scored, places, least_final)
    has_all = len(places) >= int(np.count_nonzero(candidates > -np.inf))
    if len(places) < len(upper):
        least = np.partition(best, -limit)[-limit] - _TOLERANCE if limit <= len(best) else -np.inf
        reaching = np.flatnonzero((upper > -np.inf) & (upper >= least))
        if len(reaching) > len(places):
            places, has_all = reaching, len(reaching) == int(np.count_nonzero(upper > -np.inf))
            exact, finals, best = _exact_scores(scored, places, least_final)
    keys = [-_rounded(best)]
    if exact[0].cosines is not None:
        keys.insert(0, -_rounded(np.max([scores.cosines for scores in exact if scores.cosines is not None], axis=0)))
    order = np.lexsort((places, *keys))
    order = order[best[order] > -np.inf]
    estimates: Scores | None = None
    if scored[0].estimates_relevance:
        estimates = np.max([scores.relevance(each) for scores, each in zip(scored, exact, strict=True)], axis=0)
    if groups is not None:
        order = order[np.sort(np.unique(groups[places[order]], return_index=True)[1])]
    is_complete = has_all and len(order) <= limit
    best_relevance = None if estimates is None else float(estimates[order].max(initial=0.0))
    order = order[:limit]
    ranked = places[order] if rows is None else rows[places[order]]

    def hit(rank: int) -> Hit:
        at, row = int(order[rank]), int(ranked[rank])
        query = 0 if len(finals) == 1 else int(np.argmax([final[at] for final in finals]))
        explanation = scored[query].explain(exact[query], at, query)
        estimate = None if estimates is None else float(estimates[at])
        copies, near_copies = snapshot.copies(row, passing), snapshot.near_copies(row, passing)
        return Hit(row, float(best[at]), copies, near_copies, estimate, explanation)

    relevances = None if estimates is None else estimates[order]
    hits = RankedHits(ranked, best[order], relevances, is_complete=is_complete, hit=hit)
    return Results(hits, best_relevance, unknown)


def _no_hit(rank: int) -> Hit:
    raise IndexError(rank)


_NO_HITS = RankedHits(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0), is_complete=True, hit=_no_hit)


def _mean(finals: Sequence["_FinalScores"], least: float) -> Scores:
    """The mean over the queries; -inf if a chunk passes and is supported for none.

    A score below a threshold counts `least`. One without support counts as it is, because not every phrasing has words
    or a meaning that the course knows.
    """
    if len(finals) == 1:
        return finals[0].passing
    passes = np.any([final.passing > -np.inf for final in finals], axis=0)
    stacked = np.stack([final.scores for final in finals])
    means: Scores = np.where(passes, np.where(stacked > -np.inf, stacked, least).mean(axis=0), -np.inf)
    return means


def _highest(upper: Scores, limit: int) -> NDArray[np.intp]:
    """Where the `limit` highest upper bounds are."""
    return np.argpartition(upper, -limit)[-limit:] if limit < len(upper) else np.arange(len(upper))


def _best_of_groups(upper: Scores, groups: Rows) -> Scores:
    """The upper bounds, minus infinity for all chunks of a group of near-duplicates but one with the highest."""
    sizes = np.bincount(groups)
    grouped = np.flatnonzero(sizes[groups] > 1)
    order = grouped[np.lexsort((-upper[grouped], groups[grouped]))]
    others = order[1:][groups[order[1:]] == groups[order[:-1]]]
    reduced = upper.copy()
    reduced[others] = -np.inf
    return reduced


def _exact_scores(
    scored: Sequence["_QueryScores"], places: NDArray[np.intp], least: float
) -> tuple[list["_ExactScores"], list[Scores], Scores]:
    """The exact scores of the chunks in these places for each query, the final ones of these, and their means."""
    exact = [scores.exact(places) for scores in scored]
    return exact, [scores.final.passing for scores in exact], _mean([scores.final for scores in exact], least)


def highest_relevance(
    snapshot: CourseSnapshot, queries: Sequence[Query], options: SearchOptions, calibration: Calibration | None
) -> float:
    """About the highest relevance of any chunk, in a fraction of the time of a search.

    It tells which of many courses are worth a search. Copies and support do not matter for that.

    Args:
        snapshot: The course.
        queries: The phrasings of one query, with their words.
        options: How to search.
        calibration: What cosines mean in this course; None in a search by words.
    """
    rows, best = snapshot.rows(options.filters, options.up_to), 0.0
    if not (len(snapshot) if rows is None else len(rows)):
        return best
    for query in queries:
        cosines, words = None, None
        if query.vector is not None and options.method is not Method.KEYWORD:
            _, cosines = snapshot.cosines.approximate(query.vector, rows)  # upper bounds, exact for the most similar
        if options.method is not Method.VECTOR:
            resolved = query.words or terms_of(query.text, snapshot)
            bm25, highest = snapshot.bm25.scores(resolved.terms, resolved.pairs)
            bm25 = bm25 if rows is None else bm25[rows]
            words = _keyword_evidence(snapshot, resolved, bm25, float(bm25.max()), highest or 1.0)
        best = max(best, float(_relevance(query, cosines, words, calibration).max()))
    return best


def _keyword_evidence(
    snapshot: CourseSnapshot, words: QueryTerms, bm25: Scores, best: float, highest: float
) -> KeywordEvidence:
    """What the words of a query say about chunks with these BM25 scores.

    Args:
        snapshot: The course.
        words: The query in its terms.
        bm25: The scores, (chunks,).
        best: The highest score of any chunk.
        highest: The highest score possible.
    """
    course = snapshot.bm25
    repeated = {term: weight - 1 for term, weight in words.terms.items() if weight > 1}
    length = (highest - course.highest(repeated)) / course.rarest
    share, shares = best / highest, bm25 / highest
    if words.is_vague:  # of words like `the`, the rare ones alone may mean something
        share, shares = share * min(1.0, length), shares * min(1.0, length)
    return KeywordEvidence(shares, share, length, 1 - words.known_share)


def _relevance(
    query: Query, cosines: Scores | None, words: KeywordEvidence | None, calibration: Calibration | None
) -> Scores:
    """The relevance of chunks, (chunks,), by their cosines, by their words, or by both."""
    between = None
    if cosines is not None and calibration:
        between = calibration.between(query.text, cosines)
        if not calibration.shares_script(query.text):
            words = None
    return relevance(between, words, fusion.readable(query.legibility))


class _FinalScores(NamedTuple):
    """The fused scores of some chunks for one query, or upper bounds of them, each (chunks,)."""

    scores: Scores
    """Minus infinity below a threshold."""
    is_supported: NDArray[np.bool_]

    @property
    def passing(self) -> Scores:
        """The scores; minus infinity if nothing supports the chunk."""
        passing: Scores = np.where(self.is_supported, self.scores, -np.inf)
        return passing


class _ExactScores(NamedTuple):
    """The exact scores of some chunks for one query, each (chunks,)."""

    final: _FinalScores
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
        calibration: What cosines mean in this course, if it was measured.
    """

    def __init__(
        self,
        snapshot: CourseSnapshot,
        query: Query,
        options: SearchOptions,
        rows: Rows | None,
        calibration: Calibration | None,
    ) -> None:
        self._snapshot, self._rows, self._query = snapshot, rows, query
        self._thresholds, self._calibration = options.thresholds, calibration
        self._words = query.words or terms_of(query.text, snapshot)
        bm25, highest = snapshot.bm25.scores(self._words.terms, self._words.pairs)
        self._bm25, self._highest = self._compared(bm25), highest or 1.0
        self._supported_by_words = self._bm25 > LEAST_SUPPORT * self._bm25.max(initial=0.0)
        self._method = Method.KEYWORD if query.vector is None else options.method
        self._is_rrf = self._method is Method.HYBRID and options.fusion is Fusion.RRF
        self._cosines: Scores | None = None
        if query.vector is None or self._method is Method.KEYWORD or not len(self._bm25):
            self._fuser = _by_keyword(self._highest)
            self.upper = self._final(self._fuser.fuse(self._bm25, self._bm25), None, ...)
            return
        if self._is_rrf:  # ranks must not be approximate
            self._cosines = self._compared(snapshot.cosines.product(query.vector)).round(_DIGITS)
            bounds = self._cosines
        else:
            self._cosines, bounds = snapshot.cosines.approximate(query.vector, rows)
        self._fuser = self._fuser_of(options, query.legibility, self._cosines)
        self.upper = self._final(self._fuser.fuse(bounds, self._bm25), bounds, ...)

    @property
    def unknown_terms(self) -> tuple[str, ...]:
        """The words of the query that the course never uses, as typed."""
        return self._words.unknown

    @property
    def estimates_relevance(self) -> bool:
        """Whether the relevance of a chunk can be estimated: cosines mean nothing without a calibration."""
        return self._method is Method.KEYWORD or self._calibration is not None

    def exact(self, places: NDArray[np.intp]) -> _ExactScores:
        """The exact scores of the chunks in these places."""
        bm25, cosines = self._bm25[places], None
        if self._is_rrf and self._cosines is not None:
            cosines = self._cosines[places]
        elif self._cosines is not None and self._query.vector is not None:
            rows = places if self._rows is None else self._rows[places]
            cosines = self._snapshot.cosines.exact(self._query.vector, rows)
        fused = self._fuser.fuse(bm25 if cosines is None else cosines, bm25)
        final = self._final(fused, cosines, places)
        return _ExactScores(final, cosines, fused, places)

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
            self._words,
        )

    def _compared(self, scores: Scores) -> Scores:
        return scores if self._rows is None else scores[self._rows]

    def _fuser_of(self, options: SearchOptions, legibility: float, cosines: Scores) -> Fuser:
        if self._method is Method.VECTOR:
            return _BY_VECTOR
        known = self._words.known_share
        if options.fusion is Fusion.RRF:
            weights = options.weights or fusion.weights_for(legibility, known)
            return fusion.reciprocal_rank_fusion(cosines, self._bm25, weights)
        if options.weights:
            return fusion.weighted_sum(self._bm25, options.weights)
        return fusion.certainty_weighted(cosines, self._bm25, legibility, known)

    def relevance(self, exact: _ExactScores) -> Scores:
        """The relevance of the chunks, (chunks,). Only if `estimates_relevance`."""
        words = None
        if self._method is not Method.VECTOR:
            bm25 = self._bm25[exact.places]
            words = _keyword_evidence(
                self._snapshot, self._words, bm25, float(self._bm25.max(initial=0.0)), self._highest
            )
        return _relevance(self._query, exact.cosines, words, self._calibration)

    def _final(
        self, fused: FusedScores, cosines: Scores | None, places: NDArray[np.intp] | EllipsisType
    ) -> _FinalScores:
        """The fused scores of the chunks in these places."""
        final, bm25 = fused.score, self._bm25[places]
        supported = np.ones(len(final), dtype=np.bool_)
        if self._method is not Method.VECTOR:
            supported = self._supported_by_words[places]
            if cosines is not None:
                supported = supported | self._supported_by_vector(cosines)
        if cosines is not None and self._thresholds.vector is not None:
            least = min(max(self._thresholds.vector, -2.0), 2.0) - _TOLERANCE
            final = np.where(cosines >= least, final, -np.inf)
        if self._thresholds.keyword is not None:
            shares = bm25.astype(np.float64) / self._highest  # as in the explanation
            final = np.where(shares >= self._thresholds.keyword, final, -np.inf)
        return _FinalScores(final, supported)

    def _supported_by_vector(self, cosines: Scores) -> NDArray[np.bool_]:
        """Whether a cosine is better than what questions of other fields reach; none if the vector does not count."""
        if self._fuser.weights and not self._fuser.weights.vector:
            return np.zeros(len(cosines), dtype=np.bool_)
        if not self._calibration:
            return np.ones(len(cosines), dtype=np.bool_)
        return cosines >= self._calibration.noise_of(self._query.text) - _TOLERANCE


_BY_VECTOR = Fuser(lambda cosines, bm25: FusedScores(cosines, np.zeros_like(bm25)), None)


def _by_keyword(highest: float) -> Fuser:
    return Fuser(lambda _, bm25: FusedScores(np.zeros_like(bm25), bm25 / highest), None)


def _rounded(scores: Scores) -> Scores:
    return np.round(scores.astype(np.float64) / _TOLERANCE)

"""Vectors that are hard to approximate, and a search that scores every chunk exactly."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from retrieval import fusion
from retrieval.analysis.query import analyse_query
from retrieval.fusion import FusedScores, Fuser
from retrieval.near_duplicates import overlaps
from retrieval.query_terms import resolve
from retrieval.search import LEAST_SUPPORT, Fusion, Method, Query, SearchOptions
from retrieval.snapshots.snapshot import CourseSnapshot, snapshot_arrays

Exact = NDArray[np.float64]


def unit(vectors: NDArray[Any]) -> Vectors:
    """Vectors (..., dimensions) of length 1."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    scaled: Vectors = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    return scaled


def _clusters(rng: np.random.Generator, rows: int, dimensions: int) -> NDArray[Any]:
    """Rows that are far apart, and others that differ from one of three by less than a code can express."""
    centres = rng.standard_normal((3, dimensions))
    near = centres[rng.integers(0, 3, rows)] + rng.standard_normal((rows, dimensions)) * 1e-4
    return np.where(rng.random((rows, 1)) < 0.5, near, rng.standard_normal((rows, dimensions)))


def _spiky(rng: np.random.Generator, rows: int, dimensions: int) -> NDArray[Any]:
    """One large component decides the scale of the codes, so that the others are lost."""
    spikes = np.eye(dimensions)[rng.integers(0, dimensions, rows)]
    return np.asarray(spikes * rng.choice([0, 1, 50], (rows, 1)) + rng.standard_normal((rows, dimensions)) * 0.05)


KINDS: Mapping[str, Callable[[np.random.Generator, int, int], NDArray[Any]]] = {
    "normal": lambda rng, rows, dimensions: rng.standard_normal((rows, dimensions)),
    "alike": lambda rng, rows, dimensions: (
        rng.standard_normal((rows, dimensions)) * 0.5 + rng.standard_normal(dimensions)
    ),
    "spiky": _spiky,
    "clusters": _clusters,
    "nearly equal": lambda rng, rows, dimensions: (
        rng.standard_normal(dimensions) + rng.standard_normal((rows, dimensions)) * 1e-5
    ),
    "equal": lambda rng, rows, dimensions: np.tile(rng.standard_normal(dimensions), (rows, 1)),
    "repeated": lambda rng, rows, dimensions: rng.standard_normal((4, dimensions))[rng.integers(0, 4, rows)],
    "signs": lambda rng, rows, dimensions: rng.choice([-1.0, 1.0], (rows, dimensions)),
    "one component": lambda rng, rows, dimensions: (
        np.eye(dimensions)[rng.integers(0, dimensions, rows)] * rng.choice([-1.0, 1.0], (rows, 1))
    ),
}


def query_vector(rng: np.random.Generator, vectors: Vectors) -> Vectors:
    """A random unit vector, or one near, equal or opposite to a row."""
    row = vectors[rng.integers(len(vectors))]
    noise = unit(rng.standard_normal(len(row)))
    return unit(np.stack([noise, row, -row, row + noise, row + noise * 1e-3, -row + noise])[rng.integers(6)])


def snapshot_of(
    vectors: Vectors, texts: Sequence[str], metadata: Sequence[Mapping[str, Any]] | None = None
) -> CourseSnapshot:
    """A snapshot in memory; the ids of its chunks ascend."""
    records = [Record(f"{row:05}", text, metadata[row] if metadata else {}, "hash") for row, text in enumerate(texts)]
    return CourseSnapshot(snapshot_arrays(records, vectors), CollectionInfo("c", "model", "signature"), 1)


def exact_cosines(vectors: Vectors, query: Vectors) -> Exact:
    return np.clip(vectors.astype(np.float64) @ query.astype(np.float64), -1, 1)


class Found(NamedTuple):
    row: int
    score: float
    copies: list[int]
    near_copies: list[int]


def brute_force(
    snapshot: CourseSnapshot,
    vectors: Vectors,
    metadata: Sequence[Mapping[str, Any]],
    queries: Sequence[Query],
    options: SearchOptions,
    accepted: Mapping[str, Sequence[str]],
    limit: int,
) -> list[Found]:
    """The hits of a search that computes all cosines in float64, and sorts all chunks with `accepted` metadata.

    Only the statistics of the certainty are those of the approximate cosines, and the ranks are those of float32.
    """
    passing = [
        row
        for row in range(len(snapshot))
        if all(metadata[row].get(name) in values for name, values in accepted.items())
    ]
    by_text: dict[str, list[int]] = {}
    for row in passing:
        by_text.setdefault(snapshot.texts[row], []).append(row)
    rows = np.array([copies[0] for copies in by_text.values()], dtype=np.int64)
    if not len(rows):
        return []
    scores, supported, cosines = zip(
        *(_scores(snapshot, vectors, query, options, rows) for query in queries), strict=True
    )
    passes, least = np.array(scores) > -np.inf, -1.0 if options.method is Method.VECTOR else 0.0
    is_hit = (passes & np.array(supported)).any(axis=0)
    best: Exact = np.where(is_hit, np.where(passes, scores, least).mean(axis=0), -np.inf)
    nearest = np.max(cosines, axis=0)
    order = sorted(
        np.flatnonzero(best > -np.inf).tolist(),
        key=lambda at: (-round(float(best[at]) / 1e-6), -round(float(nearest[at]) / 1e-6), rows[at]),
    )
    groups = overlaps(list(snapshot.texts)).groups
    found: dict[int, Found] = {}
    for at in order:
        row = int(rows[at])
        copies = by_text[snapshot.texts[row]]
        near = [other for other in passing if groups[other] == groups[row] and other not in copies]
        found.setdefault(int(groups[row]), Found(row, float(best[at]), copies[1:], near))
    return list(found.values())[:limit]


def _scores(
    snapshot: CourseSnapshot, vectors: Vectors, query: Query, options: SearchOptions, rows: NDArray[np.int64]
) -> tuple[Exact, NDArray[np.bool_], Exact]:
    """The scores, minus infinity below a threshold; whether anything supports them; and the cosines: each (rows,)."""
    words = resolve(analyse_query(query.text), snapshot.bm25)
    all_bm25, highest = snapshot.bm25.scores(words.terms, words.pairs)
    bm25, share = all_bm25[rows], all_bm25[rows].astype(np.float64) / (highest or 1.0)
    final, cosines = np.asarray(all_bm25[rows] / (highest or 1.0), np.float64), np.zeros(len(rows))
    by_words = bm25 > LEAST_SUPPORT * bm25.max()
    supported, excluded = by_words, np.zeros(len(rows), dtype=bool)
    if options.method is not Method.KEYWORD:
        assert query.vector is not None
        cosines = exact_cosines(vectors[rows], query.vector)
        if options.method is Method.HYBRID and options.fusion is Fusion.RRF:
            cosines = snapshot.cosines.product(query.vector)[rows].round(6).astype(np.float64)
        fuser = _fuser(snapshot, query, options, rows, bm25, cosines)
        final = np.asarray(fuser.fuse(cosines, bm25).score, np.float64)
        counts_only_words = fuser.weights is not None and fuser.weights.vector == 0
        supported = by_words if counts_only_words else np.ones(len(rows), dtype=bool)
        if options.thresholds.vector is not None:
            excluded |= cosines < options.thresholds.vector - 1e-6
    if options.thresholds.keyword is not None:
        excluded |= share < options.thresholds.keyword
    return np.where(excluded, -np.inf, final), supported, cosines


def _fuser(
    snapshot: CourseSnapshot,
    query: Query,
    options: SearchOptions,
    rows: NDArray[np.int64],
    bm25: NDArray[Any],
    cosines: Exact,
) -> Fuser:
    assert query.vector is not None
    if options.method is Method.VECTOR:
        return Fuser(lambda cosines, bm25: FusedScores(cosines, np.zeros_like(bm25)), None)
    known = resolve(analyse_query(query.text), snapshot.bm25).known_share
    if options.fusion is Fusion.RRF:
        weights = options.weights or fusion.weights_for(query.legibility, known)
        return fusion.reciprocal_rank_fusion(cosines.astype(np.float32), bm25, weights)
    if options.weights:
        return fusion.weighted_sum(bm25, options.weights)
    approximate = snapshot.cosines.approximate(query.vector, rows)[0]
    return fusion.certainty_weighted(approximate, bm25, query.legibility, known)

"""Approximate cosines change no result: hits, scores and order are those of a search that scores every chunk exactly.

The 8-bit codes are used at every size here.
"""

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding.vectors import Vectors
from retrieval import cosines as cosines_module
from retrieval.cosines import Cosines, vectors_as_arrays
from retrieval.filters import parse_filter
from retrieval.fusion import Scores, Weights, certainty_weighted, reciprocal_rank_fusion, weighted_sum
from retrieval.search import Fusion, Method, Query, SearchOptions, Thresholds, search_snapshot
from tests.support.brute_force import KINDS, Found, brute_force, exact_cosines, query_vector, snapshot_of, unit

WORDS = ("copper", "solder", "drill", "mask", "hole", "zinc")
LONG_TEXTS = [" ".join(f"{name}{number % 7} of {name}{number}" for number in range(40)) for name in ("part", "step")]
"""With a few words after them, texts are near-duplicates."""

kinds = st.sampled_from(sorted(KINDS))
dimensions = st.sampled_from([1, 2, 3, 50, 64, 384, 1000])
sizes = st.integers(1, 60) | st.just(300)
seeds = st.integers(0, 2**32)
methods = st.sampled_from(
    [
        SearchOptions(Method.VECTOR),
        SearchOptions(Method.KEYWORD),
        SearchOptions(),
        SearchOptions(weights=Weights(0.7, 0.3)),
        SearchOptions(weights=Weights(1e-4, 1)),
        SearchOptions(weights=Weights(1, 0)),
        SearchOptions(weights=Weights(0, 1)),
        SearchOptions(fusion=Fusion.RRF),
        SearchOptions(fusion=Fusion.RRF, weights=Weights(1, 3)),
    ]
)


@pytest.fixture(autouse=True, scope="module")
def _codes_at_every_size() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosines_module, "CODES_FROM", 0)
        yield


@settings(max_examples=600)
@given(
    kind=kinds,
    rows=sizes,
    dimensions=dimensions,
    seed=seeds,
    method=methods,
    limit=st.sampled_from([1, 2, 5, 20, 1000]),
    queries=st.integers(1, 3),
    is_filtered=st.booleans(),
    copies=st.sampled_from(["none", "exact", "near"]),
)
def test_hits_scores_and_order_are_those_of_brute_force(
    kind: str,
    rows: int,
    dimensions: int,
    seed: int,
    method: SearchOptions,
    limit: int,
    queries: int,
    is_filtered: bool,
    copies: str,
) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(KINDS[kind](rng, rows, dimensions))
    texts = [" ".join(rng.choice(WORDS, rng.integers(0, 5))) for _ in range(rows)]
    if copies == "none":
        texts = [f"{text} number{row}" for row, text in enumerate(texts)]
    if copies == "near":
        texts = [f"{LONG_TEXTS[rng.integers(len(LONG_TEXTS))]} {text}" for text in texts]
    metadata = [{"section_id": str(rng.integers(3)), "lecture_id": str(rng.integers(2))} for _ in range(rows)]
    snapshot = snapshot_of(vectors, texts, metadata)
    asked = [
        Query(
            " ".join(rng.choice([*WORDS, "absent", "the"], rng.integers(0, 4))),
            query_vector(rng, vectors),
            float(rng.choice([0.0, 0.7, 1.0])),
        )
        for _ in range(queries)
    ]
    cosine = float(exact_cosines(vectors, asked[0].vector)[rng.integers(rows)]) if asked[0].vector is not None else 0.0
    accepted = {"section_id": ["0", "2"], "lecture_id": ["1"]} if is_filtered else {}
    options = SearchOptions(
        method.method,
        method.fusion,
        method.weights,
        Thresholds(
            None if method.method is Method.KEYWORD else [None, None, cosine, 0.0, 0.5][rng.integers(5)],
            [None, None, 0.0, 0.3][rng.integers(4)],
        ),
        parse_filter(accepted) if accepted else None,
    )
    expected = brute_force(snapshot, vectors, metadata, asked, options, accepted, limit)
    hits = search_snapshot(snapshot, asked, options, limit).hits
    found = [Found(hit.row, hit.score, hit.copies.tolist(), hit.near_copies.tolist()) for hit in hits]
    assert [hit._replace(score=0) for hit in found] == [hit._replace(score=0) for hit in expected]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in expected], abs=1e-7)
    for hit in hits:
        assert -1 <= hit.score <= 1 + 1e-6
        if options.method is not Method.KEYWORD:
            exact = [exact_cosines(vectors[[hit.row]], query.vector)[0] for query in asked if query.vector is not None]
            assert hit.explanation.cosine == pytest.approx(exact[hit.explanation.query], abs=2e-6)
            assert hit.explanation.cosine is not None
            assert -1 <= hit.explanation.cosine <= 1


@settings(max_examples=200)
@given(kind=kinds, rows=st.integers(2, 300), seed=seeds, is_filtered=st.booleans())
def test_default_scores_hardly_differ_from_those_of_exact_cosines(
    kind: str, rows: int, seed: int, is_filtered: bool
) -> None:
    """Only statistics over the course use approximate cosines."""
    rng = np.random.default_rng(seed)
    vectors = unit(KINDS[kind](rng, rows, 384))
    metadata = [{"section_id": str(rng.integers(2))} for _ in range(rows)]
    snapshot = snapshot_of(vectors, [f"{rng.choice(WORDS)} number{row}" for row in range(rows)], metadata)
    query = Query("copper", query_vector(rng, vectors))
    options = SearchOptions(filters=parse_filter({"section_id": ["1"]}) if is_filtered else None)
    hits = search_snapshot(snapshot, [query], options, rows).hits
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cosines_module, "CODES_FROM", 10**9)
        exact = search_snapshot(snapshot, [query], options, rows).hits
    score_of = {hit.row: hit.score for hit in exact}
    assert {hit.row for hit in hits} == score_of.keys()
    for hit in hits:
        assert hit.score == pytest.approx(score_of[hit.row], abs=0.01)


@settings(max_examples=300)
@given(kind=kinds, rows=sizes, dimensions=dimensions, seed=seeds, is_filtered=st.booleans())
def test_no_approximate_cosine_exceeds_its_error(
    kind: str, rows: int, dimensions: int, seed: int, is_filtered: bool
) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(KINDS[kind](rng, rows, dimensions))
    selected = np.flatnonzero(rng.random(rows) < 0.5) if is_filtered else None
    if selected is not None and not len(selected):
        selected = np.array([0])
    query = query_vector(rng, vectors)
    exact = exact_cosines(vectors if selected is None else vectors[selected], query)
    for least_spread in (cosines_module.MIN_SPREAD, 0.0):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cosines_module, "MIN_SPREAD", least_spread)
            approximate, bounds = Cosines(vectors_as_arrays(vectors)).approximate(query, selected)
        assert approximate.shape == bounds.shape == exact.shape
        assert approximate.dtype == bounds.dtype == np.float32
        assert (exact <= bounds).all()
        assert (exact >= 2 * approximate - bounds).all(), "the error has the same bound in both directions"
        assert approximate.max() == pytest.approx(exact.max(), abs=1e-5)


def test_codes_are_those_of_all_blocks() -> None:
    """The vectors are encoded in blocks."""
    vectors = unit(np.random.default_rng(0).standard_normal((9000, 3)))
    arrays = vectors_as_arrays(vectors)
    restored = arrays["codes"] * arrays["scales"][:, None]
    np.testing.assert_allclose(np.linalg.norm(vectors - restored, axis=1), arrays["residuals"], atol=1e-6)
    assert np.abs(vectors - restored).max() <= 0.5 / 127 + 1e-6


@pytest.mark.parametrize("rows", [0, 1])
def test_vectors_without_length_have_codes(rows: int) -> None:
    arrays = vectors_as_arrays(np.zeros((rows, 3), dtype=np.float32))
    assert not arrays["codes"].any()
    assert not arrays["residuals"].any()


def test_few_rows_are_computed_exactly_in_a_large_course(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((5000, 384)))
    snapshot = snapshot_of(vectors, [f"number{row}" for row in range(5000)])
    computed: list[int] = []
    exact = Cosines.exact

    def counted(cosines: Cosines, query: Vectors, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Scores:
        computed.append(len(rows))
        return exact(cosines, query, rows)

    monkeypatch.setattr(Cosines, "exact", counted)
    for options in (
        SearchOptions(),
        SearchOptions(Method.VECTOR),
        SearchOptions(weights=Weights(1, 1)),
        SearchOptions(thresholds=Thresholds(vector=0.15)),
        SearchOptions(thresholds=Thresholds(vector=0.99)),
    ):
        search_snapshot(snapshot, [Query("number7", query_vector(rng, vectors))], options, 10)
    assert max(computed) < 500


cosine_lists = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=12)


@given(cosine_lists, st.lists(st.sampled_from([0.0, 1.5, 7.0]), min_size=12, max_size=12), st.floats(0, 1))
def test_fused_scores_never_decrease_when_a_cosine_increases(
    values: list[float], keyword_scores: list[float], legibility: float
) -> None:
    """So the upper bound of a cosine gives an upper bound of the score."""
    cosines = np.array(values, dtype=np.float32)
    bm25 = np.array(keyword_scores[: len(values)], dtype=np.float32)
    weights = Weights(legibility, 1.0)
    for fuser in (
        certainty_weighted(cosines, bm25, legibility, 0.8),
        weighted_sum(bm25, weights),
        reciprocal_rank_fusion(cosines, bm25, weights),
    ):
        ascending = np.sort(np.concatenate([cosines, np.linspace(-1, 1, 101, dtype=np.float32)]))
        for keyword_score in np.unique(bm25):
            scores = fuser.fuse(ascending, np.full_like(ascending, keyword_score)).score
            assert (np.diff(scores) >= -1e-7).all()


def test_concurrent_products_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """The products are those of single passes, however many queries wait."""
    monkeypatch.setattr(cosines_module, "CODES_FROM", 0)
    monkeypatch.setattr(cosines_module, "MAX_SHARED_PASS", 5)
    rng = np.random.default_rng(0)
    vectors = unit(rng.standard_normal((500, 96)))
    queries = unit(rng.standard_normal((40, 96)))
    cosines = Cosines(vectors_as_arrays(vectors))
    alone = [cosines.approximate(query, None) for query in queries]
    sizes: list[int] = []
    products = cosines._code_products
    compute = products._compute

    def record(batch: Any) -> None:
        sizes.append(len(batch))
        compute(batch)

    monkeypatch.setattr(products, "_compute", record)
    with ThreadPoolExecutor(len(queries)) as pool:
        with products._pass:
            together = [pool.submit(cosines.approximate, query, None) for query in queries]
            while len(products._waiting) < len(queries):
                time.sleep(0.001)
        results = [each.result() for each in together]
    assert sizes == [5] * 8
    for (cosine, bound), (expected, expected_bound) in zip(results, alone, strict=True):
        np.testing.assert_allclose(cosine, expected, atol=1e-6)
        np.testing.assert_allclose(bound, expected_bound, atol=1e-6)

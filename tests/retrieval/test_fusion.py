"""Properties of the fusion functions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from retrieval.fusion import (
    DEFAULT_WEIGHTS,
    FusedScores,
    Fuser,
    Scores,
    Weights,
    certainty,
    certainty_weighted,
    reciprocal_rank_fusion,
    standard_deviation,
    weighted_sum,
    weights_for,
)

CHUNKS = 12
cosine_arrays = arrays(np.float32, CHUNKS, elements=st.floats(-1, 1, width=32))
bm25_arrays = arrays(
    np.float32, CHUNKS, elements=st.floats(0, 50, width=32).filter(lambda score: score == 0 or score > 1e-3)
)
channel_weights = st.builds(Weights, st.floats(0, 10), st.floats(0.01, 10))


@dataclass(frozen=True)
class Fusion:
    """A fusion function with its parameter: weights, or the legibility for certainty-weighted fusion."""

    function: Callable[[Scores, Scores, Any], Fuser]
    parameter: Weights | float

    def __call__(self, cosines: Scores, bm25: Scores) -> FusedScores:
        return self.function(cosines, bm25, self.parameter).fuse(cosines, bm25)

    def weights(self, cosines: Scores, bm25: Scores) -> Weights:
        weights = self.function(cosines, bm25, self.parameter).weights
        assert weights is not None
        return weights


def weighted(cosines: Scores, bm25: Scores, weights: Weights) -> Fuser:
    """`weighted_sum`, which needs no statistics of the cosines, with the parameters of the other functions."""
    return weighted_sum(bm25, weights)


def by_certainty(cosines: Scores, bm25: Scores, legibility: float) -> Fuser:
    """`certainty_weighted` for a query all of whose words the course has."""
    return certainty_weighted(cosines, bm25, legibility, 1.0)


functions_with_weights = st.sampled_from([weighted, reciprocal_rank_fusion])
fusions = st.builds(Fusion, st.just(by_certainty), st.floats(0, 1)) | st.builds(
    Fusion, functions_with_weights, channel_weights
)


@given(cosine_arrays, bm25_arrays, fusions)
def test_score_is_between_0_and_1_and_weights_sum_to_1(cosines: Scores, bm25: Scores, fuse: Fusion) -> None:
    score = fuse(cosines, bm25).score
    assert (score >= 0).all()
    assert (score <= 1 + 1e-5).all()
    assert sum(fuse.weights(cosines, bm25)) == pytest.approx(1)


@given(cosine_arrays, bm25_arrays, fusions, st.lists(st.integers(0, CHUNKS - 1)))
def test_scores_of_some_chunks_are_those_among_all(
    cosines: Scores, bm25: Scores, fuse: Fusion, chosen: list[int]
) -> None:
    """Statistics are those of all chunks, whichever are fused."""
    places = np.array(chosen, dtype=np.int64)
    some = fuse.function(cosines, bm25, fuse.parameter).fuse(cosines[places], bm25[places])
    np.testing.assert_allclose(some.score, fuse(cosines, bm25).score[places], rtol=1e-5)


@given(cosine_arrays, bm25_arrays, fusions, st.permutations(range(CHUNKS)))
def test_scores_are_independent_of_the_order_of_the_chunks(
    cosines: Scores, bm25: Scores, fuse: Fusion, order: list[int]
) -> None:
    score = fuse(cosines, bm25).score
    np.testing.assert_allclose(fuse(cosines[order], bm25[order]).score, score[order], rtol=1e-3, atol=1e-5)


@given(cosine_arrays, bm25_arrays, functions_with_weights, channel_weights)
def test_only_the_ratio_of_weights_matters(cosines: Scores, bm25: Scores, function: Any, weights: Weights) -> None:
    doubled = Weights(weights.vector * 2, weights.keyword * 2)
    np.testing.assert_allclose(
        Fusion(function, doubled)(cosines, bm25).score, Fusion(function, weights)(cosines, bm25).score, rtol=1e-5
    )


@given(cosine_arrays, bm25_arrays, fusions, st.permutations(range(CHUNKS)))
def test_chunk_better_in_both_channels_does_not_score_lower(
    cosines: Scores, bm25: Scores, fuse: Fusion, order: list[int]
) -> None:
    better, worse = order[:2]
    if cosines[better] >= cosines[worse] and bm25[better] >= bm25[worse]:
        score = fuse(cosines, bm25).score
        assert score[better] >= score[worse] - 1e-5


@given(cosine_arrays, bm25_arrays, channel_weights)
def test_weighted_sum_is_the_weighted_mean_of_the_strengths(cosines: Scores, bm25: Scores, weights: Weights) -> None:
    share = bm25 / bm25.max() if bm25.max() else bm25
    expected = (weights.vector * np.maximum(cosines, 0) + weights.keyword * share) / sum(weights)
    np.testing.assert_allclose(Fusion(weighted, weights)(cosines, bm25).score, expected, rtol=1e-4, atol=1e-6)


@given(cosine_arrays, st.floats(0.6, 1))
def test_only_cosines_count_if_all_bm25_scores_are_0(cosines: Scores, legibility: float) -> None:
    fuse, bm25 = Fusion(by_certainty, legibility), np.zeros(CHUNKS, dtype=np.float32)
    assert fuse.weights(cosines, bm25).vector == 1
    assert (np.diff(fuse(cosines, bm25).score[np.argsort(cosines, kind="stable")]) >= -1e-6).all()


@given(arrays(np.float32, CHUNKS, elements=st.floats(-100, 100, width=32)), st.floats(0.1, 5))
def test_certainty_sums_to_1(scores: Scores, sharpness: float) -> None:
    result = certainty(scores, sharpness)(scores)
    assert result.sum() == pytest.approx(1, abs=1e-4)
    assert (result >= 0).all()


@given(arrays(np.float32, CHUNKS, elements=st.floats(-100, 100, width=32)))
def test_standard_deviation_equals_that_of_numpy(scores: Scores) -> None:
    assert standard_deviation(scores) == pytest.approx(scores.astype(np.float64).std(), rel=1e-4, abs=1e-4)


def test_certainty_ignores_rounding_differences() -> None:
    scores = np.full(3, 0.7, dtype=np.float32)
    scores[1] = np.nextafter(scores[1], 1)
    assert certainty(scores, 1.4)(scores) == pytest.approx([1 / 3] * 3)
    assert certainty(scores[:1], 1.4)(scores[:1]) == pytest.approx([1])


def test_channel_with_an_outlier_determines_the_best_chunk() -> None:
    rng = np.random.default_rng(0)
    cosines = rng.normal(0.3, 0.05, 500).astype(np.float32).clip(0, 0.45)
    cosines_with_outlier = cosines.copy()
    cosines_with_outlier[7] = 0.9
    bm25 = rng.uniform(0, 5, 500).astype(np.float32)
    bm25_with_outlier = bm25.copy()
    bm25_with_outlier[42] = 30
    assert Fusion(by_certainty, 1.0)(cosines_with_outlier, bm25).score.argmax() == 7
    assert Fusion(by_certainty, 1.0)(cosines, bm25_with_outlier).score.argmax() == 42


def test_vector_weight_decreases_with_legibility() -> None:
    assert weights_for(1.0, 1.0) == pytest.approx(DEFAULT_WEIGHTS)
    assert weights_for(0.95, 1.0) == pytest.approx(DEFAULT_WEIGHTS)
    assert weights_for(0.3, 1.0) == (0, 1)
    assert 0 < weights_for(0.7, 1.0).vector < DEFAULT_WEIGHTS.vector


def test_keyword_weight_decreases_with_the_words_that_the_course_lacks() -> None:
    """What is left of the query then matches by accident."""
    assert weights_for(1.0, 0.95) == pytest.approx(DEFAULT_WEIGHTS)
    assert 0 < weights_for(1.0, 0.7).keyword < DEFAULT_WEIGHTS.keyword
    assert weights_for(1.0, 0.4) == (1, 0)
    assert weights_for(0.2, 0.4) == (0, 1), "nothing is left but the words"


def test_fusion_does_not_depend_on_the_range_of_the_cosines() -> None:
    """One model's cosines reach from .1 to .7, another one's from .8 to .9."""
    rng = np.random.default_rng(1)
    cosines, bm25 = rng.uniform(-0.1, 0.7, 50).astype(np.float32), rng.uniform(0, 9, 50).astype(np.float32)
    fuse = Fusion(by_certainty, 1.0)
    np.testing.assert_allclose(fuse(cosines, bm25).score, fuse(0.8 + cosines / 8, bm25).score, atol=1e-4)


def test_reciprocal_rank_fusion_uses_k_60_and_shared_ranks() -> None:
    cosines = np.array([0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    bm25 = np.array([0, 2, 0, 1], dtype=np.float32)
    expected = [0.5 / 61, 0.5 / 62 + 0.5 / 61, 0.5 / 62, 0.5 / 64 + 0.5 / 62]
    np.testing.assert_allclose(Fusion(reciprocal_rank_fusion, Weights(1, 1))(cosines, bm25).score, expected, rtol=1e-6)


@pytest.mark.parametrize("chunks", [2, 3, 5, 10, 44, 300, 5000])
def test_the_only_chunk_with_the_words_wins_in_a_course_of_any_size(chunks: int) -> None:
    """The cosines hardly differ. Among few chunks, one stands out nevertheless."""
    cosines = np.linspace(0.3, 0.32, chunks, dtype=np.float32)
    bm25 = np.zeros(chunks, dtype=np.float32)
    bm25[0] = 2.0
    assert Fusion(by_certainty, 1.0)(cosines, bm25).score.argmax() == 0

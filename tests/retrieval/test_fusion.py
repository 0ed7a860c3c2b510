"""Two channels become one score: what must hold for all of them, and which of them decides."""

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
    Mask,
    Scores,
    Weights,
    certainty,
    certainty_weighted,
    reciprocal_rank_fusion,
    weighted_sum,
    weights_for,
)

CHUNKS = 12
cosines = arrays(np.float32, CHUNKS, elements=st.floats(-1, 1, width=32))
bm25 = arrays(np.float32, CHUNKS, elements=st.floats(0, 50, width=32).filter(lambda score: score == 0 or score > 1e-3))
masks = arrays(np.bool_, CHUNKS).filter(np.any)
weights = st.builds(Weights, st.floats(0, 10), st.floats(0.01, 10))


@dataclass(frozen=True)
class Way:
    """How the channels are fused: by a rule and weights, or by certainty at some legibility."""

    rule: Callable[[Scores, Scores, Any, Mask | None], FusedScores]
    wanted: Weights | float

    def __call__(self, near: Scores, words: Scores, mask: Mask | None = None) -> FusedScores:
        return self.rule(near, words, self.wanted, mask)


rules = st.sampled_from([weighted_sum, reciprocal_rank_fusion])
ways = st.builds(Way, st.just(certainty_weighted), st.floats(0, 1)) | st.builds(Way, rules, weights)


@given(cosines, bm25, ways, st.none() | masks)
def test_a_score_is_between_0_and_1_and_the_sum_of_its_parts(
    near: Scores, words: Scores, way: Way, mask: Mask | None
) -> None:
    fused = way(near, words, mask)
    allowed = fused.score if mask is None else fused.score[mask]
    assert fused.vector.dtype == fused.keyword.dtype == np.float32
    assert (allowed >= 0).all()
    assert (allowed <= 1 + 1e-5).all()
    assert sum(fused.weights) == pytest.approx(1)


@given(cosines, bm25, ways, masks)
def test_a_filter_gives_what_a_course_of_the_rest_would(near: Scores, words: Scores, way: Way, mask: Mask) -> None:
    np.testing.assert_allclose(
        way(near, words, mask).score[mask], way(near[mask], words[mask]).score, rtol=1e-3, atol=1e-5
    )


@given(cosines, bm25, ways, st.permutations(range(CHUNKS)))
def test_the_order_of_the_chunks_does_not_matter(near: Scores, words: Scores, way: Way, order: list[int]) -> None:
    score = way(near, words).score
    np.testing.assert_allclose(way(near[order], words[order]).score, score[order], rtol=1e-3, atol=1e-5)


@given(cosines, bm25, rules, weights)
def test_only_the_ratio_of_weights_matters(near: Scores, words: Scores, rule: Any, wanted: Weights) -> None:
    doubled = Weights(wanted.vector * 2, wanted.keyword * 2)
    np.testing.assert_allclose(rule(near, words, doubled).score, rule(near, words, wanted).score, rtol=1e-5)


@given(cosines, bm25, ways, st.permutations(range(CHUNKS)))
def test_who_is_better_in_both_channels_is_not_worse_in_all(
    near: Scores, words: Scores, way: Way, order: list[int]
) -> None:
    better, worse = order[:2]
    if near[better] >= near[worse] and words[better] >= words[worse]:
        score = way(near, words).score
        assert score[better] >= score[worse] - 1e-5


@given(cosines, bm25, weights)
def test_given_weights_make_a_plain_weighted_sum(near: Scores, words: Scores, wanted: Weights) -> None:
    share = words / words.max() if words.max() else words
    expected = (wanted.vector * np.maximum(near, 0) + wanted.keyword * share) / sum(wanted)
    np.testing.assert_allclose(weighted_sum(near, words, wanted).score, expected, rtol=1e-4, atol=1e-6)


@given(cosines, st.floats(0, 1))
def test_without_a_usable_word_the_vector_decides(near: Scores, legibility: float) -> None:
    fused = certainty_weighted(near, np.zeros(CHUNKS, dtype=np.float32), legibility)
    assert fused.weights.vector == 1
    assert (np.diff(fused.score[np.argsort(near, kind="stable")]) >= -1e-6).all()


@given(arrays(np.float32, CHUNKS, elements=st.floats(-100, 100, width=32)), st.floats(0.1, 5), st.none() | masks)
def test_certainty_is_shared_out_once(scores: Scores, sharpness: float, mask: Mask | None) -> None:
    shares = certainty(scores, sharpness, mask)
    assert (shares if mask is None else shares[mask]).sum() == pytest.approx(1, abs=1e-4)
    assert (shares >= 0).all()


def test_rounding_is_no_certainty() -> None:
    alike = np.full(3, 0.7, dtype=np.float32)
    alike[1] = np.nextafter(alike[1], 1)
    assert certainty(alike, 1.4) == pytest.approx([1 / 3] * 3)
    assert certainty(alike[:1], 1.4) == pytest.approx([1]), "what is alone stands out"


def test_the_channel_that_singles_out_a_chunk_decides() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(0.3, 0.05, 500).astype(np.float32).clip(0, 0.45)
    peaked = flat.copy()
    peaked[7] = 0.9
    words = rng.uniform(0, 5, 500).astype(np.float32)
    singled_out = words.copy()
    singled_out[42] = 30
    assert certainty_weighted(peaked, words, 1.0).score.argmax() == 7
    assert certainty_weighted(flat, singled_out, 1.0).score.argmax() == 42


def test_a_query_the_model_cannot_read_is_left_to_words() -> None:
    assert weights_for(1.0) == pytest.approx(DEFAULT_WEIGHTS)
    assert weights_for(0.95) == pytest.approx(DEFAULT_WEIGHTS)
    assert weights_for(0.3) == (0, 1)
    assert 0 < weights_for(0.7).vector < DEFAULT_WEIGHTS.vector


def test_ranks_count_from_60_and_equal_scores_share_one() -> None:
    near = np.array([0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    words = np.array([0, 2, 0, 1], dtype=np.float32)
    expected = [0.5 / 61, 0.5 / 62 + 0.5 / 61, 0.5 / 62, 0.5 / 64 + 0.5 / 62]
    np.testing.assert_allclose(reciprocal_rank_fusion(near, words, Weights(1, 1)).score, expected, rtol=1e-6)

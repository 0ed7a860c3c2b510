"""Two channels become one score: what must hold for all of them, and which of them decides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from retrieval.fusion import (
    DEFAULT_WEIGHTS,
    KEYWORD_ONLY,
    VECTOR_ONLY,
    Weights,
    certainty,
    reciprocal_rank,
    weighted,
    weights_for,
)

Scores = NDArray[np.float32]

CHUNKS = 12
cosines = arrays(np.float32, CHUNKS, elements=st.floats(-1, 1, width=32))
bm25 = arrays(np.float32, CHUNKS, elements=st.floats(0, 50, width=32))
masks = arrays(np.bool_, CHUNKS).filter(np.any)
weights = st.builds(Weights, st.floats(0, 10), st.floats(0.01, 10))
fusions = st.sampled_from([weighted, reciprocal_rank])


@given(cosines, bm25, weights, st.none() | masks)
def test_a_weighted_score_is_between_0_and_1(
    near: Scores, words: Scores, wanted: Weights, mask: NDArray[np.bool_] | None
) -> None:
    score = weighted(near, words, wanted, mask)
    allowed = score if mask is None else score[mask]
    assert score.dtype == np.float32
    assert (allowed >= 0).all()
    assert (allowed <= 1 + 1e-6).all()


@given(fusions, cosines, bm25, weights, masks)
def test_a_filter_gives_what_a_course_of_the_rest_would(
    fuse: object, near: Scores, words: Scores, wanted: Weights, mask: NDArray[np.bool_]
) -> None:
    assert callable(fuse)
    np.testing.assert_allclose(
        fuse(near, words, wanted, mask)[mask], fuse(near[mask], words[mask], wanted), rtol=1e-4, atol=1e-6
    )


@given(fusions, cosines, bm25, weights, st.permutations(range(CHUNKS)))
def test_the_order_of_the_chunks_does_not_matter(
    fuse: object, near: Scores, words: Scores, wanted: Weights, order: list[int]
) -> None:
    assert callable(fuse)
    score = fuse(near, words, wanted)
    np.testing.assert_allclose(fuse(near[order], words[order], wanted), score[order], rtol=1e-4, atol=1e-6)


@given(fusions, cosines, bm25, weights)
def test_only_the_ratio_of_the_weights_matters(fuse: object, near: Scores, words: Scores, wanted: Weights) -> None:
    assert callable(fuse)
    doubled = Weights(wanted.vector * 2, wanted.keyword * 2)
    np.testing.assert_allclose(fuse(near, words, doubled), fuse(near, words, wanted), rtol=1e-5)


@given(fusions, cosines, bm25, weights, st.data())
def test_who_is_better_in_both_channels_is_not_worse_in_all(
    fuse: object, near: Scores, words: Scores, wanted: Weights, data: st.DataObject
) -> None:
    assert callable(fuse)
    better, worse = data.draw(st.permutations(range(CHUNKS)))[:2]
    if near[better] >= near[worse] and words[better] >= words[worse]:
        score = fuse(near, words, wanted)
        assert score[better] >= score[worse] - 1e-6


@given(cosines, bm25)
def test_a_channel_alone_ranks_as_it_does_itself(near: Scores, words: Scores) -> None:
    by_vector = weighted(near, words, VECTOR_ONLY)
    assert (np.diff(by_vector[np.argsort(near, kind="stable")]) >= -1e-6).all()
    if words.max() > 0:
        by_keyword = weighted(near, words, KEYWORD_ONLY)
        assert (np.diff(by_keyword[np.argsort(words, kind="stable")]) >= -1e-6).all()


@given(cosines, weights)
def test_without_a_usable_word_the_vector_decides(near: Scores, wanted: Weights) -> None:
    nothing = np.zeros(CHUNKS, dtype=np.float32)
    np.testing.assert_array_equal(weighted(near, nothing, wanted), weighted(near, nothing, VECTOR_ONLY))


@given(arrays(np.float32, CHUNKS, elements=st.floats(-100, 100, width=32)), st.floats(0.1, 5), st.none() | masks)
def test_certainty_is_shared_out_once(scores: Scores, sharpness: float, mask: NDArray[np.bool_] | None) -> None:
    shares = certainty(scores, sharpness, mask)
    assert shares.sum() == pytest.approx(1, abs=1e-5) or not shares.any()
    assert (shares >= 0).all()
    assert mask is None or not shares[~mask].any()


def test_the_channel_that_singles_out_a_chunk_decides() -> None:
    rng = np.random.default_rng(0)
    flat = rng.normal(0.3, 0.05, 500).astype(np.float32).clip(0, 0.45)
    peaked = flat.copy()
    peaked[7] = 0.9
    words = rng.uniform(0, 5, 500).astype(np.float32)
    singled_out = words.copy()
    singled_out[42] = 30
    assert weighted(peaked, words, DEFAULT_WEIGHTS).argmax() == 7
    assert weighted(flat, singled_out, DEFAULT_WEIGHTS).argmax() == 42


def test_a_query_the_model_cannot_read_is_left_to_words() -> None:
    assert weights_for(1.0) == pytest.approx(DEFAULT_WEIGHTS)
    assert weights_for(0.95) == pytest.approx(DEFAULT_WEIGHTS)
    assert weights_for(0.3) == KEYWORD_ONLY
    assert 0 < weights_for(0.7).vector < DEFAULT_WEIGHTS.vector


def test_ranks_count_from_60_and_equal_scores_share_one() -> None:
    near = np.array([0.9, 0.5, 0.5, 0.1], dtype=np.float32)
    words = np.array([0, 2, 0, 1], dtype=np.float32)
    expected = [0.5 / 61, 0.5 / 62 + 0.5 / 61, 0.5 / 62, 0.5 / 64 + 0.5 / 62]
    np.testing.assert_allclose(reciprocal_rank(near, words, Weights(1, 1)), expected, rtol=1e-6)

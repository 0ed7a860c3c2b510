"""Which vectors are sound."""

import numpy as np
import pytest

from embedding.vectors import Vectors, are_sound

UNIT: Vectors = np.full((1, 1024), 1 / 32, dtype=np.float32)


@pytest.mark.parametrize("length", [0.0, 0.99, 1.001, np.inf, np.nan])
def test_vector_not_of_unit_length_is_unsound_and_others_are_sound(length: float) -> None:
    vectors = np.concatenate([UNIT, UNIT * np.float32(length), -UNIT])
    assert are_sound(vectors, 1024).tolist() == [True, False, True]


def test_rounding_and_repeated_normalization_are_tolerated() -> None:
    vectors = np.random.default_rng(0).standard_normal((500, 1024)).astype(np.float32)
    for _ in range(3):
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        assert are_sound(vectors, 1024).all()


def test_vectors_of_other_dimensions_are_unsound() -> None:
    assert are_sound(UNIT, 512).tolist() == [False]
    assert are_sound(np.empty((0, 3), dtype=np.float32), 4).tolist() == []

"""The vectors of a collection: float32 rows of unit length, so that the dot product of two is their cosine."""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

UNIT_TOLERANCE = 1e-4
"""Tolerance for the components and the length of a unit vector. Rounding in float32, and the second normalization in
Chroma, change them by about 1e-7."""


def are_sound(vectors: Vectors, dimensions: int) -> npt.NDArray[np.bool]:
    """Return a mask, (rows,), of the sound vectors: finite, with `dimensions` components, of unit length."""
    if vectors.shape[1] != dimensions:
        return np.zeros(len(vectors), dtype=np.bool)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    is_unit: npt.NDArray[np.bool] = np.abs(lengths - 1) < UNIT_TOLERANCE  # False for NaN and infinity
    return is_unit

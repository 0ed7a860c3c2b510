"""What the vectors of a collection are: rows of numbers of length one, so that their product is their similarity."""

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]

ROUNDING = 1e-4
"""How far a number of a unit vector, or its length, may be from what it should be. Float32 is off by 1e-7, and so is
Chroma, which normalizes again."""


def are_sound(vectors: Vectors, dimensions: int) -> npt.NDArray[np.bool]:
    """Which of the rows are finite, of so many dimensions and of length one."""
    if vectors.shape[1] != dimensions:
        return np.zeros(len(vectors), dtype=np.bool)
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1)
    is_unit: npt.NDArray[np.bool] = np.abs(lengths - 1) < ROUNDING  # false for NaN and infinity
    return is_unit

"""The growth law of a figure, fitted to its measurements at several sizes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

GOOD_RESIDUAL = 0.05
"""A law whose mean relative error is below this is good enough; the simplest good one is chosen."""
IMPROVEMENT = 0.7
"""A less simple law must reduce the error to this share of that of the simpler one."""


@dataclass(frozen=True)
class Law:
    """A law y(n), and how far the measurements are from it."""

    name: str
    parameters: Sequence[float]
    residual: float
    """Root mean square of the relative errors."""

    def at(self, size: float) -> float:
        """The value that the law predicts."""
        return float(_PREDICTIONS[self.name](size, *self.parameters))

    def __str__(self) -> str:
        numbers = [f"{value:.3g}" for value in self.parameters]
        if self.name == "constant":
            return numbers[0]
        if self.name == "linear":
            return f"{numbers[0]} + {numbers[1]} n".replace("+ -", "- ")
        return f"{numbers[0]} n^{self.parameters[1]:.2f}"


_PREDICTIONS: dict[str, Callable[..., float]] = {
    "constant": lambda _size, value: value,
    "linear": lambda size, intercept, slope: intercept + slope * size,
    "power": lambda size, factor, exponent: factor * size**exponent,
}


def fit(sizes: Sequence[float], values: Sequence[float]) -> Law | None:
    """Fit a constant, a line and a power law, and choose one by its residual, the simpler one in doubt.

    The line minimises the relative errors, and the power law those of the logarithms, so that the smallest sizes count
    as much as the largest.

    Returns:
        None if there are fewer than 3 measurements, or one is not positive.
    """
    n, y = np.asarray(sizes, dtype=float), np.asarray(values, dtype=float)
    if len(n) < 3 or (y <= 0).any():
        return None
    weighted = np.column_stack([1 / y, n / y])
    intercept, slope = np.linalg.lstsq(weighted, np.ones_like(y), rcond=None)[0]
    exponent, logarithm = np.polyfit(np.log(n), np.log(y), 1)
    candidates = {
        "constant": (float(np.exp(np.log(y).mean())),),
        "linear": (float(intercept), float(slope)),
        "power": (float(np.exp(logarithm)), float(exponent)),
    }
    chosen: Law | None = None
    for name, parameters in candidates.items():
        predicted = np.array([_PREDICTIONS[name](size, *parameters) for size in n])
        law = Law(name, parameters, float(np.sqrt(np.mean((predicted / y - 1) ** 2))))
        if chosen is None or (chosen.residual > GOOD_RESIDUAL and law.residual < IMPROVEMENT * chosen.residual):
            chosen = law
    return chosen

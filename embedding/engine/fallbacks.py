"""What is done if a model fails in the number format or in the memory of a GPU."""

import logging
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

Model = TypeVar("Model")
Item = TypeVar("Item")

Vectors = NDArray[np.float32]


class Float16Fallback(Generic[Model]):
    """Replaces a model in float16 by one in bfloat16, which has the range of float32, when it fails; thread-safe.

    Args:
        model: The model.
        dtype_of: The number format of a model, like `float16`.
        load_bfloat16: Loads the model again, in bfloat16 (on the CPU, if the GPU cannot be used any more).
        name: The name of the model in the log.
        hint: What to do, for the log.
    """

    def __init__(
        self,
        model: Model,
        dtype_of: Callable[[Model], str],
        load_bfloat16: Callable[[], Model],
        name: str,
        hint: str = "",
    ) -> None:
        self.model = model
        """The model in use."""
        self._dtype_of, self._load_bfloat16, self._name, self._hint = dtype_of, load_bfloat16, name, hint
        self._lock = Lock()

    def run(self, function: Callable[[Model], Vectors]) -> Vectors:
        """Return `function(model)`.

        In float16, it is computed again with the model in bfloat16 if a number of the result is not finite, or if it
        raises a RuntimeError other than one of too little memory. From then on, that model is used.
        """
        import torch

        model = self.model
        if self._dtype_of(model) != "float16":
            return function(model)
        try:
            result = function(model)
            if np.isfinite(result).all():
                return result
            reason = "a value overflowed"
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
        return function(self._replace(model, reason))

    def _replace(self, model: Model, reason: str) -> Model:
        """Return the model in bfloat16; the first thread that needs it loads it."""
        with self._lock:
            if self.model is model:
                logger.warning(
                    "float16 failed for %s (%s): it continues in bfloat16, which is less precise.%s",
                    self._name,
                    reason,
                    self._hint,
                )
                self.model = self._load_bfloat16()
            return self.model


def halve_if_out_of_memory(compute: Callable[[Sequence[Item]], Vectors], batch: Sequence[Item]) -> Vectors:
    """Return `compute(batch)`. A batch that does not fit in the memory of the GPU is halved."""
    import torch

    try:
        return compute(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(batch) // 2
    return np.concatenate([halve_if_out_of_memory(compute, part) for part in (batch[:half], batch[half:])])

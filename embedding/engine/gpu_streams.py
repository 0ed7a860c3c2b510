"""CUDA streams that let queries pass bulk work on a GPU.

A call of a kernel returns before the GPU has computed it, so the kernels of a whole batch would soon be in the queue of
the GPU, and a query would wait for all of them. So queries have a stream of high priority, whose kernels start when the
running ones end. And bulk work queues at most LAYERS_IN_FLIGHT layers, so its pause before a layer takes effect at once
and what remains on the GPU is short.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from embedding.interface import Pause, no_pause

if TYPE_CHECKING:
    import torch

LAYERS_IN_FLIGHT = 2
"""Layers of bulk work on the GPU: one that it computes, and one that waits, so that the GPU is never idle."""


class GpuStreams:
    """A stream for queries and one for bulk work, on one GPU.

    What both use, like the weights, must be complete before (`torch.cuda.synchronize`).
    """

    def __init__(self, device: "torch.device") -> None:
        import torch

        create: Any = torch.cuda.Stream
        self._queries = create(device, priority=-1)  # lower numbers have a higher priority
        self._bulk = create(device, priority=0)

    @contextmanager
    def for_queries(self) -> Iterator[Pause]:
        """Compute in the stream of the queries; yields what they call before each layer: they do not pause."""
        import torch

        with torch.cuda.stream(self._queries):
            yield no_pause

    @contextmanager
    def for_bulk(self, pause: Pause) -> Iterator[Pause]:
        """Compute in the stream of bulk work; yields what must be called before each layer instead of `pause`."""
        import torch

        create_event: Any = torch.cuda.Event
        ends: deque[Any] = deque()

        def wait_and_pause() -> None:
            layer_end = create_event(blocking=True)  # the thread sleeps while it waits
            layer_end.record(self._bulk)
            ends.append(layer_end)
            if len(ends) >= LAYERS_IN_FLIGHT:
                ends.popleft().synchronize()
            pause()

        with torch.cuda.stream(self._bulk):
            yield wait_and_pause

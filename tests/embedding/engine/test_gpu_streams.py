"""Bulk work never fills the queue of a GPU, and queries have a stream of their own. The GPU is imitated."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from embedding.engine.gpu_streams import LAYERS_IN_FLIGHT, GpuStreams

LAYERS = 28


class FakeGpu:
    """Computes queued layers only while an event is awaited, like the slowest GPU."""

    def __init__(self) -> None:
        self.launched = self.computed = 0
        self.streams: list[int] = []
        """Priorities of the streams in use, the current one last."""

    @property
    def queued(self) -> int:
        return self.launched - self.computed


class FakeEvent:
    """The end of the layers that were launched before it was recorded."""

    def __init__(self, gpu: FakeGpu) -> None:
        self.gpu = gpu

    def record(self, priority: int) -> None:
        assert priority == self.gpu.streams[-1]
        self.layers = self.gpu.launched

    def synchronize(self) -> None:
        self.gpu.computed = max(self.gpu.computed, self.layers)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    gpu = FakeGpu()

    @contextmanager
    def use(priority: int) -> Iterator[None]:
        gpu.streams.append(priority)
        try:
            yield
        finally:
            gpu.streams.pop()

    def create_event(*, blocking: bool) -> FakeEvent:
        assert blocking, "a waiting thread would occupy a core"
        return FakeEvent(gpu)

    monkeypatch.setattr("torch.cuda.Stream", lambda _, priority: priority)
    monkeypatch.setattr("torch.cuda.Event", create_event)
    monkeypatch.setattr("torch.cuda.stream", use)
    return gpu


def streams() -> GpuStreams:
    device: Any = "cuda"
    return GpuStreams(device)


def test_bulk_work_queues_few_layers_and_pauses_before_each(gpu: FakeGpu) -> None:
    """A query that arrives waits for what is in the queue, not for the whole batch."""
    queued_at_pauses: list[int] = []
    most_queued = 0
    with streams().for_bulk(lambda: queued_at_pauses.append(gpu.queued)) as before_layer:
        for _ in range(LAYERS):
            before_layer()
            gpu.launched += 1
            most_queued = max(most_queued, gpu.queued)
    assert most_queued == LAYERS_IN_FLIGHT
    assert len(queued_at_pauses) == LAYERS
    assert max(queued_at_pauses) == 1, "a paused batch leaves at most one layer on the GPU"


def test_queries_use_a_stream_of_higher_priority_and_never_pause(gpu: FakeGpu) -> None:
    both = streams()
    with both.for_bulk(lambda: None), both.for_queries() as before_layer:
        bulk, queries = gpu.streams
        assert queries < bulk
        before_layer()
    assert gpu.streams == []
    assert gpu.computed == 0


def test_stopped_bulk_work_leaves_its_stream(gpu: FakeGpu) -> None:
    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), streams().for_bulk(stop) as before_layer:
        before_layer()
    assert gpu.streams == []

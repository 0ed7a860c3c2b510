"""Groups texts into batches: packed (sequences concatenated without padding) or padded.

A padded batch computes as many tokens per text as its longest text has, and the padding changes the last digits of the
vectors. A packed batch computes only the tokens of the texts, and a document's vector is bit for bit the same in every
batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from heapq import heapreplace
from itertools import accumulate
from math import ceil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_BATCH_TOKENS = 1024
"""Tokens per batch on a CPU thread, including padding. Larger batches exceed the CPU cache and are slower."""
CUDA_BATCH_TOKENS = 16384
"""Tokens per batch on a GPU, including padding. This many use the GPU fully; the activations of the 0.6B model stay
under 1 GB."""
ROW_MULTIPLE = 16
"""Matrices of documents are padded to a multiple of this many rows. oneDNN compiles a kernel for every shape, and uses
another order of summation for few rows. Matrices of queries are not padded, because each row adds latency; the last
bits of a query's vector may therefore depend on the batch."""


def padding_rows(rows: int, prefix: object) -> int:
    """Return how many rows to add to a matrix; none to a query's, which is recognized by its cached prefix."""
    return 0 if prefix else -rows % ROW_MULTIPLE


def packed_batches(lengths: Sequence[int], budget: int, workers: int = 1) -> list[list[int]]:
    """Group texts, given by their lengths, into batches of at most `budget` tokens and of nearly equal size.

    The number of batches is a multiple of `workers` if there are enough texts, so no worker waits for the last batch of
    another. A text longer than the budget forms a separate batch.

    Returns:
        The indices of each batch.
    """
    count = workers * max(1, ceil(sum(lengths) / (workers * budget)))
    while True:
        batches: list[list[int]] = [[] for _ in range(min(count, len(lengths)))]
        smallest_first = [(0, number) for number in range(len(batches))]
        for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
            tokens, number = smallest_first[0]
            batches[number].append(index)
            heapreplace(smallest_first, (tokens + lengths[index], number))
        if all(tokens <= budget or len(batches[number]) == 1 for tokens, number in smallest_first):
            return batches
        count += workers


def padded_batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Group texts, given by their lengths, into batches of at most `budget` tokens including padding.

    Yields the indices of each batch, longest text first. A text longer than the budget forms a separate batch.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        if batch and (len(batch) + 1) * lengths[batch[0]] > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


@dataclass(frozen=True)
class SequenceLengths:
    """Queries and keys per text of a packed batch. The queries of a text correspond to its last keys."""

    queries: Sequence[int]
    keys: Sequence[int]
    device: "torch.device"

    @cached_property
    def cumulative(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Cumulative counts of queries and of keys, starting with 0, as flash attention takes them: (texts + 1,)."""
        import torch

        sums = ([0, *accumulate(counts)] for counts in (self.queries, self.keys))
        queries, keys = (torch.tensor(counts, dtype=torch.int32, device=self.device) for counts in sums)
        return queries, keys


@dataclass(frozen=True)
class PackedBatch:
    """Token ids of several texts, concatenated."""

    ids: "torch.Tensor"
    """(tokens,)"""
    positions: "torch.Tensor"
    """(tokens,): the position of each token in its text, including the prefix."""
    last_indices: "torch.Tensor"
    """(texts,): the index in `ids` of each text's last token."""
    lengths: SequenceLengths

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], *, prefix_length: int, device: "torch.device") -> "PackedBatch":
        """Concatenate texts, each of which continues a cached prefix of `prefix_length` tokens (0 for none)."""
        import torch

        lengths = [len(text) for text in texts]
        ids = torch.tensor([token for text in texts for token in text])
        positions = torch.cat([torch.arange(prefix_length, prefix_length + length) for length in lengths])
        last_indices = torch.tensor([*accumulate(lengths)]) - 1
        sequence_lengths = SequenceLengths(lengths, [prefix_length + length for length in lengths], device)
        return cls(ids.to(device), positions.to(device), last_indices.to(device), sequence_lengths)

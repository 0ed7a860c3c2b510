"""Texts laid end to end, instead of side by side with padding.

A padded batch computes as many tokens for each text as its longest one has, and padding shows in the last digits of
the vectors. A pack computes what is there and nothing else: a text's vector is the same, bit for bit, in any company.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CPU_BATCH_TOKENS = 1024
"""Tokens of a batch, padding included. Larger batches leave the processor's cache and are slower."""
CUDA_BATCH_TOKENS = 16384
"""Fills a GPU; the activations of the 0.6B model stay under 1 GB."""
ROWS = 16
"""The matrices of documents have a multiple of so many rows. oneDNN makes code for every shape it meets, and multiplies
few rows in another order. A query has the rows it needs, since each makes it slower; its vector may differ in the last
bits when it comes in company."""


def missing_rows(rows: int, starts: object) -> int:
    """How many rows are to be added to a matrix: none to that of queries, which go on after what a model has kept."""
    return 0 if starts else -rows % ROWS


def packs(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of the texts, in their order, in groups of at most `budget` tokens.

    A text longer than the budget is a group of its own.
    """
    pack: list[int] = []
    tokens = 0
    for index, length in enumerate(lengths):
        if pack and tokens + length > budget:
            yield pack
            pack, tokens = [], 0
        pack.append(index)
        tokens += length
    if pack:
        yield pack


def batches(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices of the texts, longest first, in groups of at most `budget` tokens once padded to their longest.

    A text longer than the budget is a group of its own.
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
class Spans:
    """How many queries and keys each text of a pack has; its queries belong to the last of its keys."""

    queries: Sequence[int]
    keys: Sequence[int]
    device: "torch.device"

    @cached_property
    def boundaries(self) -> "tuple[torch.Tensor, torch.Tensor]":
        """Where each text's queries and keys begin, and the last one's end: (texts + 1,) each."""
        import torch

        begins = ([0, *accumulate(counts)] for counts in (self.queries, self.keys))
        queries, keys = (torch.tensor(each, dtype=torch.int32, device=self.device) for each in begins)
        return queries, keys


@dataclass(frozen=True)
class Pack:
    """Token ids of some texts as a model reads them."""

    ids: "torch.Tensor"
    """(tokens,)"""
    positions: "torch.Tensor"
    """(tokens,): each token's place in its own text."""
    ends: "torch.Tensor"
    """(texts,): where each text's last token stands in the pack."""
    spans: Spans

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], *, start: int, device: "torch.device") -> "Pack":
        """Lay texts end to end, each of which goes on after `start` tokens that the model has read before."""
        import torch

        lengths = [len(text) for text in texts]
        ids = torch.tensor([token for text in texts for token in text])
        positions = torch.cat([torch.arange(start, start + length) for length in lengths])
        ends = torch.tensor([*accumulate(lengths)]) - 1
        spans = Spans(lengths, [start + length for length in lengths], device)
        return cls(ids.to(device), positions.to(device), ends.to(device), spans)

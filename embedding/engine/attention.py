"""Attention over a pack: a token sees itself, what precedes it in its own text, and the start that all texts share."""

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from embedding.engine.packing import Spans, missing_rows
from embedding.interface import Pause

if TYPE_CHECKING:
    import torch

PACKED = "packed"
"""The name under which transformers knows it."""

KeysAndValues = tuple["torch.Tensor", "torch.Tensor"]
"""Of one layer, each (key heads, tokens, head size)."""

_BLOCK = 128
"""Queries at a time: the scores of a block stay in the processor's cache, and little above the diagonal is computed."""


def attend(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    spans: Spans,
    *,
    scaling: float,
    start: KeysAndValues | None = None,
) -> "torch.Tensor":
    """What each query finds in the keys of its text up to its own: (queries, heads, head size).

    Args:
        query: (heads, queries, head size); the heads that share keys lie together.
        key: (key heads, keys, head size), without those of the start.
        value: As the keys.
        spans: Whose they are.
        scaling: Of the products of queries and keys.
        start: Keys and values that stand before those of every text.
    """
    attend_here = _attend_on_gpu if query.is_cuda else _attend_in_blocks
    return attend_here(query, key, value, spans, scaling=scaling, start=start)


@cache
def register() -> None:
    """Make it known to transformers, as PACKED; a model that uses it is called with `spans`, `starts` and `pause`."""
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, _attend_for_transformers)
    AttentionMaskInterface.register(PACKED, lambda *_, **__: None)


def _attend_for_transformers(
    module: "torch.nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,  # noqa: ARG001 - the spans say it
    *,
    scaling: float,
    spans: Spans,
    starts: Sequence[KeysAndValues] | None,
    pause: Pause,
    **_: Any,
) -> "tuple[torch.Tensor, None]":
    """(1, heads, tokens, head size) of a layer → (1, tokens, heads, head size)."""
    pause()
    layer: Any = module.layer_idx
    start = starts[layer] if starts else None
    return attend(query[0], key[0], value[0], spans, scaling=scaling, start=start).unsqueeze(0), None


def _attend_in_blocks(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    spans: Spans,
    *,
    scaling: float,
    start: KeysAndValues | None,
) -> "torch.Tensor":
    from torch.nn import functional

    heads, queries, size = query.shape
    key_heads = key.shape[0]
    grouped = (query * scaling).view(key_heads, heads // key_heads, queries, size)
    found = query.new_empty(queries, key_heads, heads // key_heads, size)
    if start:
        key, value = _after(start[0], key, spans), _after(start[1], value, spans)
    parts = zip(
        grouped.split_with_sizes([*spans.queries], dim=2),
        key.split_with_sizes([*spans.keys], dim=1),
        value.split_with_sizes([*spans.keys], dim=1),
        found.split_with_sizes([*spans.queries]),
        strict=True,
    )
    for *its, its_found in parts:
        missing = missing_rows(its[1].shape[1], start)
        its_query, its_key, its_value = (functional.pad(each, (0, 0, 0, missing)) if missing else each for each in its)
        _attend_in_text(its_query, its_key.transpose(1, 2), its_value, its_found)
    return found.view(queries, heads, size)


def _attend_in_text(query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", out: "torch.Tensor") -> None:
    """One text.

    Args:
        query: (key heads, heads of each, queries, head size), scaled.
        key: (key heads, head size, keys)
        value: (key heads, keys, head size)
        out: (queries, key heads, heads of each, head size), to be filled; it may have fewer queries, the first ones.
    """
    import torch

    key_heads, shared, queries, size = query.shape
    before = key.shape[2] - queries
    for first in range(0, queries, _BLOCK):
        end = min(queries, first + _BLOCK)
        rows, seen = end - first, before + end
        block = query[:, :, first:end].reshape(key_heads, shared * rows, size)
        scores = torch.bmm(block, key[:, :, :seen]).view(key_heads, shared, rows, seen)
        scores[..., before + first :] += _later(rows, scores.dtype)
        weights = torch.softmax(scores, dim=-1).view(key_heads, shared * rows, seen)
        found = torch.bmm(weights, value[:, :seen]).view(key_heads, shared, rows, size).permute(2, 0, 1, 3)
        out[first:end] = found[: len(out) - first]


def _later(rows: int, dtype: "torch.dtype") -> "torch.Tensor":
    """(rows, rows): minus infinity above the diagonal."""
    return _largest_later(dtype)[:rows, :rows]


@cache
def _largest_later(dtype: "torch.dtype") -> "torch.Tensor":
    import torch

    return torch.full((_BLOCK, _BLOCK), -torch.inf, dtype=dtype).triu(1)


def _attend_on_gpu(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    spans: Spans,
    *,
    scaling: float,
    start: KeysAndValues | None,
) -> "torch.Tensor":
    """By the flash attention that comes with torch; it takes (tokens, heads, head size)."""
    from torch.nn.attention.varlen import varlen_attn

    if start:
        key, value = _after(start[0], key, spans), _after(start[1], value, spans)
    found: Any = varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        *spans.boundaries,
        max(spans.queries),
        max(spans.keys),
        scale=scaling,
        window_size=(-1, 0),  # all that precedes
        enable_gqa=True,
        num_splits=1,  # or else the way of adding up depends on the longest text of the pack
    )
    attended: torch.Tensor = found
    return attended


def _after(start: "torch.Tensor", whole: "torch.Tensor", spans: Spans) -> "torch.Tensor":
    """The start before the part of each text."""
    import torch

    rests = whole.split_with_sizes([count - start.shape[1] for count in spans.keys], dim=1)
    return torch.cat([part for rest in rests for part in (start, rest)], dim=1)

"""Causal attention over a packed batch: a token attends to the shared prefix and to its own text up to itself."""

from collections.abc import Sequence
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from embedding.engine.packing import SequenceLengths, padding_rows
from embedding.interface import Pause

if TYPE_CHECKING:
    import torch

PACKED = "packed"
"""The name of the attention implementation in transformers' registry."""

LayerKV = tuple["torch.Tensor", "torch.Tensor"]
"""Keys and values of one layer, each (key heads, tokens, head size)."""

_BLOCK = 128
"""Queries per block. The scores of a block fit in the CPU cache, and few scores above the diagonal are computed."""


def attend(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    lengths: SequenceLengths,
    *,
    scaling: float,
    prefix: LayerKV | None = None,
) -> "torch.Tensor":
    """Return the attention output, (queries, heads, head size).

    Args:
        query: (heads, queries, head size). Heads that share a key head are adjacent (grouped-query attention).
        key: (key heads, keys, head size), without the keys of the prefix.
        value: Same shape as `key`.
        lengths: Queries and keys per text; its key counts include the prefix.
        scaling: Factor of the products of queries and keys; 1 if the queries contain it.
        prefix: Keys and values that precede those of every text.
    """
    implementation = attend_with_flash_attention if query.is_cuda else attend_in_blocks
    return implementation(query, key, value, lengths, scaling=scaling, prefix=prefix)


@cache
def register() -> None:
    """Register packed attention in transformers as PACKED.

    A model that uses it needs the keyword arguments `sequence_lengths`, `prefix` and `pause` in each forward call.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(PACKED, _attend_for_transformers)
    AttentionMaskInterface.register(PACKED, lambda *_, **__: None)


def _attend_for_transformers(
    module: "torch.nn.Module",
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    attention_mask: None,  # noqa: ARG001 - `sequence_lengths` replaces it
    *,
    scaling: float,
    sequence_lengths: SequenceLengths,
    prefix: Sequence[LayerKV] | None,
    pause: Pause,
    **_: Any,
) -> "tuple[torch.Tensor, None]":
    """Adapt the shapes: query (1, heads, tokens, head size) → output (1, tokens, heads, head size)."""
    pause()
    layer: Any = module.layer_idx
    layer_prefix = prefix[layer] if prefix else None
    output = attend(query[0], key[0], value[0], sequence_lengths, scaling=scaling, prefix=layer_prefix)
    return output.unsqueeze(0), None


def attend_in_blocks(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    lengths: SequenceLengths,
    *,
    scaling: float,
    prefix: LayerKV | None,
) -> "torch.Tensor":
    """Compute `attend` on the CPU, text by text, in blocks of queries."""
    from torch.nn import functional

    heads, queries, size = query.shape
    key_heads = key.shape[0]
    if scaling != 1:
        query = query * scaling
    grouped = query.view(key_heads, heads // key_heads, queries, size)
    output = query.new_empty(queries, key_heads, heads // key_heads, size)
    if prefix:
        key, value = _prepend_prefix(prefix[0], key, lengths), _prepend_prefix(prefix[1], value, lengths)
    texts = zip(
        grouped.split_with_sizes([*lengths.queries], dim=2),
        key.split_with_sizes([*lengths.keys], dim=1),
        value.split_with_sizes([*lengths.keys], dim=1),
        output.split_with_sizes([*lengths.queries]),
        strict=True,
    )
    for *inputs, text_output in texts:
        if prefix:
            text_output.copy_(_attend_at_once(*inputs))
            continue
        padding = padding_rows(inputs[1].shape[1], None)
        text_query, text_key, text_value = (
            functional.pad(tensor, (0, 0, 0, padding)) if padding else tensor for tensor in inputs
        )
        _attend_in_text(text_query, text_key.transpose(1, 2), text_value, text_output)
    return output.view(queries, heads, size)


def _attend_at_once(query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor") -> "torch.Tensor":
    """Compute the attention of one text with torch's own operation, which takes the least time for short texts.

    Args:
        query: (key heads, heads per key head, queries, head size), scaled.
        key: (key heads, keys, head size)
        value: Same shape as `key`.

    Returns:
        (queries, key heads, heads per key head, head size)
    """
    from torch.nn import functional

    _, shared, queries, _ = query.shape
    mask = _causal_mask(shared, queries, key.shape[1], query.dtype) if queries > 1 else None
    output = functional.scaled_dot_product_attention(
        query.flatten(1, 2).unsqueeze(0), key.unsqueeze(0), value.unsqueeze(0), attn_mask=mask, scale=1.0
    )
    return output[0].view(query.shape).permute(2, 0, 1, 3)


def _attend_in_text(query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor", out: "torch.Tensor") -> None:
    """Compute the attention of one text.

    Args:
        query: (key heads, heads per key head, queries, head size), scaled; the last queries may be padding.
        key: (key heads, head size, keys)
        value: (key heads, keys, head size)
        out: (queries without padding, key heads, heads per key head, head size), receives the output.
    """
    import torch

    key_heads, shared, queries, size = query.shape
    earlier_keys = key.shape[2] - queries
    for first in range(0, queries, _BLOCK):
        end = min(queries, first + _BLOCK)
        rows, keys = end - first, earlier_keys + end
        block = query[:, :, first:end].reshape(key_heads, shared * rows, size)
        scores = torch.bmm(block, key[:, :, :keys]).view(key_heads, shared, rows, keys)
        scores[..., earlier_keys + first :] += _block_mask(scores.dtype)[:rows, :rows]
        weights = torch.softmax(scores, dim=-1).view(key_heads, shared * rows, keys)
        block_output = torch.bmm(weights, value[:, :keys]).view(key_heads, shared, rows, size).permute(2, 0, 1, 3)
        out[first:end] = block_output[: len(out) - first]


@lru_cache(maxsize=16)
def _causal_mask(shared: int, queries: int, keys: int, dtype: "torch.dtype") -> "torch.Tensor":
    """(shared * queries, keys): minus infinity above the diagonal that ends at the last query and key, 0 elsewhere."""
    import torch

    return torch.full((queries, keys), -torch.inf, dtype=dtype).triu(1 + keys - queries).repeat(shared, 1)


@cache
def _block_mask(dtype: "torch.dtype") -> "torch.Tensor":
    """(_BLOCK, _BLOCK): minus infinity above the diagonal, 0 elsewhere."""
    import torch

    return torch.full((_BLOCK, _BLOCK), -torch.inf, dtype=dtype).triu(1)


def attend_with_flash_attention(
    query: "torch.Tensor",
    key: "torch.Tensor",
    value: "torch.Tensor",
    lengths: SequenceLengths,
    *,
    scaling: float,
    prefix: LayerKV | None,
) -> "torch.Tensor":
    """Compute `attend` on a GPU with torch's variable-length flash attention."""
    from torch.nn.attention.varlen import varlen_attn

    if prefix:
        key, value = _prepend_prefix(prefix[0], key, lengths), _prepend_prefix(prefix[1], value, lengths)
    result: Any = varlen_attn(
        query.transpose(0, 1),
        key.transpose(0, 1),
        value.transpose(0, 1),
        *lengths.cumulative,
        max(lengths.queries),
        max(lengths.keys),
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=True,
        num_splits=1,  # otherwise the order of summation depends on the longest text of the batch
    )
    output: torch.Tensor = result
    return output


def _prepend_prefix(prefix: "torch.Tensor", packed: "torch.Tensor", lengths: SequenceLengths) -> "torch.Tensor":
    """Insert the prefix before the keys, or values, of each text."""
    import torch

    texts = packed.split_with_sizes([count - prefix.shape[1] for count in lengths.keys], dim=1)
    return torch.cat([part for text in texts for part in (prefix, text)], dim=1)

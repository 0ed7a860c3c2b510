"""A faster forward pass for Qwen3 on the CPU.

Differences from the stock model:

* Weights are packed once into oneDNN's layout; the stock model repacks them in every call.
* Queries, keys and values are one matrix product.
* The residual addition, and the activation and gating of the feed-forward, are fused into the preceding matrix product.
* Normalization and rotary embedding are computed in float32, in blocks of rows that fit in the CPU cache.
* In the last layer, attention and feed-forward are computed only for the last token of each text.

docs/benchmarks.md compares its speed with that of the stock model. The oneDNN operations are internal to torch, made
for its compiler. So `embedding.engine.encoders` compares the vectors with those of the stock model before it uses them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedding.engine.attention import LayerKV, attend
from embedding.engine.packing import PackedBatch, SequenceLengths, padding_rows
from embedding.interface import Pause, no_pause

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


_BLOCK_ROWS = 128
"""Rows that are normalized at a time. Their float32 numbers fit in the CPU cache."""


class OneDnnForward:
    """The forward pass of a Qwen3 model over packed batches, on the CPU."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Take the weights out of a Qwen3 model, which is unusable afterwards; this avoids a second copy in memory.

        Raises:
            RuntimeError: This version of torch or this CPU does not support the oneDNN operations.
        """
        import torch

        stock: Any = model
        config = stock.config
        self._heads, self._key_heads, self._head_size = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self._epsilon = config.rms_norm_eps
        self._token_embeddings = stock.embed_tokens
        self._final_norm = stock.norm.weight.float()
        self._rotary_embedding = stock.rotary_emb
        with torch.inference_mode():
            self._layers = []
            for layer in stock.layers:
                self._layers.append(_Layer.of(layer, self._heads, self._key_heads))
                layer.to("meta")

    def last_hidden_states(self, batch: PackedBatch, prefix: list[LayerKV] | None, pause: Pause) -> "torch.Tensor":
        """Return the hidden state of each text's last token, (texts, hidden size)."""
        return self._run(batch, prefix, pause)

    def compute_kv_cache(self, batch: PackedBatch) -> list[LayerKV]:
        """Return keys and values of every layer for a batch of one text."""
        kv_cache: list[LayerKV] = []
        self._run(batch, None, no_pause, kv_cache)
        return kv_cache

    def _run(
        self,
        batch: PackedBatch,
        prefix: list[LayerKV] | None,
        pause: Pause,
        kv_cache: list[LayerKV] | None = None,
    ) -> "torch.Tensor":
        """Compute the forward pass; append the keys and values of each layer to `kv_cache`, if given."""
        from torch.nn import functional

        texts, tokens = len(batch.last_indices), len(batch.ids)
        rotated_heads = self._heads + self._key_heads
        hidden = self._token_embeddings(batch.ids)
        rotations = self._rotations(batch.positions)
        for number, layer in enumerate(self._layers):
            pause()
            states = layer.qkv(self._normalize(hidden, layer.attention_norm))
            states = states.view(tokens, rotated_heads + self._key_heads, self._head_size)
            rotated = self._rotate(states[:, :rotated_heads], layer.head_norms, rotations)
            query, key = rotated[: self._heads], rotated[self._heads :]
            value = states[:, rotated_heads:].transpose(0, 1)
            if kv_cache is not None:
                kv_cache.append((key.contiguous(), value.contiguous()))
            lengths = batch.lengths
            if number == len(self._layers) - 1:  # only the last token of each text
                padding = padding_rows(texts, prefix)
                query = query[:, batch.last_indices]
                hidden = functional.pad(hidden[batch.last_indices], (0, 0, 0, padding))
                lengths = SequenceLengths([1] * texts, lengths.keys, lengths.device)
            layer_prefix = prefix[number] if prefix else None
            attended = attend(query, key, value, lengths, scaling=1, prefix=layer_prefix).flatten(1)
            if len(attended) < len(hidden):
                attended = functional.pad(attended, (0, 0, 0, len(hidden) - len(attended)))
            hidden = layer.attention_out.add_product(attended, hidden)
            normalized = self._normalize(hidden, layer.feed_forward_norm)
            gated = layer.up.multiply_product(normalized, layer.gate.silu_product(normalized))
            hidden = layer.down.add_product(gated, hidden)
        return self._normalize(hidden[:texts], self._final_norm)

    def _rotations(self, positions: "torch.Tensor") -> "torch.Tensor":
        """The rotary embedding as complex numbers of length 1, (tokens, 1, half of the head size)."""
        import torch

        cos, sin = self._rotary_embedding(torch.empty(0), positions.unsqueeze(0))  # in float32, like the argument
        half = self._head_size // 2
        return torch.complex(cos[0, :, :half], sin[0, :, :half]).unsqueeze(1)

    def _rotate(self, heads: "torch.Tensor", weight: "torch.Tensor", rotations: "torch.Tensor") -> "torch.Tensor":
        """Normalize queries and keys and rotate them by their positions: (tokens, heads, size) → (heads, tokens, size).

        Pairs of numbers that are rotated together are adjacent (`_interleave_pairs`), as in complex numbers.
        """
        import torch

        tokens, count, size = heads.shape
        rotated = heads.new_empty(count, tokens, size)
        for first in range(0, tokens, _BLOCK_ROWS):
            rows = slice(first, first + _BLOCK_ROWS)
            wide = self._normalize_in_float32(heads[rows], weight)
            torch.view_as_complex(wide.view(len(wide), count, -1, 2)).mul_(rotations[rows])
            rotated[:, rows] = wide.transpose(0, 1)
        return rotated

    def _normalize(self, x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
        """Root mean square normalization over the last dimension (RMSNorm), computed in float32."""
        import torch

        blocks = [self._normalize_in_float32(rows, weight).to(x.dtype) for rows in torch.split(x, _BLOCK_ROWS)]
        return torch.cat(blocks) if len(blocks) > 1 else blocks[0]

    def _normalize_in_float32(self, x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
        import torch

        wide = x.to(torch.float32, copy=True)
        norms = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        return wide.mul_(norms.square_().div_(x.shape[-1]).add_(self._epsilon).rsqrt_()).mul_(weight)


@dataclass(frozen=True)
class _Layer:
    attention_norm: "torch.Tensor"
    qkv: "_OneDnnLinear"
    """Query, key and value projections, concatenated."""
    head_norms: "torch.Tensor"
    """Weights of the query and key norms, (query and key heads, head size)."""
    attention_out: "_OneDnnLinear"
    feed_forward_norm: "torch.Tensor"
    gate: "_OneDnnLinear"
    up: "_OneDnnLinear"
    down: "_OneDnnLinear"

    @classmethod
    def of(cls, layer: Any, heads: int, key_heads: int) -> "_Layer":
        import torch

        attention, feed_forward = layer.self_attn, layer.mlp
        size = attention.head_dim
        # The factor of attention scores is part of the norm of the queries.
        head_norms = torch.cat(
            [
                (attention.q_norm.weight.float() * attention.scaling).expand(heads, -1),
                attention.k_norm.weight.float().expand(key_heads, -1),
            ]
        )
        query, key = (
            _interleave_pairs(projection.weight.view(-1, size, projection.in_features), dim=1).flatten(0, 1)
            for projection in (attention.q_proj, attention.k_proj)
        )
        return cls(
            attention_norm=layer.input_layernorm.weight.float(),
            qkv=_OneDnnLinear(torch.cat([query, key, attention.v_proj.weight])),
            head_norms=_interleave_pairs(head_norms, dim=1),
            attention_out=_OneDnnLinear(attention.o_proj.weight),
            feed_forward_norm=layer.post_attention_layernorm.weight.float(),
            gate=_OneDnnLinear(feed_forward.gate_proj.weight),
            up=_OneDnnLinear(feed_forward.up_proj.weight),
            down=_OneDnnLinear(feed_forward.down_proj.weight),
        )


def _interleave_pairs(x: "torch.Tensor", dim: int) -> "torch.Tensor":
    """Reorder a dimension from (first halves, second halves) to pairs of both.

    Rotary embedding rotates such pairs. If the numbers of queries and keys are reordered alike, their products do not
    change.
    """
    halves = x.reshape(*x.shape[:dim], 2, -1, *x.shape[dim + 1 :])
    return halves.transpose(dim, dim + 1).reshape(x.shape)


class _OneDnnLinear:
    """A linear layer whose weight is packed for oneDNN, optionally fused with an addition or a multiplication."""

    _ROWS = 512
    """The layout is optimized for inputs of about this many rows; it is correct for any number."""

    def __init__(self, weight: "torch.Tensor") -> None:
        import torch

        self._operations: Any = torch.ops.mkldnn
        self._weight = self._operations._reorder_linear_weight(weight, self._ROWS)

    def __call__(self, x: "torch.Tensor") -> "torch.Tensor":
        product: torch.Tensor = self._operations._linear_pointwise(x, self._weight, None, "none", [], "")
        return product

    def silu_product(self, x: "torch.Tensor") -> "torch.Tensor":
        """Return `silu(self(x))`."""
        product: torch.Tensor = self._operations._linear_pointwise(x, self._weight, None, "swish", [], "")
        return product

    def add_product(self, x: "torch.Tensor", addend: "torch.Tensor") -> "torch.Tensor":
        """Return `self(x) + addend`."""
        total: torch.Tensor = self._operations._linear_pointwise.binary(x, addend, self._weight, None, "add")
        return total

    def multiply_product(self, x: "torch.Tensor", factor: "torch.Tensor") -> "torch.Tensor":
        """Return `self(x) * factor`."""
        product: torch.Tensor = self._operations._linear_pointwise.binary(x, factor, self._weight, None, "mul")
        return product

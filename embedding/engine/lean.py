"""Qwen3 on the CPU with less around its matrix products than the stock model has.

The weights are laid out once the way oneDNN multiplies them (the stock model has them laid out again at every call),
queries, keys and values are one product, sums and gates are done by the product that precedes them, and in the last
layer the feed-forward reads the last token of each text only. The layout is an operation that torch has for its own
compiler, so the result is compared with the stock model's before it is trusted, see `embedding.engine.encoders`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedding.engine.attention import KeysAndValues, attend
from embedding.engine.packing import Pack, Spans, missing_rows
from embedding.interface import Pause, no_pause

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


class LeanForward:
    """The forward pass of a Qwen3 model over packs."""

    def __init__(self, model: "PreTrainedModel") -> None:
        """Take over the weights of a Qwen3 model, which is of no use afterwards: there is one copy of them in memory.

        Raises:
            RuntimeError: this torch or this processor cannot.
        """
        import torch

        stock: Any = model
        config = stock.config
        self._heads, self._key_heads, self._size = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        self._epsilon = config.rms_norm_eps
        self._embeddings = stock.embed_tokens
        self._norm = stock.norm.weight
        self._angles = stock.rotary_emb
        with torch.inference_mode():
            self._layers = []
            for layer in stock.layers:
                self._layers.append(_Layer.of(layer, self._heads, self._key_heads))
                layer.to("meta")

    def last_tokens(self, pack: Pack, starts: list[KeysAndValues] | None, pause: Pause) -> "torch.Tensor":
        """What the model makes of the last token of each text: (texts, hidden size)."""
        return self._run(pack, starts, pause)

    def keys_and_values(self, pack: Pack) -> list[KeysAndValues]:
        """Of every layer, for a pack of one text."""
        kept: list[KeysAndValues] = []
        self._run(pack, None, no_pause, kept)
        return kept

    def _run(
        self,
        pack: Pack,
        starts: list[KeysAndValues] | None,
        pause: Pause,
        kept: list[KeysAndValues] | None = None,
    ) -> "torch.Tensor":
        import torch
        from torch.nn import functional

        texts, tokens = len(pack.ends), len(pack.ids)
        turning = self._heads + self._key_heads
        hidden = self._embeddings(pack.ids)
        # (tokens, 1, head size); each half of a head turns with the other one, which the first takes negative
        cos, sin = (each[0].unsqueeze(1) for each in self._angles(hidden, pack.positions.unsqueeze(0)))
        half = self._size // 2
        sin = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        for number, layer in enumerate(self._layers):
            pause()
            states = layer.attention_in(self._normalize(hidden, layer.attention_norm))
            states = states.view(tokens, turning + self._key_heads, self._size)
            turned = self._normalize(states[:, :turning], layer.head_norms)
            turned = (turned * cos + turned.roll(half, dims=-1) * sin).transpose(0, 1)
            query, key, value = turned[: self._heads], turned[self._heads :], states[:, turning:].transpose(0, 1)
            if kept is not None:
                kept.append((key.contiguous(), value.contiguous()))
            spans = pack.spans
            if number == len(self._layers) - 1:
                missing = missing_rows(texts, starts)
                query, hidden = query[:, pack.ends], functional.pad(hidden[pack.ends], (0, 0, 0, missing))
                spans = Spans([1] * texts, spans.keys, spans.device)
            found = attend(
                query, key, value, spans, scaling=self._size**-0.5, start=starts[number] if starts else None
            ).flatten(1)
            found = functional.pad(found, (0, 0, 0, len(hidden) - len(found)))
            hidden = layer.attention_out.plus(found, hidden)
            normal = self._normalize(hidden, layer.feed_norm)
            opened = layer.up.times(normal, functional.silu(layer.gate(normal), inplace=True))
            hidden = layer.down.plus(opened, hidden)
        return self._normalize(hidden[:texts], self._norm)

    def _normalize(self, x: "torch.Tensor", weight: "torch.Tensor") -> "torch.Tensor":
        """By the root mean square of the last dimension, reckoned in float32."""
        import torch

        wide = x.float()
        lengths = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scaled = wide * torch.rsqrt(lengths.square_() / x.shape[-1] + self._epsilon)
        return scaled.to(x.dtype).mul_(weight)


@dataclass(frozen=True)
class _Layer:
    attention_norm: "torch.Tensor"
    attention_in: "_Linear"
    """Queries, keys and values."""
    head_norms: "torch.Tensor"
    """(query and key heads, head size)"""
    attention_out: "_Linear"
    feed_norm: "torch.Tensor"
    gate: "_Linear"
    up: "_Linear"
    down: "_Linear"

    @classmethod
    def of(cls, layer: Any, heads: int, key_heads: int) -> "_Layer":
        import torch

        attention, feed = layer.self_attn, layer.mlp
        head_norms = [attention.q_norm.weight.expand(heads, -1), attention.k_norm.weight.expand(key_heads, -1)]
        incoming = [projection.weight for projection in (attention.q_proj, attention.k_proj, attention.v_proj)]
        return cls(
            attention_norm=layer.input_layernorm.weight,
            attention_in=_Linear(torch.cat(incoming)),
            head_norms=torch.cat(head_norms),
            attention_out=_Linear(attention.o_proj.weight),
            feed_norm=layer.post_attention_layernorm.weight,
            gate=_Linear(feed.gate_proj.weight),
            up=_Linear(feed.up_proj.weight),
            down=_Linear(feed.down_proj.weight),
        )


class _Linear:
    """Product with a weight that is laid out for oneDNN, with what follows it done in the same pass."""

    _ROWS = 512
    """The layout is best for inputs of about so many; it is right for any."""

    def __init__(self, weight: "torch.Tensor") -> None:
        import torch

        self._operations: Any = torch.ops.mkldnn
        self._weight = self._operations._reorder_linear_weight(weight, self._ROWS)

    def __call__(self, x: "torch.Tensor") -> "torch.Tensor":
        product: torch.Tensor = self._operations._linear_pointwise(x, self._weight, None, "none", [], "")
        return product

    def plus(self, x: "torch.Tensor", addend: "torch.Tensor") -> "torch.Tensor":
        total: torch.Tensor = self._operations._linear_pointwise.binary(x, addend, self._weight, None, "add")
        return total

    def times(self, x: "torch.Tensor", factor: "torch.Tensor") -> "torch.Tensor":
        product: torch.Tensor = self._operations._linear_pointwise.binary(x, factor, self._weight, None, "mul")
        return product

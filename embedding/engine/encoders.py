"""Encoders: token ids → unit vectors, with the fastest implementation that is correct on this machine.

Every model can compute padded batches (`PaddedEncoder`). Qwen3-Embedding computes packed batches (`PackedEncoder`),
with the stock model or, on the CPU, with the forward pass in `embedding.engine.onednn_forward`. The packed
implementations depend on CPU instructions and on internal operations of torch and transformers. So `create_encoder`
compares their vectors with those of the stock model on padded batches before it uses them.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embedding.engine.attention import PACKED, LayerKV, register
from embedding.engine.onednn_forward import OneDnnForward
from embedding.engine.packing import PackedBatch, padding_rows
from embedding.interface import Pause, no_pause
from embedding.model_files.model_directory import Pooling

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Tokens = Sequence[int]

KVCache = list[LayerKV]
"""Keys and values of some tokens, in every layer."""

_PROBE_PREFIX = 9
"""Length of the prefix with which `create_encoder` tests the KV cache, in tokens."""

_MAX_COSINE_DISTANCE = {4: 1e-5, 2: 5e-3}
"""Maximum cosine distance between two correct implementations, by bytes per number. Errors cause larger ones."""


class Encoder(Protocol):
    """A model that turns batches of token ids into vectors."""

    packed: bool
    """Whether it computes packed batches; padded ones otherwise."""
    device: "torch.device"
    dtype: "torch.dtype"

    def encode(self, batch: Sequence[Tokens], prefix: KVCache | None = None, pause: Pause = no_pause) -> "torch.Tensor":
        """Return unit vectors in float32, (texts, dimensions).

        Args:
            batch: The token ids of each text, without those of the prefix.
            prefix: KV cache of the tokens that precede every text, from `compute_prefix`.
            pause: Called before each layer, or before a padded batch.
        """

    def compute_prefix(self, tokens: Tokens) -> KVCache | None:
        """Return the KV cache of a prefix that many texts share, or None if the encoder cannot use one."""


class Forward(Protocol):
    """The forward pass of a causal model over packed batches."""

    def last_hidden_states(self, batch: PackedBatch, prefix: KVCache | None, pause: Pause) -> "torch.Tensor":
        """Return the hidden state of each text's last token, (texts, hidden size); call `pause` before each layer."""

    def compute_kv_cache(self, batch: PackedBatch) -> KVCache:
        """Return keys and values of every layer for a batch of one text."""


CreateForward = Callable[["PreTrainedModel"], Forward]


def create_encoder(
    model: "PreTrainedModel",
    reload: "Callable[[], PreTrainedModel]",
    pooling: Pooling,
    *,
    pad_id: int,
    packed_forwards: Mapping[str, CreateForward] | None = None,
) -> Encoder:
    """Return the first encoder whose vectors agree with those of the stock model on padded batches.

    Args:
        model: The loaded model. The encoder may change it.
        reload: Loads the model again after an implementation failed, because the implementation may have changed it.
        pooling: How the vector of a text is derived from its token vectors.
        pad_id: The token id for padding.
        packed_forwards: Implementations for packed batches by name, fastest first; by default those for the device.

    Raises:
        ModelUnavailableError: `reload` failed.
    """
    import torch

    if not _supports_packing(model, pooling):
        return PaddedEncoder(model, pooling, pad_id)
    if packed_forwards is None:
        packed_forwards = packed_forwards_for(model.device.type)
    probe = _probe(model.config.vocab_size)
    last = probe[-1]
    expected = PaddedEncoder(model, pooling, pad_id).encode(probe)
    expected = torch.cat([expected, expected[-1:]])
    for name, create_forward in packed_forwards.items():
        try:
            encoder = PackedEncoder(create_forward(model), model.device, model.dtype, pad_id)
            prefix = encoder.compute_prefix(last[:_PROBE_PREFIX])
            vectors = torch.cat([encoder.encode(probe), encoder.encode([last[_PROBE_PREFIX:]], prefix)])
            distance = float((1 - (vectors * expected).sum(dim=1)).abs().max())
            if distance <= _MAX_COSINE_DISTANCE[encoder.dtype.itemsize]:
                return encoder
            reason = f"its vectors differ from those of the stock model by {distance:.1e}"
        except Exception as error:  # noqa: BLE001 - other versions of torch or transformers may raise anything
            reason = f"{type(error).__name__}: {error}"
        logger.warning("Cannot use the %s forward pass, falling back to a slower one: %s.", name, reason)
        model = reload()
    return PaddedEncoder(model, pooling, pad_id)


def packed_forwards_for(device: str) -> dict[str, CreateForward]:
    """Return the implementations for packed batches on a device type, fastest first."""
    onednn: dict[str, CreateForward] = {"oneDNN": OneDnnForward} if device == "cpu" else {}
    return onednn | {"packed": StockForward}


class PaddedEncoder:
    """The stock model, of any architecture, on padded batches.

    Padding is on the right. The model card of Qwen3-Embedding pads on the left, which gives the same vectors: attention
    is causal or masked, and pooling reads the last token that is not padding.
    """

    packed = False

    def __init__(self, model: "PreTrainedModel", pooling: Pooling, pad_id: int) -> None:
        self.device, self.dtype = model.device, model.dtype
        self._model, self._pooling, self._pad_id = model, pooling, pad_id

    def encode(
        self,
        batch: Sequence[Tokens],
        prefix: KVCache | None = None,  # noqa: ARG002
        pause: Pause = no_pause,
    ) -> "torch.Tensor":
        """Return unit vectors in float32, (texts, dimensions)."""
        import torch

        pause()
        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.full((len(batch), int(lengths.max())), self._pad_id)
        mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        ids[mask] = torch.tensor([token for text in batch for token in text])
        with torch.inference_mode():
            ids, mask, lengths = (tensor.to(self.device) for tensor in (ids, mask, lengths))
            hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            return _normalize(_pool(hidden, mask, lengths, self._pooling))

    def compute_prefix(self, tokens: Tokens) -> None:
        """Return None: this encoder computes all tokens of each text."""


class PackedEncoder:
    """A causal model on packed batches, with last-token pooling as in the model card of Qwen3-Embedding."""

    packed = True

    def __init__(self, forward: Forward, device: "torch.device", dtype: "torch.dtype", pad_id: int) -> None:
        self.device, self.dtype = device, dtype
        self.forward = forward
        self._pad_id = pad_id

    def encode(self, batch: Sequence[Tokens], prefix: KVCache | None = None, pause: Pause = no_pause) -> "torch.Tensor":
        """Return unit vectors in float32, (texts, dimensions)."""
        import torch

        padding = padding_rows(sum(map(len, batch)), prefix)
        padding_text = [[self._pad_id] * padding] if padding else []
        prefix_length = prefix[0][0].shape[1] if prefix else 0
        with torch.inference_mode():
            packed = PackedBatch.of([*batch, *padding_text], prefix_length=prefix_length, device=self.device)
            return _normalize(self.forward.last_hidden_states(packed, prefix, pause)[: len(batch)])

    def compute_prefix(self, tokens: Tokens) -> KVCache:
        """Return the KV cache of the tokens."""
        import torch

        with torch.inference_mode():
            return self.forward.compute_kv_cache(PackedBatch.of([tokens], prefix_length=0, device=self.device))


class StockForward:
    """The stock model on packed batches, with the attention in `embedding.engine.attention`."""

    def __init__(self, model: "PreTrainedModel") -> None:
        register()
        model.set_attn_implementation(PACKED)
        self._model: Any = model

    def last_hidden_states(self, batch: PackedBatch, prefix: KVCache | None, pause: Pause) -> "torch.Tensor":
        """Return the hidden state of each text's last token, (texts, hidden size)."""
        output = self._run(batch, prefix=prefix, pause=pause)
        hidden: torch.Tensor = output.last_hidden_state[0, batch.last_indices]
        return hidden

    def compute_kv_cache(self, batch: PackedBatch) -> KVCache:
        """Return keys and values of every layer for a batch of one text."""
        cache = self._run(batch, prefix=None, pause=no_pause, use_cache=True).past_key_values
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def _run(self, batch: PackedBatch, **options: Any) -> Any:
        return self._model(
            input_ids=batch.ids.unsqueeze(0),
            position_ids=batch.positions.unsqueeze(0),
            sequence_lengths=batch.lengths,
            **options,
        )


def _supports_packing(model: "PreTrainedModel", pooling: Pooling) -> bool:
    """Whether the model is a Qwen3 without sliding-window attention, which packed attention does not implement."""
    config: Any = model.config
    return bool(config.model_type == "qwen3" and pooling == "lasttoken" and {*config.layer_types} == {"full_attention"})


def _probe(vocabulary: int) -> list[Tokens]:
    """Return texts of random tokens of different lengths; the last is longer than a block of the attention."""
    random = np.random.default_rng(0)
    return [random.integers(vocabulary, size=length).tolist() for length in (1, 4, 140)]


def _pool(hidden: "torch.Tensor", mask: "torch.Tensor", lengths: "torch.Tensor", pooling: Pooling) -> "torch.Tensor":
    """Pool right-padded token vectors, (texts, tokens, dimensions) → (texts, dimensions), in float32."""
    if pooling == "mean":
        return hidden.float().masked_fill(~mask.unsqueeze(2), 0.0).sum(dim=1) / lengths.unsqueeze(1)
    position = lengths - 1 if pooling == "lasttoken" else lengths * 0
    selected: torch.Tensor = hidden[range(len(hidden)), position]
    return selected.float()


def _normalize(vectors: "torch.Tensor") -> "torch.Tensor":
    """Scale to unit length in float32. A zero vector becomes NaN, which the embedder reports as an error."""
    wide = vectors.float()
    unit: torch.Tensor = wide / wide.norm(dim=1, keepdim=True)
    return unit

"""Token ids → vectors: the forward pass of a model, by the fastest way that is right on this machine.

Any model reads padded batches. Qwen3-Embedding reads packs (`embedding.engine.packing`), with the stock model, or on
the CPU with a forward pass of our own (`embedding.engine.lean`). Both use what may be missing or different elsewhere: a
processor's instructions, an operation of torch. So before a way is used, its vectors are compared with those of the
stock model.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from embedding.engine.attention import PACKED, KeysAndValues, register
from embedding.engine.lean import LeanForward
from embedding.engine.packing import Pack, missing_rows
from embedding.interface import Pause, no_pause
from embedding.model_files.directory import Pooling

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

Tokens = Sequence[int]

_KEPT = 9
"""Tokens of the probe that are kept as a prompt is."""

Starts = list[KeysAndValues]
"""What a model has kept of some tokens, in every layer."""

_ROUNDING = {4: 1e-5, 2: 5e-3}
"""By the bytes of a number: how far from one the cosine of two ways may be. An error shows in more."""


class Encoder(Protocol):
    """A model that is ready to compute."""

    packed: bool
    """Whether a batch is a pack: it costs its tokens, without padding."""
    device: "torch.device"
    dtype: "torch.dtype"

    def encode(self, batch: Sequence[Tokens], starts: Starts | None = None, pause: Pause = no_pause) -> "torch.Tensor":
        """(texts, dimensions), of length one, in float32.

        `starts`: what the model has kept of tokens that precede those of each text.
        """

    def start(self, tokens: Tokens) -> Starts | None:
        """What the model keeps of tokens that many texts begin with; None where it has to read them each time."""


class Forward(Protocol):
    """The forward pass of a causal model over packs."""

    def last_tokens(self, pack: Pack, starts: Starts | None, pause: Pause) -> "torch.Tensor":
        """What the model makes of the last token of each text: (texts, hidden size); `pause` before each layer."""

    def keys_and_values(self, pack: Pack) -> Starts:
        """Of every layer, for a pack of one text."""


def create_encoder(
    model: "PreTrainedModel",
    reload: "Callable[[], PreTrainedModel]",
    pooling: Pooling,
    *,
    filler: int,
) -> Encoder:
    """The fastest that agrees with the stock model.

    Args:
        model: Taken over: the encoder may change it.
        reload: Loads it again, for the next way when one fails, which is logged.
        pooling: How token vectors become that of a text.
        filler: A token id for padding.

    Raises:
        ModelUnavailableError: from `reload`.
    """
    import torch

    if not _can_pack(model, pooling):
        return PaddedEncoder(model, pooling, filler)
    probe = _probe(model.config.vocab_size)
    expected = PaddedEncoder(model, pooling, filler).encode(probe)
    ways: dict[str, Callable[[PreTrainedModel], Forward]] = {"lean": LeanForward}
    if model.device.type != "cpu":
        ways.clear()
    for name, way in (ways | {"packed": StockForward}).items():
        try:
            encoder = PackedEncoder(way(model), model.device, model.dtype, filler)
            vectors = torch.cat(
                [encoder.encode(probe), encoder.encode([probe[-1][_KEPT:]], encoder.start(probe[-1][:_KEPT]))]
            )
            distance = float((1 - (vectors * torch.cat([expected, expected[-1:]])).sum(dim=1)).abs().max())
            if distance <= _ROUNDING[encoder.dtype.itemsize]:
                return encoder
            reason = f"its vectors differ from those of the stock model by {distance:.1e}"
        except Exception as error:  # noqa: BLE001 - whatever other versions of torch or transformers may raise
            reason = f"{type(error).__name__}: {error}"
        logger.warning("The %s way of embedding cannot be used here, and a slower one is: %s.", name, reason)
        model = reload()  # the way that failed has changed it
    return PaddedEncoder(model, pooling, filler)


class PaddedEncoder:
    """The stock model, of any architecture, over padded batches."""

    packed = False

    def __init__(self, model: "PreTrainedModel", pooling: Pooling, filler: int) -> None:
        self.device, self.dtype = model.device, model.dtype
        self._model, self._pooling, self._filler = model, pooling, filler

    def encode(
        self,
        batch: Sequence[Tokens],
        starts: Starts | None = None,  # noqa: ARG002
        pause: Pause = no_pause,
    ) -> "torch.Tensor":
        """(texts, dimensions), of length one, in float32."""
        import torch

        pause()
        lengths = torch.tensor([len(ids) for ids in batch])
        ids = torch.full((len(batch), int(lengths.max())), self._filler)
        mask = torch.arange(ids.shape[1]) < lengths.unsqueeze(1)
        ids[mask] = torch.tensor([token for text in batch for token in text])
        with torch.inference_mode():
            ids, mask, lengths = (tensor.to(self.device) for tensor in (ids, mask, lengths))
            hidden = self._model(input_ids=ids, attention_mask=mask.long()).last_hidden_state
            return _unit(_pool(hidden, mask, lengths, self._pooling))

    def start(self, tokens: Tokens) -> None:
        """It reads all tokens of a text each time."""


class PackedEncoder:
    """A causal model over packs: the last token of a text is its vector."""

    packed = True

    def __init__(self, forward: Forward, device: "torch.device", dtype: "torch.dtype", filler: int) -> None:
        self.device, self.dtype = device, dtype
        self._forward, self._filler = forward, filler

    def encode(self, batch: Sequence[Tokens], starts: Starts | None = None, pause: Pause = no_pause) -> "torch.Tensor":
        """(texts, dimensions), of length one, in float32."""
        import torch

        missing = missing_rows(sum(map(len, batch)), starts)
        filling = [[self._filler] * missing] if missing else []
        read = starts[0][0].shape[1] if starts else 0
        with torch.inference_mode():
            pack = Pack.of([*batch, *filling], start=read, device=self.device)
            return _unit(self._forward.last_tokens(pack, starts, pause)[: len(batch)])

    def start(self, tokens: Tokens) -> Starts:
        """Keys and values of the tokens, in every layer."""
        import torch

        with torch.inference_mode():
            return self._forward.keys_and_values(Pack.of([tokens], start=0, device=self.device))


class StockForward:
    """The stock model over packs, by an attention of ours."""

    def __init__(self, model: "PreTrainedModel") -> None:
        register()
        model.set_attn_implementation(PACKED)
        self._model: Any = model

    def last_tokens(self, pack: Pack, starts: Starts | None, pause: Pause) -> "torch.Tensor":
        """What the model makes of the last token of each text: (texts, hidden size)."""
        hidden: torch.Tensor = self._run(pack, starts=starts, pause=pause).last_hidden_state[0, pack.ends]
        return hidden

    def keys_and_values(self, pack: Pack) -> Starts:
        """Of every layer, for a pack of one text."""
        cache = self._run(pack, starts=None, pause=no_pause, use_cache=True).past_key_values
        return [(layer.keys[0], layer.values[0]) for layer in cache.layers]

    def _run(self, pack: Pack, **options: Any) -> Any:
        positions = pack.positions.unsqueeze(0)
        return self._model(input_ids=pack.ids.unsqueeze(0), position_ids=positions, spans=pack.spans, **options)


def _can_pack(model: "PreTrainedModel", pooling: Pooling) -> bool:
    """Whether it is a Qwen3 without sliding windows, which packed attention does not know."""
    config: Any = model.config
    return bool(config.model_type == "qwen3" and pooling == "lasttoken" and {*config.layer_types} == {"full_attention"})


def _probe(vocabulary: int) -> list[Tokens]:
    """Texts of random tokens: in company, of unlike lengths, the last longer than a block of the attention."""
    random = np.random.default_rng(0)
    return [random.integers(vocabulary, size=length).tolist() for length in (1, 4, 140)]


def _pool(hidden: "torch.Tensor", mask: "torch.Tensor", lengths: "torch.Tensor", pooling: Pooling) -> "torch.Tensor":
    """(texts, tokens, d) right-padded token vectors → (texts, d), in float32."""
    if pooling == "mean":
        return hidden.float().masked_fill(~mask.unsqueeze(2), 0.0).sum(dim=1) / lengths.unsqueeze(1)
    position = lengths - 1 if pooling == "lasttoken" else lengths * 0
    chosen: torch.Tensor = hidden[range(len(hidden)), position]
    return chosen.float()


def _unit(vectors: "torch.Tensor") -> "torch.Tensor":
    """In float32; a zero vector becomes NaN, and is refused as such."""
    wide = vectors.float()
    unit: torch.Tensor = wide / wide.norm(dim=1, keepdim=True)
    return unit

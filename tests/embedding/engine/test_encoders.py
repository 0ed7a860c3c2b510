"""Every encoder computes the vectors of the stock model, and a document's vector does not depend on its batch."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding.embedder import LocalEmbedder
from embedding.engine.encoders import (
    CreateForward,
    KVCache,
    PackedEncoder,
    PaddedEncoder,
    StockForward,
    create_encoder,
    packed_forwards_for,
)
from embedding.engine.onednn_forward import OneDnnForward
from embedding.engine.packing import PackedBatch
from embedding.interface import Pause
from embedding.loader import load_embedding_model
from embedding.model_settings import EmbeddingSettings
from tests.support.tiny_models import QUERY_PROMPT, make_tiny_qwen3

Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")

characters = st.one_of(
    st.text(max_size=60),
    st.text("的铜厚度用千分尺测量植物数据库", max_size=40),
    st.text("😀👩🏽‍🔬🇨🇳é\u0301", max_size=12),
    st.text(" \t\n\r", max_size=10),
    st.sampled_from(["def f(x):\n\treturn x ** 2  # squared\n", "<|endoftext|>", "SELECT * FROM copper;", ""]),
)
texts = st.lists(st.tuples(characters, st.integers(1, 30)).map(lambda pair: pair[0] * pair[1]), min_size=1, max_size=6)
lengths = st.lists(st.one_of(st.integers(1, 40), st.integers(1, 1024)), min_size=1, max_size=6)


def load_model(directory: Path, precision: Precision) -> Any:
    settings = EmbeddingSettings(embedding_model_path=directory, embedding_device="cpu", embedding_dtype=precision)
    return load_embedding_model(settings)[1]


def min_cosine(precision: Precision) -> float:
    """The smallest cosine between vectors of one text that rounding explains."""
    return 0.99999 if precision == "float32" else 0.9998


def random_tokens(lengths: Sequence[int]) -> list[list[int]]:
    random = np.random.default_rng(sum(lengths))
    return [random.integers(500, size=length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def wide_qwen3(tmp_path_factory: pytest.TempPathFactory, _one_torch_thread: None) -> Path:
    """A model with three layers: a first, a middle and a last one."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "wide", hidden_size=64, layers=3)


@pytest.fixture(
    scope="module",
    params=[(forward, precision) for forward in (OneDnnForward, StockForward) for precision in PRECISIONS],
    ids=lambda parameters: f"{parameters[0].__name__}-{parameters[1]}",
)
def packed(wide_qwen3: Path, request: pytest.FixtureRequest) -> tuple[PackedEncoder, Precision]:
    create_forward, precision = request.param
    model = load_model(wide_qwen3, precision)
    return PackedEncoder(create_forward(model), model.device, model.dtype, 0), precision


@pytest.fixture(scope="module")
def stock(wide_qwen3: Path) -> Any:
    return load_model(wide_qwen3, "float32")


def padded_vectors(model: Any, batch: list[list[int]], side: Literal["left", "right"]) -> Any:
    """The vectors that transformers computes for a padded batch."""
    import torch

    longest = max(map(len, batch))
    ids, mask = torch.zeros(len(batch), longest, dtype=torch.long), torch.zeros(len(batch), longest, dtype=torch.long)
    for row, text in enumerate(batch):
        columns = slice(longest - len(text), None) if side == "left" else slice(len(text))
        ids[row, columns], mask[row, columns] = torch.tensor(text), 1
    with torch.inference_mode():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
        last = hidden[:, -1] if side == "left" else hidden[torch.arange(len(batch)), mask.sum(1) - 1]
        return torch.nn.functional.normalize(last, dim=1)


def test_packed_encoder_calls_pause_before_each_layer(packed: tuple[PackedEncoder, Precision]) -> None:
    pauses: list[str] = []
    packed[0].encode(random_tokens([3, 5]), pause=lambda: pauses.append(""))
    assert len(pauses) == 3


@settings(max_examples=12)
@given(lengths=lengths)
def test_packed_vectors_equal_left_and_right_padded_vectors(
    packed: tuple[PackedEncoder, Precision], stock: Any, lengths: list[int]
) -> None:
    encoder, precision = packed
    batch = random_tokens(lengths)
    vectors = encoder.encode(batch)
    for side in ("left", "right"):
        cosines = (vectors * padded_vectors(stock, batch, side)).sum(dim=1)
        assert float(cosines.min()) >= min_cosine(precision)


@settings(max_examples=12)
@given(lengths=lengths, seed=st.integers(0, 99))
def test_packed_vector_is_bitwise_equal_in_every_batch(
    packed: tuple[PackedEncoder, Precision], lengths: list[int], seed: int
) -> None:
    import torch

    batch = random_tokens(lengths)
    alone = [packed[0].encode([text])[0] for text in batch]
    order = np.random.default_rng(seed).permutation(len(batch))
    for vector, index in zip(packed[0].encode([batch[index] for index in order]), order, strict=True):
        assert torch.equal(vector, alone[index])


@settings(max_examples=12)
@given(lengths=lengths, prefix_length=st.integers(1, 200))
def test_cached_prefix_does_not_change_vectors(
    packed: tuple[PackedEncoder, Precision], lengths: list[int], prefix_length: int
) -> None:
    encoder, precision = packed
    (prefix,) = random_tokens([prefix_length])
    batch = random_tokens(lengths)
    with_cache = encoder.encode(batch, encoder.compute_prefix(prefix))
    without_cache = encoder.encode([prefix + text for text in batch])
    assert float((with_cache * without_cache).sum(dim=1).min()) >= min_cosine(precision)


def test_padded_encoder_agrees_with_transformers(stock: Any) -> None:
    batch = random_tokens([1, 30, 7, 200])
    vectors = PaddedEncoder(stock, "lasttoken", 0).encode(batch)
    assert float((vectors * padded_vectors(stock, batch, "left")).sum(dim=1).min()) >= 0.99999


# Choice of the implementation


class FailingForward(OneDnnForward):
    """Fails after it took the weights out of the model."""

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        raise RuntimeError("no such instruction")


class WrongForward(StockForward):
    """Returns the hidden states of other texts."""

    def last_hidden_states(self, batch: PackedBatch, prefix: KVCache | None, pause: Pause) -> Any:
        return super().last_hidden_states(batch, prefix, pause).flip(0)


class WrongCache(StockForward):
    """Returns a KV cache in which the order of the tokens is reversed."""

    def compute_kv_cache(self, batch: PackedBatch) -> KVCache:
        return [(key, value.flip(1)) for key, value in super().compute_kv_cache(batch)]


def encoder_for(
    directory: Path,
    *packed_forwards: CreateForward,
    precision: Precision = "float32",
) -> Any:
    """The encoder that is chosen among these implementations; by default among those of the product."""
    return create_encoder(
        load_model(directory, precision),
        lambda: load_model(directory, precision),
        "lasttoken",
        pad_id=0,
        packed_forwards={str(forward): forward for forward in packed_forwards} or None,
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_cpu_uses_onednn_forward_without_a_warning(
    wide_qwen3: Path, precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(encoder_for(wide_qwen3, precision=precision).forward, OneDnnForward)
    assert caplog.records == []


def test_stock_forward_is_the_fallback_on_the_cpu_and_the_only_one_on_a_gpu() -> None:
    assert list(packed_forwards_for("cpu").values()) == [OneDnnForward, StockForward]
    assert list(packed_forwards_for("cuda").values()) == [StockForward]


def test_next_implementation_is_used_if_one_fails(wide_qwen3: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = encoder_for(wide_qwen3, FailingForward, StockForward)
    assert isinstance(encoder.forward, StockForward)
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "no such instruction" in caplog.text


@pytest.mark.parametrize("wrong", [WrongForward, WrongCache])
def test_implementation_with_other_vectors_is_not_used(
    wide_qwen3: Path, stock: Any, wrong: CreateForward, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = encoder_for(wide_qwen3, FailingForward, wrong)
    assert isinstance(encoder, PaddedEncoder)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "differ from those of the stock model" in caplog.messages[1]
    batch = random_tokens([5])
    assert float((encoder.encode(batch) * padded_vectors(stock, batch, "left")).sum()) >= 0.99999


def test_other_poolings_and_sliding_windows_use_padded_encoder(wide_qwen3: Path) -> None:
    model = load_model(wide_qwen3, "float32")
    assert isinstance(create_encoder(model, lambda: model, "mean", pad_id=0), PaddedEncoder)
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    assert isinstance(create_encoder(model, lambda: model, "lasttoken", pad_id=0), PaddedEncoder)


# Vectors of texts


@pytest.fixture(scope="module", params=PRECISIONS)
def embedder(wide_qwen3: Path, request: pytest.FixtureRequest) -> LocalEmbedder:
    options = {"embedding_device": "cpu", "embedding_dtype": request.param, "embedding_max_tokens": 64}
    return LocalEmbedder.load(EmbeddingSettings(embedding_model_path=wide_qwen3, **options))


@settings(max_examples=25)
@given(texts=texts)
def test_document_vector_is_bitwise_equal_in_every_call(embedder: LocalEmbedder, texts: list[str]) -> None:
    together = embedder.embed_documents(texts).vectors
    for vector, text in zip(together, texts, strict=True):
        assert np.array_equal(embedder.embed_documents([text]).vectors[0], vector)


@settings(max_examples=40)
@given(query=characters)
def test_query_vector_equals_that_of_prompt_and_query(embedder: LocalEmbedder, query: str) -> None:
    """This includes queries whose start forms one token with the end of the prompt."""
    query_result = embedder.embed_queries([query])
    document_result = embedder.embed_documents([QUERY_PROMPT + query])
    assert query_result.token_counts == document_result.token_counts
    assert float((query_result.vectors * document_result.vectors).sum()) >= 0.9998

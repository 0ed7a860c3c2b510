"""Whatever way a vector is computed, it is that of the stock model; and the same bits in any company."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedding.embedder import LocalEmbedder
from embedding.engine.encoders import PackedEncoder, PaddedEncoder, StockForward, create_encoder
from embedding.engine.lean import LeanForward
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


def loaded(directory: Path, precision: Precision) -> Any:
    path = EmbeddingSettings(embedding_model_path=directory, embedding_device="cpu", embedding_dtype=precision)
    return load_embedding_model(path)[1]


def tokens(lengths: Sequence[int]) -> list[list[int]]:
    random = np.random.default_rng(sum(lengths))
    return [random.integers(500, size=length).tolist() for length in lengths]


@pytest.fixture(scope="module")
def wide_qwen3(tmp_path_factory: pytest.TempPathFactory, _one_torch_thread: None) -> Path:
    """Three layers: a first, a middle and a last one."""
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "wide", hidden_size=64, layers=3)


@pytest.fixture(scope="module", params=[(way, p) for way in (LeanForward, StockForward) for p in PRECISIONS], ids=str)
def packed(wide_qwen3: Path, request: pytest.FixtureRequest) -> tuple[PackedEncoder, Precision]:
    way, precision = request.param
    model = loaded(wide_qwen3, precision)
    return PackedEncoder(way(model), model.device, model.dtype, 0), precision


@pytest.fixture(scope="module")
def stock(wide_qwen3: Path) -> Any:
    return loaded(wide_qwen3, "float32")


def padded(model: Any, batch: list[list[int]], side: Literal["left", "right"]) -> Any:
    """What transformers makes of a padded batch."""
    import torch

    longest = max(map(len, batch))
    ids, mask = torch.zeros(len(batch), longest, dtype=torch.long), torch.zeros(len(batch), longest, dtype=torch.long)
    for row, text in enumerate(batch):
        where = slice(longest - len(text), None) if side == "left" else slice(len(text))
        ids[row, where], mask[row, where] = torch.tensor(text), 1
    with torch.inference_mode():
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        hidden = model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state
        last = hidden[:, -1] if side == "left" else hidden[torch.arange(len(batch)), mask.sum(1) - 1]
        return torch.nn.functional.normalize(last, dim=1)


def test_it_pauses_before_each_layer(packed: tuple[PackedEncoder, Precision]) -> None:
    paused: list[str] = []
    packed[0].encode(tokens([3, 5]), pause=lambda: paused.append(""))
    assert len(paused) == 3


@settings(max_examples=12)
@given(lengths=lengths)
def test_packed_and_padded_on_either_side_are_one(
    packed: tuple[PackedEncoder, Precision], stock: Any, lengths: list[int]
) -> None:
    encoder, precision = packed
    batch = tokens(lengths)
    vectors = encoder.encode(batch)
    for side in ("left", "right"):
        cosines = (vectors * padded(stock, batch, side)).sum(dim=1)
        assert float(cosines.min()) >= (0.99999 if precision == "float32" else 0.9998)


@settings(max_examples=12)
@given(lengths=lengths, seed=st.integers(0, 99))
def test_a_vector_is_the_same_bits_in_any_company(
    packed: tuple[PackedEncoder, Precision], lengths: list[int], seed: int
) -> None:
    import torch

    batch = tokens(lengths)
    alone = [packed[0].encode([text])[0] for text in batch]
    order = np.random.default_rng(seed).permutation(len(batch))
    for vector, index in zip(packed[0].encode([batch[index] for index in order]), order, strict=True):
        assert torch.equal(vector, alone[index])


@settings(max_examples=12)
@given(lengths=lengths, start=st.integers(1, 200))
def test_a_start_that_was_kept_changes_nothing(
    packed: tuple[PackedEncoder, Precision], lengths: list[int], start: int
) -> None:
    encoder, precision = packed
    (prompt,) = tokens([start])
    batch = tokens(lengths)
    kept = encoder.encode(batch, encoder.start(prompt))
    whole = encoder.encode([prompt + text for text in batch])
    assert float((kept * whole).sum(dim=1).min()) >= (0.99999 if precision == "float32" else 0.9998)


def test_the_way_for_other_architectures_agrees_with_transformers(stock: Any) -> None:
    batch = tokens([1, 30, 7, 200])
    vectors = PaddedEncoder(stock, "lasttoken", 0).encode(batch)
    assert float((vectors * padded(stock, batch, "left")).sum(dim=1).min()) >= 0.99999


# Which way is taken


def encoder_for(directory: Path, precision: Precision = "float32") -> Any:
    return create_encoder(loaded(directory, precision), lambda: loaded(directory, precision), "lasttoken", filler=0)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_lean_way_is_taken_where_it_agrees(
    wide_qwen3: Path, precision: Precision, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(encoder_for(wide_qwen3, precision)._forward, LeanForward)
    assert caplog.records == []


def test_a_way_that_fails_or_disagrees_gives_way_to_the_next(
    wide_qwen3: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr("embedding.engine.lean._Linear", broken)
    assert isinstance(encoder_for(wide_qwen3)._forward, StockForward)
    monkeypatch.setattr("embedding.engine.attention._later", lambda rows, dtype: 0)  # tokens see what follows them
    encoder = encoder_for(wide_qwen3)
    assert isinstance(encoder, PaddedEncoder)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert "no such instruction" in caplog.messages[0]
    assert "differ from those of the stock model" in caplog.messages[2]
    assert float(encoder.encode(tokens([5])).norm()) == pytest.approx(1, abs=1e-5)


def test_windows_and_other_poolings_are_left_to_the_stock_model(wide_qwen3: Path) -> None:
    model = loaded(wide_qwen3, "float32")
    assert isinstance(create_encoder(model, lambda: model, "mean", filler=0), PaddedEncoder)
    model.config.layer_types = ["full_attention", "sliding_attention", "full_attention"]
    assert isinstance(create_encoder(model, lambda: model, "lasttoken", filler=0), PaddedEncoder)


# Of texts


@pytest.fixture(scope="module", params=PRECISIONS)
def embedder(wide_qwen3: Path, request: pytest.FixtureRequest) -> LocalEmbedder:
    options = {"embedding_device": "cpu", "embedding_dtype": request.param, "embedding_max_tokens": 64}
    return LocalEmbedder.load(EmbeddingSettings(embedding_model_path=wide_qwen3, **options))


@settings(max_examples=25)
@given(texts=texts)
def test_any_text_has_one_vector_whatever_its_batch_mates(embedder: LocalEmbedder, texts: list[str]) -> None:
    together = embedder.embed_documents(texts).vectors
    for vector, text in zip(together, texts, strict=True):
        assert np.array_equal(embedder.embed_documents([text]).vectors[0], vector)


@settings(max_examples=40)
@given(query=characters)
def test_a_query_is_read_as_the_prompt_and_itself_in_one(embedder: LocalEmbedder, query: str) -> None:
    """Also where its beginning and the end of the prompt are one token."""
    kept = embedder.embed_queries([query])
    whole = embedder.embed_documents([QUERY_PROMPT + query])
    assert embedder._engine.starts
    assert kept.token_counts == whole.token_counts
    assert float((kept.vectors * whole.vectors).sum()) >= 0.9998


def test_a_query_that_changes_the_prompts_tokens_is_read_whole(embedder: LocalEmbedder) -> None:
    engine = embedder._engine
    changed = engine._replace(prompt=[*engine.prompt[:-1], engine.prompt[-1] + 1])
    expected = embedder.embed_queries(["copper", "铜"]).vectors
    embedder._engine = changed
    try:
        assert (embedder.embed_queries(["copper", "铜"]).vectors * expected).sum(axis=1).min() >= 0.9998
    finally:
        embedder._engine = engine

"""Vectors are those of the plain model, whatever a text's company, length or thread; and nothing is lost quietly."""

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import current_thread, main_thread
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from embedding.embedder import LocalEmbedder
from embedding.errors import EmbeddingError, ModelUnavailableError
from embedding.model_settings import EmbeddingSettings
from tests.support.tiny_models import QUERY_PROMPT

Copy = Callable[[Path], Path]

TEXTS = [
    "Copper thickness is measured with a micrometer.",
    "铜的厚度用千分尺测量。",
    "a",
    "the slope of the loss " * 60,
    "Gradient descent: the learning rate scales every step.\n\n\tTabs,   blanks and 😀🇨🇳 too. " * 4,
    "plant cell",
]


def load(directory: Path, **changes: Any) -> LocalEmbedder:
    options = {"embedding_device": "cpu", "embedding_dtype": "float32"} | changes
    return LocalEmbedder.load(EmbeddingSettings(embedding_model_path=directory, **options))


def plain_vectors(directory: Path, texts: list[str], *, max_tokens: int = 512) -> NDArray[np.float32]:
    """What transformers alone says of one text at a time: no batch, no padding."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModel.from_pretrained(directory, dtype=torch.float32)
    rows = []
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=max_tokens, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            hidden = model(input_ids=ids).last_hidden_state[0]
        pooled = hidden[-1] if model.config.model_type == "qwen3" else hidden.mean(dim=0)
        rows.append((pooled / pooled.norm()).numpy())
    return np.stack(rows)


@pytest.fixture(scope="module")
def qwen3(tiny_qwen3: Path) -> LocalEmbedder:
    return load(tiny_qwen3)


@pytest.fixture(scope="module")
def bert(tiny_bert: Path) -> LocalEmbedder:
    return load(tiny_bert)


def test_attributes_describe_the_model(tiny_qwen3: Path) -> None:
    embedder = load(tiny_qwen3, embedding_model_name="tiny", embedding_max_tokens=256)
    assert (embedder.name, embedder.dimensions, embedder.max_tokens, embedder.device) == ("tiny", 128, 256, "cpu")
    assert len(embedder.signature) == 16


# The right vectors


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_batch_of_mixed_lengths_gives_the_vectors_of_the_plain_models(tiny_qwen3: Path, tiny_bert: Path) -> None:
    """Padding side (the tokenizer says left), mask, positions and pooling: any of them wrong shows here."""
    for directory, max_tokens in ((tiny_qwen3, 512), (tiny_bert, 128)):
        vectors = load(directory).embed_documents(TEXTS).vectors
        expected = plain_vectors(directory, TEXTS, max_tokens=max_tokens)
        assert vectors.dtype == np.float32
        assert (vectors * expected).sum(axis=1).min() >= 0.99999
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
        company = vectors @ vectors.T - 2 * np.eye(len(TEXTS))
        assert company.max() < 0.999  # or else all this would hold of any vectors


def test_cls_pooling_takes_the_first_token(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    from tests.support.tiny_models import make_tiny_bert

    directory = make_tiny_bert(tmp_path / "cls", pooling="cls")
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    model: Any = AutoModel.from_pretrained(directory)
    with torch.inference_mode():
        first = model(**tokenizer(TEXTS[0], return_tensors="pt")).last_hidden_state[0, 0].numpy()
    vectors = load(directory).embed_documents([TEXTS[0], TEXTS[3]]).vectors
    assert vectors[0] @ (first / np.linalg.norm(first)) >= 0.99999


def test_queries_follow_the_prompt_and_documents_stand_bare(qwen3: LocalEmbedder, bert: LocalEmbedder) -> None:
    query = qwen3.embed_queries(["copper"])
    prompted = qwen3.embed_documents([f"{QUERY_PROMPT}copper"])
    bare = qwen3.embed_documents(["copper"])
    assert np.allclose(query.vectors, prompted.vectors, atol=1e-6)
    assert query.token_counts == prompted.token_counts
    assert query.token_counts[0] > bare.token_counts[0]
    assert not np.allclose(query.vectors, bare.vectors, atol=1e-2)
    assert np.allclose(bert.embed_queries(["copper"]).vectors, bert.embed_documents(["copper"]).vectors, atol=1e-6)


def test_the_prompt_changes_queries_and_not_documents(qwen3: LocalEmbedder, tiny_qwen3: Path) -> None:
    other = load(tiny_qwen3, embedding_query_instruction="Find the formula of copper")
    assert not np.allclose(other.embed_queries(["x"]).vectors, qwen3.embed_queries(["x"]).vectors, atol=1e-3)
    assert np.allclose(other.embed_documents(["x"]).vectors, qwen3.embed_documents(["x"]).vectors, atol=1e-6)
    assert other.signature == qwen3.signature


def test_texts_that_share_words_are_near(qwen3: LocalEmbedder) -> None:
    """What end-to-end tests rely on: the tiny model finds the passage that repeats a query's words."""
    passages = [
        "The thickness of a copper plate is measured with a micrometer at three points.",
        "Gradient descent follows the slope of the loss; the learning rate scales the step.",
        "Photosynthesis turns carbon dioxide and water into sugar in the chloroplast.",
        "数据库用索引加快查询，事务要么提交要么回滚。",
    ]
    queries = ["how thick is copper", "gradient descent", "sugar from water", "数据库的索引"]
    scores = qwen3.embed_queries(queries).vectors @ qwen3.embed_documents(passages).vectors.T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_lower_casing_a_directory_asks_for(tiny_qwen3: Path, copy_of: Copy, qwen3: LocalEmbedder) -> None:
    directory = copy_of(tiny_qwen3)
    (directory / "sentence_bert_config.json").write_text('{"do_lower_case": true}', encoding="utf-8")
    upper, lower = load(directory).embed_documents(["COPPER plate", "copper plate"]).vectors
    assert np.allclose(upper, lower, atol=1e-6)
    upper, lower = qwen3.embed_documents(["COPPER plate", "copper plate"]).vectors
    assert not np.allclose(upper, lower, atol=1e-2)


# Batches


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 120), min_size=1, max_size=12))
def test_order_is_restored_whatever_the_lengths(qwen3: LocalEmbedder, word_counts: list[int]) -> None:
    texts = [f"{number} copper " + "plate " * words for number, words in enumerate(word_counts)]
    together = qwen3.embed_documents(texts)
    alone = [qwen3.embed_documents([text]) for text in texts]
    assert together.token_counts == tuple(one.token_counts[0] for one in alone)
    expected = np.concatenate([one.vectors for one in alone])
    assert (together.vectors * expected).sum(axis=1).min() >= 0.99999


def test_progress_counts_the_texts_done(qwen3: LocalEmbedder) -> None:
    heard: list[int] = []
    qwen3.embed_documents(["word " * 300] * 10, on_progress=heard.append)
    assert len(heard) > 1
    assert heard == sorted(set(heard))
    assert heard[-1] == 10


def test_a_batch_too_large_for_the_gpu_is_halved(qwen3: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    expected = qwen3.embed_documents(TEXTS).vectors
    encoder = qwen3._engine.encoder
    encode, sizes = encoder.encode, []

    def cramped(batch: list[list[int]], *others: Any) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(batch, *others)

    monkeypatch.setattr(encoder, "encode", cramped)
    assert (qwen3.embed_documents(TEXTS).vectors * expected).sum(axis=1).min() >= 0.99999
    assert max(sizes) > 1


def test_no_batch_exceeds_the_tokens_that_bound_memory(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load(tiny_qwen3, embedding_batch_tokens=100)
    encoder = embedder._engine.encoder
    encode, sizes = encoder.encode, []

    def counted(batch: list[list[int]], *others: Any) -> Any:
        sizes.append(sum(map(len, batch)))
        return encode(batch, *others)

    monkeypatch.setattr(encoder, "encode", counted)
    embedder.embed_documents(["copper plate " * words for words in range(1, 20)] * 3)
    assert len(sizes) > 3
    assert max(sizes) <= 100


@pytest.fixture
def three_threads() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_documents_are_shared_out_among_the_processors(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The vectors are the same bits whichever thread computes them, and nothing is computed after a failure."""
    embedder = load(tiny_qwen3, embedding_batch_tokens=64)
    texts = [f"{number} copper " + "plate " * (number % 30) for number in range(60)]
    alone = np.concatenate([embedder.embed_documents([text]).vectors for text in texts])
    encoder = embedder._engine.encoder
    encode, threads = encoder.encode, set()

    def watched(batch: list[list[int]], *others: Any) -> Any:
        threads.add(current_thread().name)
        return encode(batch, *others)

    monkeypatch.setattr(encoder, "encode", watched)
    assert np.array_equal(embedder.embed_documents(texts).vectors, alone)
    assert main_thread().name not in threads

    def stop(done: int) -> None:
        raise InterruptedError

    computed = []

    def counted(batch: list[list[int]], *others: Any) -> Any:
        computed.append(batch)
        return encode(batch, *others)

    monkeypatch.setattr(encoder, "encode", counted)
    with pytest.raises(InterruptedError):
        embedder.embed_documents(texts, stop)
    assert len(computed) < 12


@pytest.mark.parametrize(("model", "calls"), [("qwen3", 2), ("bert", 1)])
def test_bulk_work_pauses_before_every_layer_or_padded_batch(
    model: str, calls: int, request: pytest.FixtureRequest
) -> None:
    embedder: LocalEmbedder = request.getfixturevalue(model)
    paused: list[str] = []
    expected = embedder.embed_documents(["copper plate"]).vectors
    vectors = embedder.embed_documents(["copper plate"], pause=lambda: paused.append("")).vectors
    assert np.array_equal(vectors, expected)
    assert len(paused) == calls

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        embedder.embed_documents(TEXTS, pause=stop)


# Truncation


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_long_texts_are_cut_by_token_and_keep_the_closing_token(
    tiny_qwen3: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    long_text = "the slope of the loss " * 30
    result = load(tiny_qwen3, embedding_max_tokens=32).embed_documents([long_text, "copper", "exact" * 3])
    assert result.token_counts[0] == 32
    assert result.truncated == 1
    assert result.truncated_share == pytest.approx(1 / 3)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "1 of 3 texts (33.3 %) were longer than 32 tokens" in record.getMessage()

    tokenizer: Any = AutoTokenizer.from_pretrained(tiny_qwen3)
    ids = tokenizer(long_text)["input_ids"]
    assert len(ids) > 33
    assert ids[-1] == tokenizer.pad_token_id != ids[-2]  # exactly one, from the tokenizer itself
    with torch.inference_mode():
        model: Any = AutoModel.from_pretrained(tiny_qwen3, dtype=torch.float32)
        hidden = model(input_ids=torch.tensor([[*ids[:31], ids[-1]]])).last_hidden_state[0, -1].numpy()
    assert result.vectors[0] @ (hidden / np.linalg.norm(hidden)) >= 0.99999


def test_a_text_of_just_the_limit_is_not_cut(bert: LocalEmbedder, caplog: pytest.LogCaptureFixture) -> None:
    assert bert.max_tokens == 128  # of the directory, below the setting
    exact = bert.embed_documents(["the " * 126])
    assert (exact.token_counts, exact.truncated) == ((128,), 0)
    assert caplog.records == []
    over = bert.embed_documents(["the " * 127])
    assert (over.token_counts, over.truncated) == ((128,), 1)


def test_a_limit_that_leaves_no_room_for_text_is_refused(tiny_qwen3: Path, tiny_bert: Path) -> None:
    """All queries would be cut to the prompt, and every search would find the same."""
    with pytest.raises(EmbeddingError, match="EMBEDDING_MAX_TOKENS allows 16 tokens"):
        load(tiny_qwen3, embedding_max_tokens=16)
    with pytest.raises(EmbeddingError, match="EMBEDDING_MAX_TOKENS allows 2 tokens"):
        load(tiny_bert, embedding_max_tokens=2)
    assert load(tiny_bert, embedding_max_tokens=3).embed_documents(["copper"]).token_counts == (3,)


def test_a_limit_in_the_tokenizer_file_counts_for_nothing(tiny_qwen3: Path, copy_of: Copy) -> None:
    """Published files carry the limit of some training run."""
    directory = copy_of(tiny_qwen3)
    content = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert load(directory).embed_documents(["the slope of the loss " * 20]).token_counts[0] > 80
    with pytest.raises(EmbeddingError, match="EMBEDDING_MAX_TOKENS allows 16 tokens"):
        load(directory, embedding_max_tokens=16)


# Odd texts


def test_no_texts_give_no_vectors(qwen3: LocalEmbedder) -> None:
    result = qwen3.embed_documents([])
    assert result.vectors.shape == (0, 128)
    assert (result.token_counts, result.truncated, result.truncated_share) == ((), 0, 0.0)
    assert qwen3.embed_queries([]).vectors.shape == (0, 128)


ODD = [
    "",
    " ",
    "\n\t\r",
    "\x00",
    "\x00\x01\x07" * 50,
    "😀👩‍👩‍👧🇨🇳",
    "\ufeff\u200b",
    "<|endoftext|>",
    "[CLS]",
    "\u0301" * 100,
    "𝕏" * 40,
]


@pytest.mark.parametrize("model", ["qwen3", "bert"])
def test_odd_texts_get_finite_unit_vectors(model: str, request: pytest.FixtureRequest) -> None:
    embedder: LocalEmbedder = request.getfixturevalue(model)
    result = embedder.embed_documents(ODD)
    assert np.abs(np.linalg.norm(result.vectors, axis=1) - 1).max() < 1e-5
    assert min(result.token_counts) >= 1


def test_a_tokenizer_that_adds_no_tokens_of_its_own_can_read_nothing(tiny_qwen3: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_qwen3)
    content = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    (directory / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}), encoding="utf-8")
    result = load(directory).embed_documents(["", "copper"])
    assert result.token_counts[0] == 1
    assert np.isfinite(result.vectors).all()


@given(st.text(st.characters(exclude_categories=()), max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_python_string_gets_a_unit_vector(qwen3: LocalEmbedder, text: str) -> None:
    """Lone surrogates, which no tokenizer accepts, included."""
    (vector,) = qwen3.embed_documents([text]).vectors
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_surrogates_become_the_character_they_spell_or_the_replacement(qwen3: LocalEmbedder) -> None:
    pair, emoji, lone, replaced = qwen3.embed_documents(["\ud83d\ude00", "😀", "a\ud800b", "a\ufffdb"]).vectors
    assert np.allclose(pair, emoji, atol=1e-6)
    assert np.allclose(lone, replaced, atol=1e-6)


# Failures


def test_a_vector_that_is_not_finite_is_an_error_that_names_its_text(tiny_qwen3: Path) -> None:
    import torch

    embedder = load(tiny_qwen3)
    ids = embedder._tokenize([" copper"])[0][0]
    encoder: Any = embedder._engine.encoder
    with torch.no_grad():
        encoder._forward._embeddings.weight[ids[0]] = torch.nan
    assert np.isfinite(embedder.embed_documents(["plant 植物"]).vectors).all()
    with pytest.raises(
        EmbeddingError, match=r"text 1 \('a copper plate'\) got a vector that is not finite, in float32"
    ):
        embedder.embed_documents(["plant 植物", "a copper plate"])


def test_what_does_not_fit_in_float16_is_computed_in_bfloat16_from_then_on(
    tiny_qwen3: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    embedder = load(tiny_qwen3, embedding_dtype="float16")
    assert embedder.dtype == "float16"
    encoder = embedder._engine.encoder
    # the dtype is said: while transformers loads the other model, torch's default is another one, in every thread
    nothing = torch.full((len(TEXTS), 128), torch.nan, dtype=torch.float32)
    monkeypatch.setattr(encoder, "encode", lambda batch, starts, pause: nothing[: len(batch)])
    expected = load(tiny_qwen3, embedding_dtype="bfloat16").embed_documents(TEXTS).vectors
    caplog.clear()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: embedder.embed_documents(TEXTS).vectors, range(4)))
    assert all(np.array_equal(result, expected) for result in results)
    assert embedder.dtype == "bfloat16"
    (record,) = caplog.records
    assert "did not fit in float16" in record.getMessage()
    assert (embedder.embed_queries(["copper"]).vectors ** 2).sum() == pytest.approx(1, abs=1e-5)


def test_a_failure_inside_the_model_is_an_embedding_error(
    qwen3: LocalEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(batch: list[list[int]], *others: Any) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(qwen3._engine.encoder, "encode", lost)
    with pytest.raises(EmbeddingError, match="unspecified launch failure"):
        qwen3.embed_queries(["copper"])


def test_a_missing_model_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="does not exist"):
        load(tmp_path / "missing")


# Threads and devices


def test_threads_share_an_embedder(qwen3: LocalEmbedder) -> None:
    """A fast tokenizer raises "Already borrowed" when one thread sets its truncation while another encodes."""
    words = ["copper", "plate", "铜", "loss", "slope", "query"]
    queries = [f"{word} " * (1 + number % 7) for number, word in enumerate(words * 8)]
    expected = qwen3.embed_queries(queries).vectors
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda query: qwen3.embed_queries([query, "x " * 600]), queries))
    for vector, result in zip(expected, results, strict=True):
        assert result.vectors[0] @ vector >= 0.99999
        assert result.truncated == 1


def test_the_gpu_agrees_with_the_cpu(qwen3: LocalEmbedder, tiny_qwen3: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_gpu = LocalEmbedder.load(EmbeddingSettings(embedding_model_path=tiny_qwen3, embedding_device="cuda"))
    assert (on_gpu.device, on_gpu.dtype) == ("cuda", "float16")
    assert on_gpu.signature == qwen3.signature
    agreement = on_gpu.embed_documents(TEXTS).vectors * qwen3.embed_documents(TEXTS).vectors
    assert agreement.sum(axis=1).min() >= 0.999

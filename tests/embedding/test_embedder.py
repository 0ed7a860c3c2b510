"""A text's vector is that of the stock model, in every batch and thread; truncation and failures are reported."""

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
    """Load a model on the CPU in float32, with these settings changed."""
    options = {"embedding_device": "cpu", "embedding_dtype": "float32"} | changes
    return LocalEmbedder.load(EmbeddingSettings(embedding_model_path=directory, **options))


def stock_vectors(directory: Path, texts: list[str], *, max_tokens: int = 512) -> NDArray[np.float32]:
    """The vectors that transformers computes, one text at a time, without padding."""
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


def record_batches(embedder: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> list[list[list[int]]]:
    """Returns a list that receives the token ids of every batch that the embedder computes from now on."""
    encode = embedder.encoder.encode
    batches: list[list[list[int]]] = []

    def record(batch: list[list[int]], *arguments: Any) -> Any:
        batches.append(batch)
        return encode(batch, *arguments)

    monkeypatch.setattr(embedder.encoder, "encode", record)
    return batches


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


# Vectors


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_batch_of_mixed_lengths_has_the_vectors_of_the_stock_model(tiny_qwen3: Path, tiny_bert: Path) -> None:
    """A wrong padding side (the tokenizer's is left), mask, position or pooling would change the vectors."""
    for directory, max_tokens in ((tiny_qwen3, 512), (tiny_bert, 128)):
        vectors = load(directory).embed_documents(TEXTS).vectors
        expected = stock_vectors(directory, TEXTS, max_tokens=max_tokens)
        assert vectors.dtype == np.float32
        assert (vectors * expected).sum(axis=1).min() >= 0.99999
        assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() < 1e-5
        cosines_of_others = vectors @ vectors.T - 2 * np.eye(len(TEXTS))
        assert cosines_of_others.max() < 0.999  # the comparison above distinguishes texts


def test_cls_pooling_uses_the_first_token(tmp_path: Path) -> None:
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


def test_only_queries_get_the_query_prompt(qwen3: LocalEmbedder, bert: LocalEmbedder) -> None:
    query = qwen3.embed_queries(["copper"])
    prompt_and_text = qwen3.embed_documents([f"{QUERY_PROMPT}copper"])
    document = qwen3.embed_documents(["copper"])
    assert np.allclose(query.vectors, prompt_and_text.vectors, atol=1e-6)
    assert query.token_counts == prompt_and_text.token_counts
    assert query.token_counts[0] > document.token_counts[0]
    assert not np.allclose(query.vectors, document.vectors, atol=1e-2)
    assert np.allclose(bert.embed_queries(["copper"]).vectors, bert.embed_documents(["copper"]).vectors, atol=1e-6)


def test_configured_prompts_are_embedded(bert: LocalEmbedder, tiny_bert: Path) -> None:
    """For directories without stored prompts, like those of E5."""
    e5 = load(tiny_bert, embedding_query_prompt="query: ", embedding_document_prompt="passage: ")
    plain = bert.embed_documents(["query: copper", "passage: copper"])
    assert np.allclose(e5.embed_queries(["copper"]).vectors, plain.vectors[:1], atol=1e-6)
    documents = e5.embed_documents(["copper"])
    assert np.allclose(documents.vectors, plain.vectors[1:], atol=1e-6)
    assert documents.token_counts == plain.token_counts[1:], "the usage counts the prompt"
    assert e5.signature != bert.signature


def test_stored_prompt_can_be_switched_off(qwen3: LocalEmbedder, tiny_qwen3: Path) -> None:
    query = load(tiny_qwen3, embedding_query_prompt="none").embed_queries(["copper"])
    document = qwen3.embed_documents(["copper"])
    assert np.allclose(query.vectors, document.vectors, atol=1e-6)
    assert query.token_counts == document.token_counts


def test_query_computes_only_the_tokens_after_the_cached_prefix(
    qwen3: LocalEmbedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = record_batches(qwen3, monkeypatch)
    (token_count,) = qwen3.embed_queries(["copper"]).token_counts
    ((tokens,),) = batches
    assert len(tokens) == 3, "the last token of the prompt, the query and the closing token"
    assert token_count > 10


def test_query_that_changes_the_tokens_of_the_prefix_is_computed_completely(
    tiny_qwen3: Path, copy_of: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """` coppe` is three tokens, ` copper` is one."""
    directory = copy_of(tiny_qwen3)
    prompts = {"prompts": {"query": "find coppe"}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    embedder = load(directory)
    expected = embedder.embed_documents(["find copper plate", "find coppe plate"])
    batches = record_batches(embedder, monkeypatch)
    for query, vector, token_count, uses_cache in (
        ("r plate", expected.vectors[0], expected.token_counts[0], False),
        (" plate", expected.vectors[1], expected.token_counts[1], True),
    ):
        batches.clear()
        assert embedder.embed_queries([query]).vectors[0] @ vector >= 0.99999
        ((tokens,),) = batches
        assert (len(tokens) < token_count) is uses_cache


def test_query_instruction_changes_queries_and_not_documents(qwen3: LocalEmbedder, tiny_qwen3: Path) -> None:
    other = load(tiny_qwen3, embedding_query_instruction="Find the formula of copper")
    assert not np.allclose(other.embed_queries(["x"]).vectors, qwen3.embed_queries(["x"]).vectors, atol=1e-3)
    assert np.allclose(other.embed_documents(["x"]).vectors, qwen3.embed_documents(["x"]).vectors, atol=1e-6)
    assert other.signature == qwen3.signature


def test_tiny_model_ranks_passages_with_the_words_of_a_query_first(qwen3: LocalEmbedder) -> None:
    """The end-to-end tests rely on this."""
    passages = [
        "The thickness of a copper plate is measured with a micrometer at three points.",
        "Gradient descent follows the slope of the loss; the learning rate scales the step.",
        "Photosynthesis turns carbon dioxide and water into sugar in the chloroplast.",
        "数据库用索引加快查询，事务要么提交要么回滚。",
    ]
    queries = ["how thick is copper", "gradient descent", "sugar from water", "数据库的索引"]
    scores = qwen3.embed_queries(queries).vectors @ qwen3.embed_documents(passages).vectors.T
    assert scores.argmax(axis=1).tolist() == [0, 1, 2, 3]


def test_texts_are_lower_cased_if_the_directory_requires_it(
    tiny_qwen3: Path, copy_of: Copy, qwen3: LocalEmbedder
) -> None:
    directory = copy_of(tiny_qwen3)
    (directory / "sentence_bert_config.json").write_text('{"do_lower_case": true}', encoding="utf-8")
    upper, lower = load(directory).embed_documents(["COPPER plate", "copper plate"]).vectors
    assert np.allclose(upper, lower, atol=1e-6)
    upper, lower = qwen3.embed_documents(["COPPER plate", "copper plate"]).vectors
    assert not np.allclose(upper, lower, atol=1e-2)


# Batches


@settings(max_examples=8, deadline=None)
@given(st.lists(st.integers(0, 120), min_size=1, max_size=12))
def test_vectors_are_in_the_order_of_the_texts(qwen3: LocalEmbedder, word_counts: list[int]) -> None:
    texts = [f"{number} copper " + "plate " * words for number, words in enumerate(word_counts)]
    together = qwen3.embed_documents(texts)
    single = [qwen3.embed_documents([text]) for text in texts]
    assert together.token_counts == tuple(embeddings.token_counts[0] for embeddings in single)
    expected = np.concatenate([embeddings.vectors for embeddings in single])
    assert (together.vectors * expected).sum(axis=1).min() >= 0.99999


def test_progress_is_the_number_of_finished_texts(qwen3: LocalEmbedder) -> None:
    progress: list[int] = []
    qwen3.embed_documents(["word " * 300] * 10, on_progress=progress.append)
    assert len(progress) > 1
    assert progress == sorted(set(progress))
    assert progress[-1] == 10


def test_batch_too_large_for_the_gpu_is_halved(qwen3: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    expected = qwen3.embed_documents(TEXTS).vectors
    encode, sizes = qwen3.encoder.encode, []

    def run_out_of_memory(batch: list[list[int]], *arguments: Any) -> torch.Tensor:
        sizes.append(len(batch))
        if len(batch) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode(batch, *arguments)

    monkeypatch.setattr(qwen3.encoder, "encode", run_out_of_memory)
    assert (qwen3.embed_documents(TEXTS).vectors * expected).sum(axis=1).min() >= 0.99999
    assert max(sizes) > 1


def test_no_batch_exceeds_embedding_batch_tokens(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embedder = load(tiny_qwen3, embedding_batch_tokens=100)
    batches = record_batches(embedder, monkeypatch)
    embedder.embed_documents(["copper plate " * words for words in range(1, 20)] * 3)
    assert len(batches) > 3
    assert max(sum(map(len, batch)) for batch in batches) <= 100


@pytest.fixture
def three_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """torch computes on three threads, so that three workers embed documents."""
    import torch

    monkeypatch.setattr("embedding.engine.compute_threads.available_cpus", lambda: 3)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
def test_documents_are_computed_by_workers_until_the_caller_stops(
    tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The vectors are bitwise equal, whichever worker computes them."""
    embedder = load(tiny_qwen3, embedding_batch_tokens=64)
    texts = [f"{number} copper " + "plate " * (number % 30) for number in range(60)]
    single = np.concatenate([embedder.embed_documents([text]).vectors for text in texts])
    encode, threads = embedder.encoder.encode, []

    def record_thread(batch: list[list[int]], *arguments: Any) -> Any:
        threads.append(current_thread())
        return encode(batch, *arguments)

    monkeypatch.setattr(embedder.encoder, "encode", record_thread)
    assert np.array_equal(embedder.embed_documents(texts).vectors, single)
    assert len(threads) > 12
    assert main_thread() not in threads

    def stop(done: int) -> None:
        raise InterruptedError

    threads.clear()
    with pytest.raises(InterruptedError):
        embedder.embed_documents(texts, stop)
    assert len(threads) < 12


@pytest.mark.parametrize(("model", "calls"), [("qwen3", 2), ("bert", 1)])
def test_bulk_work_calls_pause_before_every_layer_or_padded_batch(
    model: str, calls: int, request: pytest.FixtureRequest
) -> None:
    embedder: LocalEmbedder = request.getfixturevalue(model)
    pauses: list[str] = []
    expected = embedder.embed_documents(["copper plate"]).vectors
    vectors = embedder.embed_documents(["copper plate"], pause=lambda: pauses.append("")).vectors
    assert np.array_equal(vectors, expected)
    assert len(pauses) == calls

    def stop() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        embedder.embed_documents(TEXTS, pause=stop)


# Truncation


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_long_texts_are_truncated_by_token_and_keep_the_closing_token(
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
    assert result.whole_token_counts == (len(ids), *result.token_counts[1:])
    assert ids[-1] == tokenizer.pad_token_id != ids[-2]  # the tokenizer itself adds exactly one
    with torch.inference_mode():
        model: Any = AutoModel.from_pretrained(tiny_qwen3, dtype=torch.float32)
        hidden = model(input_ids=torch.tensor([[*ids[:31], ids[-1]]])).last_hidden_state[0, -1].numpy()
    assert result.vectors[0] @ (hidden / np.linalg.norm(hidden)) >= 0.99999


def test_text_of_exactly_the_limit_is_not_truncated(bert: LocalEmbedder, caplog: pytest.LogCaptureFixture) -> None:
    assert bert.max_tokens == 128  # the limit of the directory, which is below the setting
    exact = bert.embed_documents(["the " * 126])
    assert (exact.token_counts, exact.truncated) == ((128,), 0)
    assert caplog.records == []
    over = bert.embed_documents(["the " * 127])
    assert (over.token_counts, over.truncated) == ((128,), 1)
    assert (exact.whole_token_counts, over.whole_token_counts) == ((128,), (129,))


def test_limit_without_room_for_text_is_rejected(tiny_qwen3: Path, tiny_bert: Path) -> None:
    """All queries would be truncated to the prompt and have the same vector."""
    with pytest.raises(EmbeddingError, match="EMBEDDING_MAX_TOKENS allows 16 tokens"):
        load(tiny_qwen3, embedding_max_tokens=16)
    with pytest.raises(EmbeddingError, match="EMBEDDING_MAX_TOKENS allows 2 tokens"):
        load(tiny_bert, embedding_max_tokens=2)
    assert load(tiny_bert, embedding_max_tokens=3).embed_documents(["copper"]).token_counts == (3,)


def test_truncation_in_the_tokenizer_file_is_ignored(tiny_qwen3: Path, copy_of: Copy) -> None:
    """Published files contain the limit of a training run."""
    directory = copy_of(tiny_qwen3)
    content = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {"max_length": 8, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (directory / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    assert load(directory).embed_documents(["the slope of the loss " * 20]).token_counts[0] > 80
    with pytest.raises(EmbeddingError, match="EMBEDDING_MAX_TOKENS allows 16 tokens"):
        load(directory, embedding_max_tokens=16)


# Unusual texts


def test_empty_list_gives_an_empty_result(qwen3: LocalEmbedder) -> None:
    result = qwen3.embed_documents([])
    assert result.vectors.shape == (0, 128)
    assert (result.token_counts, result.truncated, result.truncated_share) == ((), 0, 0.0)
    assert qwen3.embed_queries([]).vectors.shape == (0, 128)


UNUSUAL_TEXTS = [
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
def test_unusual_texts_have_unit_vectors(model: str, request: pytest.FixtureRequest) -> None:
    embedder: LocalEmbedder = request.getfixturevalue(model)
    result = embedder.embed_documents(UNUSUAL_TEXTS)
    assert np.abs(np.linalg.norm(result.vectors, axis=1) - 1).max() < 1e-5
    assert min(result.token_counts) >= 1


def test_empty_text_has_a_vector_if_the_tokenizer_adds_no_special_tokens(tiny_qwen3: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_qwen3)
    content = json.loads((directory / "tokenizer.json").read_text(encoding="utf-8"))
    (directory / "tokenizer.json").write_text(json.dumps(content | {"post_processor": None}), encoding="utf-8")
    result = load(directory).embed_documents(["", "copper"])
    assert result.token_counts[0] == 1
    assert np.isfinite(result.vectors).all()


@given(st.text(st.characters(exclude_categories=()), max_size=30))
@settings(max_examples=30, deadline=None)
def test_any_python_string_has_a_unit_vector(qwen3: LocalEmbedder, text: str) -> None:
    """This includes lone surrogates, which tokenizers do not accept."""
    (vector,) = qwen3.embed_documents([text]).vectors
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)


def test_surrogate_pairs_are_joined_and_lone_surrogates_replaced(qwen3: LocalEmbedder) -> None:
    pair, emoji, lone, replaced = qwen3.embed_documents(["\ud83d\ude00", "😀", "a\ud800b", "a\ufffdb"]).vectors
    assert np.allclose(pair, emoji, atol=1e-6)
    assert np.allclose(lone, replaced, atol=1e-6)


# Failures


def test_vector_that_is_not_finite_raises_an_error_that_does_not_quote_the_text(
    tiny_qwen3: Path, copy_of: Copy
) -> None:
    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer

    directory = copy_of(tiny_qwen3)
    tokenizer: Any = AutoTokenizer.from_pretrained(directory)
    tensors = load_file(directory / "model.safetensors")
    tensors["embed_tokens.weight"][tokenizer(" copper")["input_ids"][0]] = torch.nan
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    embedder = load(directory)
    assert np.isfinite(embedder.embed_documents(["plant 植物"]).vectors).all()
    with pytest.raises(EmbeddingError, match=r"vector of text 1 \(14 characters\) is not finite, in float32"):
        embedder.embed_documents(["plant 植物", "a copper plate"])


def test_overflow_in_float16_switches_permanently_to_bfloat16(
    tiny_qwen3: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    embedder = load(tiny_qwen3, embedding_dtype="float16")
    assert embedder.dtype == "float16"
    # the dtype is explicit, because torch's default dtype changes while transformers loads the second model
    overflow = torch.full((len(TEXTS), 128), torch.nan, dtype=torch.float32)
    monkeypatch.setattr(embedder.encoder, "encode", lambda batch, prefix, pause: overflow[: len(batch)])
    expected = load(tiny_qwen3, embedding_dtype="bfloat16").embed_documents(TEXTS).vectors
    caplog.clear()
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: embedder.embed_documents(TEXTS).vectors, range(4)))
    assert all(np.array_equal(result, expected) for result in results)
    assert embedder.dtype == "bfloat16"
    (record,) = caplog.records
    assert "float16 failed for" in record.getMessage()
    assert "a value overflowed" in record.getMessage()
    assert (embedder.embed_queries(["copper"]).vectors ** 2).sum() == pytest.approx(1, abs=1e-5)


def test_failure_of_the_model_raises_embedding_error(qwen3: LocalEmbedder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(qwen3.encoder, "encode", fail)
    with pytest.raises(EmbeddingError, match="unspecified launch failure"):
        qwen3.embed_queries(["copper"])


def test_missing_model_raises_model_unavailable_error(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="does not exist"):
        load(tmp_path / "missing")


# Threads and devices


def test_embedder_is_thread_safe(qwen3: LocalEmbedder) -> None:
    """A tokenizer raises "Already borrowed" if one thread sets its truncation while another encodes."""
    words = ["copper", "plate", "铜", "loss", "slope", "query"]
    queries = [f"{word} " * (1 + number % 7) for number, word in enumerate(words * 8)]
    expected = qwen3.embed_queries(queries).vectors
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda query: qwen3.embed_queries([query, "x " * 600]), queries))
    for vector, result in zip(expected, results, strict=True):
        assert result.vectors[0] @ vector >= 0.99999
        assert result.truncated == 1


def test_gpu_vectors_agree_with_cpu_vectors(qwen3: LocalEmbedder, tiny_qwen3: Path) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_gpu = LocalEmbedder.load(EmbeddingSettings(embedding_model_path=tiny_qwen3, embedding_device="cuda"))
    assert (on_gpu.device, on_gpu.dtype) == ("cuda", "float16")
    assert on_gpu.signature == qwen3.signature
    cosines = (on_gpu.embed_documents(TEXTS).vectors * qwen3.embed_documents(TEXTS).vectors).sum(axis=1)
    assert cosines.min() >= 0.999


def test_query_passes_bulk_work_on_a_gpu(tiny_qwen3: Path) -> None:
    """A query is ready while a large call still computes, and bulk work pauses for it."""
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    on_gpu = LocalEmbedder.load(EmbeddingSettings(embedding_model_path=tiny_qwen3, embedding_device="cuda"))
    expected = on_gpu.embed_queries(["copper"]).vectors
    texts = ["the slope of the loss " * 60] * 2000
    answered_at: list[int] = []
    pauses = 0

    def query_after_some_layers() -> None:
        nonlocal pauses
        pauses += 1
        if pauses == 3:
            assert np.allclose(on_gpu.embed_queries(["copper"]).vectors, expected, atol=1e-3)
            answered_at.append(pauses)

    on_gpu.embed_documents(texts, pause=query_after_some_layers)
    assert answered_at == [3]
    assert pauses > 3

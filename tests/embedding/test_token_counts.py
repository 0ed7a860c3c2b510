"""Passages are cut by these counts, so they must be those of the embedder: a passage that is longer loses its end."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from embedding.embedder import LocalEmbedder
from embedding.model_files.demo_model import demo_model_path
from embedding.model_settings import EmbeddingSettings
from embedding.token_counts import TokenCounter, TokenEstimate, token_counter

TEXTS = [
    "Gradient descent: the learning rate scales every step down the slope.",
    "梯度下降按照学习率沿损失函数的斜率前进。Mixed 文本 with English words.",
    "def f(x):\n    return x ** 2  # squared\n\nprint(f(3))",
    "Ünïcödé \U0001f600 emoji, unpaired \ud800 surrogate",
    "word " * 700,
    "a",
]


def settings_of(path: Path, **others: object) -> EmbeddingSettings:
    return EmbeddingSettings(_env_file=None, embedding_model_path=path, **others)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt", [None, "passage: "])
@pytest.mark.parametrize("model", ["tiny_bert", "tiny_qwen3"])
def test_counts_are_those_of_the_embedder(model: str, prompt: str | None, request: pytest.FixtureRequest) -> None:
    settings = settings_of(request.getfixturevalue(model), embedding_document_prompt=prompt, embedding_device="cpu")
    embedder = LocalEmbedder.load(settings)

    counter = token_counter(settings)

    assert counter(TEXTS) == list(embedder.embed_documents(TEXTS).whole_token_counts or ())
    assert counter.max_tokens == embedder.max_tokens


def test_texts_are_lower_cased_if_the_model_needs_that(tiny_qwen3: Path, copy_of: Callable[[Path], Path]) -> None:
    directory = copy_of(tiny_qwen3)
    (directory / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": True, "max_seq_length": 64}))

    counter = token_counter(settings_of(directory))

    assert counter(["GRADIENT DESCENT"]) == counter(["gradient descent"])
    assert counter.max_tokens == 64


def test_service_is_counted_by_the_tokenizer_of_the_model_directory_if_there_is_one(tiny_qwen3: Path) -> None:
    settings = settings_of(tiny_qwen3, embedding_service_url="http://127.0.0.1:9")

    assert isinstance(token_counter(settings), TokenCounter)


@pytest.mark.parametrize("service", ["http://127.0.0.1:9", None])
def test_without_a_tokenizer_counts_are_estimated(
    service: str | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = settings_of(tmp_path / "missing", embedding_service_url=service, embedding_document_prompt="passage: ")

    counter = token_counter(settings)

    assert isinstance(counter, TokenEstimate)
    assert counter([""])[0] > 2  # the prompt counts
    assert ("the directory does not exist" in caplog.text) == (service is None)


def test_estimate_is_not_below_the_counts_of_a_real_tokenizer(tmp_path: Path) -> None:
    path = demo_model_path()
    if path is None:
        pytest.skip("the demo model is not installed")
    samples = Path(__file__).parents[2] / "data" / "samples"
    texts = [
        json.loads(line)["text"] for file in sorted(samples.glob("*.jsonl")) for line in file.read_text().splitlines()
    ]
    texts += [file.read_text() for file in sorted((Path(__file__).parents[2] / "embedding").glob("*.py"))]

    estimates = TokenEstimate(settings_of(tmp_path))(texts)

    for text, estimate, count in zip(texts, estimates, token_counter(settings_of(path))(texts), strict=True):
        assert count <= estimate <= 2.5 * count + 10, text


def test_no_model_library_is_loaded(tiny_bert: Path) -> None:
    code = (
        "import sys; from embedding.model_settings import EmbeddingSettings; "
        "from embedding.token_counts import token_counter; print(token_counter(EmbeddingSettings())(['a word'])); "
        "print([name for name in ('torch', 'transformers', 'chromadb') if name in sys.modules])"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "EMBEDDING_MODEL_PATH": str(tiny_bert)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)

    assert done.stdout.splitlines()[1] == "[]"

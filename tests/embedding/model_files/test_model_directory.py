"""Reading a model directory, rejecting broken ones with a reason, and the model signature."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from embedding.errors import EmbeddingError, ModelUnavailableError
from embedding.model_files.model_directory import model_signature, read_model_directory
from embedding.model_settings import EmbeddingSettings
from tests.support.tiny_models import QUERY_PROMPT

Copy = Callable[[Path], Path]
REPOSITORY = Path(__file__).parents[3]


def edit(file: Path, **changes: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | changes
    file.write_text(json.dumps(content), encoding="utf-8")


def settings_for(path: Path, **changes: Any) -> EmbeddingSettings:
    return EmbeddingSettings(embedding_model_path=path, **changes)


def signature(path: Path, **changes: Any) -> str:
    return model_signature(settings_for(path, **changes))


# Pooling, maximum length and prompts


def test_sentence_transformers_files_are_read(tiny_qwen3: Path, tiny_bert: Path) -> None:
    qwen3, bert = read_model_directory(tiny_qwen3), read_model_directory(tiny_bert)
    assert (qwen3.pooling, qwen3.max_tokens, qwen3.stored_query_prompt) == ("lasttoken", 32768, QUERY_PROMPT)
    assert (bert.pooling, bert.max_tokens, bert.stored_query_prompt) == ("mean", 128, None)
    assert (qwen3.stored_document_prompt, bert.stored_document_prompt) == ("", None)


@pytest.mark.parametrize(
    ("pooling", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True, "pooling_mode_mean_tokens": False}, "lasttoken"),
        ({"pooling_mode": "cls"}, "cls"),
        ({"pooling_mode": ["lasttoken"], "embedding_dimension": 64}, "lasttoken"),
    ],
)
def test_old_and_new_pooling_formats_are_read(
    tiny_bert: Path, copy_of: Copy, pooling: dict[str, Any], expected: str
) -> None:
    directory = copy_of(tiny_bert)
    (directory / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")
    assert read_model_directory(directory).pooling == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"model_type": "qwen3", "architectures": ["Qwen3Model"]}, "lasttoken"),
        ({"model_type": "unheard-of", "architectures": ["UnheardOfForCausalLM"]}, "lasttoken"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "mean"),
    ],
)
def test_pooling_depends_on_the_architecture_without_sentence_transformers_files(
    tiny_bert: Path, copy_of: Copy, config: dict[str, Any], expected: str
) -> None:
    directory = copy_of(tiny_bert)
    (directory / "modules.json").unlink()
    (directory / "1_Pooling" / "config.json").unlink()
    edit(directory / "config.json", **config)
    assert read_model_directory(directory).pooling == expected


def test_max_tokens_is_the_smallest_limit(tiny_bert: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_bert)
    (directory / "sentence_bert_config.json").unlink()
    assert read_model_directory(directory).max_tokens == 512  # max_position_embeddings
    edit(directory / "tokenizer_config.json", model_max_length=64)
    assert read_model_directory(directory).max_tokens == 64
    edit(directory / "tokenizer_config.json", model_max_length=1e30)  # means "unknown" in transformers
    edit(directory / "config.json", model_type="xlm-roberta", max_position_embeddings=514, pad_token_id=1)
    assert read_model_directory(directory).max_tokens == 512  # positions start after the padding id


def test_query_instruction_replaces_the_task_of_the_stored_prompt(tiny_qwen3: Path) -> None:
    directory = read_model_directory(tiny_qwen3)
    assert directory.query_prompt(settings_for(tiny_qwen3)) == QUERY_PROMPT
    changed = settings_for(tiny_qwen3, embedding_query_instruction="Find the formula")
    assert directory.query_prompt(changed) == "Instruct: Find the formula\nQuery:"


def test_query_instruction_does_not_replace_a_prompt_without_a_task(tiny_bert: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_bert)
    prompts = {"prompts": {"query": "query: ", "passage": "passage: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    model = read_model_directory(directory)
    assert model.query_prompt(settings_for(directory, embedding_query_instruction="Find it")) == "query: "
    assert model.document_prompt(settings_for(directory)) == "passage: "


def test_default_prompt_is_used_for_queries_and_documents(tiny_bert: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_bert)
    prompts = {"prompts": {"sts": "similar: "}, "default_prompt_name": "sts"}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    model = read_model_directory(directory)
    settings = settings_for(directory)
    assert (model.query_prompt(settings), model.document_prompt(settings)) == ("similar: ", "similar: ")


def test_qwen3_without_a_stored_prompt_gets_the_published_one_and_bert_none(
    tiny_qwen3: Path, tiny_bert: Path, copy_of: Copy
) -> None:
    qwen3 = copy_of(tiny_qwen3)
    (qwen3 / "config_sentence_transformers.json").unlink()
    assert read_model_directory(qwen3).query_prompt(settings_for(qwen3)) == QUERY_PROMPT
    assert read_model_directory(tiny_bert).query_prompt(settings_for(tiny_bert)) == ""


def test_settings_replace_all_prompts(tiny_qwen3: Path, tiny_bert: Path, copy_of: Copy) -> None:
    stored = copy_of(tiny_bert)
    prompts = {"prompts": {"query": "stored query: ", "document": "stored: "}}
    (stored / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    for path in (tiny_qwen3, tiny_bert, stored):
        directory = read_model_directory(path)
        e5 = settings_for(
            path,
            embedding_query_prompt="query: ",
            embedding_document_prompt="passage: ",
            embedding_query_instruction="without effect",
        )
        assert (directory.query_prompt(e5), directory.document_prompt(e5)) == ("query: ", "passage: ")
        none = settings_for(path, embedding_query_prompt="none", embedding_document_prompt="none")
        assert (directory.query_prompt(none), directory.document_prompt(none)) == ("", "")


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ('"query: "', "query: "),
        ("'query: '", "query: "),
        ('" query:"', " query:"),
        (r'"Instruct: find\nQuery: "', "Instruct: find\nQuery: "),
        ("为这个句子生成表示以用于检索相关文章:", "为这个句子生成表示以用于检索相关文章:"),
        ("", None),
        ("none", "none"),
    ],
)
def test_white_space_of_a_prompt_in_a_file_survives_in_quotes(line: str, prompt: str | None) -> None:
    Path(".env").write_text(f"EMBEDDING_QUERY_PROMPT={line}\nEMBEDDING_DOCUMENT_PROMPT={line}\n", encoding="utf-8")
    settings = EmbeddingSettings()
    assert (settings.embedding_query_prompt, settings.embedding_document_prompt) == (prompt, prompt)


def test_white_space_of_a_prompt_in_the_environment_survives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_QUERY_PROMPT", "query: ")
    assert EmbeddingSettings().embedding_query_prompt == "query: "


# Rejected directories


def truncate_weights(directory: Path) -> None:
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def remove_shards(directory: Path) -> None:
    list_shard(directory, "model-00001-of-00002.safetensors")


def list_shard(directory: Path, name: str) -> None:
    (directory / "model.safetensors").unlink()
    index = {"weight_map": {"a": name}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def replace_by_pickle(directory: Path) -> None:
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def add_dense_module(directory: Path) -> None:
    modules = json.loads((directory / "modules.json").read_text(encoding="utf-8"))
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (directory / "modules.json").write_text(json.dumps(modules), encoding="utf-8")


BROKEN_DIRECTORIES: dict[str, Callable[[Path], object]] = {
    "it has no config.json": lambda directory: (directory / "config.json").unlink(),
    "its config.json cannot be read": lambda directory: (directory / "config.json").write_text("{", encoding="utf-8"),
    "its config.json is not a JSON object": lambda directory: (directory / "config.json").write_text("[]", "utf-8"),
    "it has no tokenizer.json": lambda directory: (directory / "tokenizer.json").unlink(),
    "it has no weights": lambda directory: (directory / "model.safetensors").unlink(),
    "bytes instead of": truncate_weights,
    "is incomplete": lambda directory: (directory / "model.safetensors").write_text("version https://git-lfs", "utf-8"),
    "model-00001-of-00002.safetensors is missing": remove_shards,
    "its weights are pickles": replace_by_pickle,
    "'../model.safetensors', which is no safetensors": lambda directory: list_shard(directory, "../model.safetensors"),
    "'pytorch_model.bin', which is no safetensors": lambda directory: list_shard(directory, "pytorch_model.bin"),
    "Dense module": add_dense_module,
    "its modules.json is not a list": lambda directory: (directory / "modules.json").write_text('{"a": 1}', "utf-8"),
    "pooling max is not supported": lambda directory: edit(directory / "1_Pooling" / "config.json", pooling_mode="max"),
    "pooling cls + mean is not": lambda directory: edit(
        directory / "1_Pooling/config.json", pooling_mode_cls_token=True
    ),
    "pooling without the prompt's tokens": lambda directory: edit(
        directory / "1_Pooling" / "config.json", include_prompt=False
    ),
    "encoder-decoder": lambda directory: edit(directory / "config.json", is_encoder_decoder=True),
}


@pytest.mark.parametrize("reason", BROKEN_DIRECTORIES)
def test_broken_or_unsupported_directory_is_rejected_with_the_reason(
    tiny_bert: Path, copy_of: Copy, reason: str
) -> None:
    directory = copy_of(tiny_bert)
    BROKEN_DIRECTORIES[reason](directory)
    with pytest.raises(ModelUnavailableError) as caught:
        signature(directory)
    message = str(caught.value)
    assert reason in message
    assert str(directory) in message
    assert "course-search fetch-model" in message
    assert "EMBEDDING_MODEL_PATH" in message


def test_path_that_is_not_a_directory_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailableError, match="does not exist"):
        signature(tmp_path / "missing")
    (tmp_path / "file").touch()
    with pytest.raises(ModelUnavailableError, match="it is a file"):
        signature(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelUnavailableError, match="is empty"):
        signature(tmp_path / "empty")


def test_error_can_be_pickled(tmp_path: Path) -> None:
    error = ModelUnavailableError(tmp_path, "it is broken")
    copy = pickle.loads(pickle.dumps(error))
    assert str(copy) == str(error)
    assert isinstance(copy, EmbeddingError)


# The signature


def test_signature_changes_with_everything_that_changes_document_vectors(tiny_bert: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_bert)
    seen = [signature(directory)]
    edit(directory / "config.json", layer_norm_eps=1e-6)
    seen.append(signature(directory))
    edit(directory / "tokenizer.json", version="1.1")
    seen.append(signature(directory))
    edit(directory / "1_Pooling" / "config.json", pooling_mode="cls")
    seen.append(signature(directory))
    edit(directory / "sentence_bert_config.json", do_lower_case=True)
    seen.append(signature(directory))
    prompts = {"prompts": {"document": "passage: "}}
    (directory / "config_sentence_transformers.json").write_text(json.dumps(prompts), encoding="utf-8")
    seen.append(signature(directory))
    seen.append(signature(directory, embedding_max_tokens=64))
    seen.append(signature(directory, embedding_document_prompt="text: "))
    seen.append(signature(directory, embedding_document_prompt="none", embedding_max_tokens=64))
    assert len(set(seen)) == len(seen)


def test_signature_does_not_depend_on_path_device_name_or_query_prompt(
    tiny_qwen3: Path, tiny_bert: Path, copy_of: Copy
) -> None:
    directory = copy_of(tiny_qwen3)
    expected = signature(tiny_qwen3)
    assert signature(directory, embedding_model_name="another", embedding_device="cpu") == expected
    assert signature(directory, embedding_query_instruction="Find the formula") == expected
    assert signature(directory, embedding_query_prompt="query: ") == expected
    assert signature(directory, embedding_document_prompt="none") == expected, "what the directory stores, too"
    edit(directory / "config_sentence_transformers.json", prompts={"query": "query: ", "document": ""})
    (directory / "README.md").write_text("hello", encoding="utf-8")
    assert signature(directory) == expected
    # the limit of the directory, 128 tokens, is smaller than both settings
    assert signature(tiny_bert, embedding_max_tokens=512) == signature(tiny_bert, embedding_max_tokens=1024)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.5, 0.9, 1.0])
def test_signature_changes_with_one_bit_of_the_weights(tiny_bert: Path, copy_of: Copy, share: float) -> None:
    directory = copy_of(tiny_bert)
    file = directory / "model.safetensors"
    content = bytearray(file.read_bytes())
    data = 8 + int.from_bytes(content[:8], "little")
    content[data + int(share * (len(content) - data - 1))] ^= 1
    file.write_bytes(content)
    assert signature(directory) != signature(tiny_bert)


def test_signature_changes_with_large_and_sharded_weights(tiny_bert: Path, copy_of: Copy) -> None:
    """Of files above 1 MiB, the signature covers slices: the ends and the middle of the file are in one of them."""
    directory = copy_of(tiny_bert)
    (directory / "model.safetensors").unlink()
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": dict(zip("ab", shards, strict=True))}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

    def write(shard: str, *, tensor: str = "w", size: int = 3_000_000, changed: int | None = None) -> str:
        entry = {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}
        header = json.dumps({"__metadata__": {"long": "x" * 100_000}, tensor: entry}).encode()
        data = bytearray(size)
        if changed is not None:
            data[changed] = 1
        (directory / shard).write_bytes(len(header).to_bytes(8, "little") + header + data)
        return signature(directory) if all((directory / name).exists() for name in shards) else ""

    write(shards[0])
    original = write(shards[1])
    others = [write(shards[1], changed=0), write(shards[1], changed=2_999_999), write(shards[1], changed=1_600_000)]
    others += [write(shards[1], tensor="v"), write(shards[1], size=3_000_001)]
    assert len({original, *others}) == 6
    assert write(shards[1]) == original
    assert write(shards[0], changed=0) != original


def test_imports_and_signature_do_not_import_torch(tiny_qwen3: Path) -> None:
    """A sensor reads the signature at every tick; importing torch would cost seconds and memory."""
    program = (
        "import sys\n"
        "import embedding.embedder, embedding.factory, embedding.loader\n"
        "import embedding.model_files.demo_model, embedding.model_files.download\n"
        "from embedding.model_files.model_directory import model_signature\n"
        "from embedding.model_settings import EmbeddingSettings\n"
        "print(model_signature(EmbeddingSettings(embedding_model_path=sys.argv[1])))\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'huggingface_hub', 'chromadb'} & sys.modules.keys()\n"
        "assert not heavy, heavy\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(tiny_qwen3)], cwd=REPOSITORY, check=True, capture_output=True, text=True
    )
    assert result.stdout.strip() == signature(tiny_qwen3)

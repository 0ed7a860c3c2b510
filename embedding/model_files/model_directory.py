"""Reads and checks a model directory without loading the model.

A Hugging Face directory contains weights and a tokenizer. sentence-transformers adds files with the pooling (how token
vectors become the vector of a text), the prompts, and the maximum length of a text. This module does not import torch,
so a sensor reads the signature of a model in milliseconds.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from embedding.errors import ModelUnavailableError
from embedding.model_files.prompts import document_prompt, query_prompt, stored_prompt
from embedding.model_settings import EmbeddingSettings
from models.text import quoted

Pooling = Literal["cls", "mean", "lasttoken"]

_POOLINGS = ("cls", "mean", "lasttoken")
_POOLING_FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_CAUSAL_MODEL_TYPES = {"gemma", "gemma2", "gpt2", "gpt_neox", "llama", "mistral", "opt", "phi3", "qwen2", "qwen3"}
# Positions of these models start after the padding id, so the position table is longer than the longest text.
_OFFSET_POSITION_TYPES = {"camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"}
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)
_TOKENIZER_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model")
_SIGNED_FILES = (
    "config.json",
    "modules.json",
    "sentence_*_config.json",
    *_TOKENIZER_FILES,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)
_SLICES = 16
_SLICE_BYTES = 64 * 1024


@dataclass(frozen=True)
class ModelDirectory:
    """A complete model directory and what its files say about the use of the model."""

    path: Path
    model_type: str
    pooling: Pooling
    pooling_file: Path
    weights: tuple[Path, ...]
    max_tokens: int
    """The longest text that the model and its tokenizer accept, including special tokens."""
    lower_case: bool
    """Whether texts must be lower-cased before tokenization."""
    stored_query_prompt: str | None
    """The query prompt in the files, or None if they contain none."""
    stored_document_prompt: str | None
    """The document prompt in the files, or None if they contain none."""

    def query_prompt(self, settings: EmbeddingSettings) -> str:
        """The prompt to put before every query; see `embedding.model_files.prompts`."""
        return query_prompt(self.stored_query_prompt, self.model_type, settings)

    def document_prompt(self, settings: EmbeddingSettings) -> str:
        """The prompt to put before every document; see `embedding.model_files.prompts`."""
        return document_prompt(self.stored_document_prompt, settings)

    def signature(self, settings: EmbeddingSettings) -> str:
        """Return the model signature: 16 hex digits that change with everything that changes document vectors.

        The digest covers the configuration, the tokenizer, the pooling, the document prompt, the weights and the
        maximum length of a text. It does not cover the device, the query prompt or the model's name. To avoid reading
        gigabytes, it covers only the size, the header and 16 slices of each weight file; a retrained model is assumed
        to differ in these parts.

        Raises:
            ModelUnavailableError: A file cannot be read.
        """
        digest = hashlib.sha256()

        def add(label: str, content: bytes) -> None:
            digest.update(f"{label}\0{len(content)}\0".encode())
            digest.update(content)

        small_files = {file for pattern in _SIGNED_FILES for file in self.path.glob(pattern)}
        if self.pooling_file.is_file():
            small_files.add(self.pooling_file)
        try:
            for file in sorted(small_files):
                add(file.relative_to(self.path).as_posix(), file.read_bytes())
            for file in self.weights:
                add(file.name, str(file.stat().st_size).encode())
                for part in _samples(file):
                    add("slice", part)
        except OSError as error:
            raise ModelUnavailableError(self.path, f"its files cannot be read ({error})") from error
        add("document prompt", self.document_prompt(settings).encode())
        add("max tokens", str(min(settings.embedding_max_tokens, self.max_tokens)).encode())
        return digest.hexdigest()[:16]


def model_signature(settings: EmbeddingSettings) -> str:
    """Return the signature of the configured local model without loading it.

    Raises:
        ModelUnavailableError: The directory is missing, incomplete or broken, or the model is not supported.
    """
    return read_model_directory(settings.embedding_model_path).signature(settings)


def read_model_directory(path: Path) -> ModelDirectory:
    """Check that a model directory is complete, and read how the model is to be used.

    Raises:
        ModelUnavailableError: A file is missing, truncated or unreadable, or the model needs a step that is not
            supported, such as a dense layer after pooling.
    """
    config, weights = check_model_files(path)
    sentence_files = sorted(file.name for file in path.glob("sentence_*_config.json"))
    sentence = _read_object(path, sentence_files[0]) if sentence_files else {}
    pooling_name = f"{_pooling_folder(path)}/config.json"
    prompts = _read_object(path, "config_sentence_transformers.json", optional=True)
    return ModelDirectory(
        path=path,
        model_type=str(config.get("model_type", "")),
        pooling=_pooling(path, config, _read_object(path, pooling_name, optional=True)),
        pooling_file=path / pooling_name,
        weights=weights,
        max_tokens=_max_tokens(config, sentence, _read_object(path, "tokenizer_config.json", optional=True)),
        lower_case=bool(sentence.get("do_lower_case")),
        stored_query_prompt=stored_prompt(prompts, "query"),
        stored_document_prompt=stored_prompt(prompts, "document", "passage", "corpus"),
    )


def check_model_files(path: Path) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Check the files that every model needs; return the content of config.json and the weight files.

    Raises:
        ModelUnavailableError: A file is missing, truncated or unreadable.
    """
    _check_is_directory(path)
    config = _read_object(path, "config.json")
    if not any(file for pattern in _TOKENIZER_FILES for file in path.glob(pattern)):
        raise ModelUnavailableError(path, "it has no tokenizer.json")
    return config, _weight_files(path)


def _check_is_directory(path: Path) -> None:
    try:
        if not path.exists():
            raise ModelUnavailableError(path, "the directory does not exist")
        if not path.is_dir():
            raise ModelUnavailableError(path, "it is a file, not a directory")
        if not any(path.iterdir()):
            raise ModelUnavailableError(path, "the directory is empty")
    except OSError as error:
        raise ModelUnavailableError(path, f"the directory cannot be read ({error})") from error


def _read_json(path: Path, name: str) -> Any:
    try:
        return json.loads((path / name).read_bytes())
    except FileNotFoundError as error:
        raise ModelUnavailableError(path, f"it has no {name}") from error
    except (OSError, ValueError) as error:
        raise ModelUnavailableError(path, f"its {name} cannot be read ({error})") from error


def _read_object(path: Path, name: str, *, optional: bool = False) -> dict[str, Any]:
    if optional and not (path / name).exists():
        return {}
    content = _read_json(path, name)
    if not isinstance(content, dict):
        raise ModelUnavailableError(path, f"its {name} is not a JSON object")
    return content


def _pooling_folder(path: Path) -> str:
    """Return the folder of the pooling configuration; reject pipelines with steps that are not supported."""
    if not (path / "modules.json").exists():
        return "1_Pooling"
    modules = _read_json(path, "modules.json")
    try:
        folders = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelUnavailableError(path, "its modules.json is not a list of modules") from error
    if unsupported := sorted(folders.keys() - {"Transformer", "Pooling", "Normalize"}):
        raise ModelUnavailableError(path, f"its pipeline has a {unsupported[0]} module, which is not supported")
    return str(folders.get("Pooling", "1_Pooling"))


def _pooling(path: Path, config: dict[str, Any], pooling: dict[str, Any]) -> Pooling:
    if config.get("is_encoder_decoder"):
        raise ModelUnavailableError(path, "encoder-decoder models are not supported")
    if not pooling:
        architectures = config.get("architectures") or []
        causal = config.get("model_type") in _CAUSAL_MODEL_TYPES or any(
            str(name).endswith("ForCausalLM") for name in architectures
        )
        return "lasttoken" if causal else "mean"
    modes = pooling.get("pooling_mode") or [mode for flag, mode in _POOLING_FLAGS.items() if pooling.get(flag)]
    modes = [modes] if isinstance(modes, str) else modes or ["mean"]
    if len(modes) > 1 or modes[0] not in _POOLINGS:
        raise ModelUnavailableError(path, f"its pooling {' + '.join(map(str, modes))} is not supported")
    if pooling.get("include_prompt") is False:
        raise ModelUnavailableError(path, "pooling without the prompt's tokens is not supported")
    return cast(Pooling, modes[0])


def _max_tokens(config: dict[str, Any], sentence: dict[str, Any], tokenizer: dict[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    if positions and config.get("model_type") in _OFFSET_POSITION_TYPES:
        positions -= (config.get("pad_token_id") or 0) + 1
    limits = (positions, sentence.get("max_seq_length"), tokenizer.get("model_max_length"))
    return int(min(limit for limit in (*limits, 1e30) if isinstance(limit, int | float) and limit > 0))


def _weight_files(path: Path) -> tuple[Path, ...]:
    """Return the safetensors files. Weights in another format are pickles, which run code when they are loaded."""
    if (path / _WEIGHTS).is_file():
        names = [_WEIGHTS]
    elif (path / _INDEX).is_file():
        shards = _read_object(path, _INDEX).get("weight_map")
        names = sorted(set(map(str, shards.values()))) if isinstance(shards, dict) else []
        if not names:
            raise ModelUnavailableError(path, f"its {_INDEX} lists no files")
        if wrong := [name for name in names if not _SHARD.fullmatch(name)]:
            raise ModelUnavailableError(path, f"its {_INDEX} lists {quoted(wrong[0])}, which is no safetensors file")
    elif any(path.glob("*.bin")) or any(path.glob("*.pt")):
        raise ModelUnavailableError(
            path,
            "its weights are pickles, which may run any code; get its model.safetensors, or convert them on a machine "
            "without secrets",
        )
    else:
        raise ModelUnavailableError(path, "it has no weights (model.safetensors)")
    files = tuple(path / name for name in names)
    for file in files:
        if not file.is_file():
            raise ModelUnavailableError(path, f"{file.name} is missing")
        _check_safetensors(path, file)
    return files


def _safetensors_header(file: Path) -> bytes:
    """Return the JSON header, which lists the tensors and their offsets. The file starts with its length in 8 bytes."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return stream.read(min(length, file.stat().st_size))


def _check_safetensors(path: Path, file: Path) -> None:
    """Compare the file size with the end of the last tensor according to the header; this detects truncation."""
    try:
        header = _safetensors_header(file)
        tensors = json.loads(header)
        end = max((tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"), default=0)
        expected = 8 + len(header) + end
        size = file.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelUnavailableError(path, f"{file.name} is incomplete, or is not a safetensors file") from error
    if size != expected:
        raise ModelUnavailableError(path, f"{file.name} has {size} bytes instead of {expected}")


def _samples(file: Path) -> Iterator[bytes]:
    """Yield the header of a weight file, then evenly spaced slices of the rest, or all of it in a small file."""
    header = _safetensors_header(file)
    start = 8 + len(header)
    yield header
    length = file.stat().st_size - start
    with file.open("rb") as stream:
        if length <= _SLICES * _SLICE_BYTES:
            stream.seek(start)
            yield stream.read()
            return
        for position in range(_SLICES):
            stream.seek(start + position * (length - _SLICE_BYTES) // (_SLICES - 1))
            yield stream.read(_SLICE_BYTES)

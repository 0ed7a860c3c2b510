"""What a model directory says about itself, read from its small files alone.

A Hugging Face directory holds weights and a tokenizer; sentence-transformers adds files that tell how token vectors
become the vector of a text (pooling), what is put before a query (prompts) and how long a text may be. Nothing here
imports torch: a sensor asks for the signature of a model in milliseconds.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from embedding.errors import ModelUnavailableError
from embedding.model_settings import EmbeddingSettings

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
# Positions of these start after the padding id, so the table of positions is longer than a text may be.
_OFFSET_POSITION_TYPES = {"camembert", "mpnet", "roberta", "xlm-roberta", "xlm-roberta-xl"}
_WEIGHTS = (
    ("model.safetensors", "model.safetensors.index.json"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json"),
)  # in the order transformers looks for them
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
_INSTRUCT_PROMPT = re.compile(r"Instruct: .*(?P<rest>\n+Query: ?)", re.DOTALL)
_SLICES = 16
_SLICE_BYTES = 64 * 1024


@dataclass(frozen=True)
class ModelDirectory:
    """A directory whose files are all there, and how its model wants to be used."""

    path: Path
    model_type: str
    pooling: Pooling
    pooling_file: Path
    weights: tuple[Path, ...]
    max_tokens: int
    """The longest text the model and its tokenizer take, special tokens included."""
    lower_case: bool
    """Texts are lower-cased before the tokenizer sees them."""
    own_query_prompt: str | None
    """None when the directory says nothing about queries."""
    document_prompt: str

    def query_prompt(self, settings: EmbeddingSettings) -> str:
        """What stands before every query.

        The directory's own prompt, unless it names a task and the user set another one. A Qwen3 directory without
        a prompt gets the published one of Qwen3-Embedding; there is no space after `Query:`.
        """
        task = settings.embedding_query_instruction
        if self.own_query_prompt is None:
            return f"Instruct: {task}\nQuery:" if self.model_type == "qwen3" else ""
        instruct = _INSTRUCT_PROMPT.fullmatch(self.own_query_prompt)
        if instruct and "embedding_query_instruction" in settings.model_fields_set:
            return f"Instruct: {task}{instruct['rest']}"
        return self.own_query_prompt

    def signature(self, max_tokens: int) -> str:
        """Sixteen hex digits that change with anything that alters the vectors of documents.

        That is the configuration, the tokenizer, the pooling, the document prompt, the weights and where texts are
        cut; not the device, the query prompt or the model's name. Weights count by their size, header and sixteen
        slices spread over each file: other weights differ there, and reading gigabytes is spared.
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
        add("document prompt", self.document_prompt.encode())
        add("max tokens", str(min(max_tokens, self.max_tokens)).encode())
        return digest.hexdigest()[:16]


def model_signature(settings: EmbeddingSettings) -> str:
    """The signature of the configured model, without loading it.

    Raises:
        ModelUnavailableError: the directory is missing or incomplete.
    """
    return read_model_directory(settings.embedding_model_path).signature(settings.embedding_max_tokens)


def read_model_directory(path: Path) -> ModelDirectory:
    """Check that a model directory is complete, and read how its model wants to be used.

    Raises:
        ModelUnavailableError: a file is missing, cut short or unreadable, or the model needs a step between tokens
            and vector that is not supported (a dense layer, say).
    """
    path = path.expanduser()
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
        own_query_prompt=_prompt(prompts, "query"),
        document_prompt=_prompt(prompts, "document", "passage", "corpus") or "",
    )


def check_model_files(path: Path) -> tuple[dict[str, Any], tuple[Path, ...]]:
    """Check that what any model needs is there and whole; returns its configuration and the files of its weights.

    Raises:
        ModelUnavailableError: a file is missing, cut short or unreadable.
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
    """Where the pooling is described; refuses pipelines with steps other than encode, pool and normalise."""
    if not (path / "modules.json").exists():
        return "1_Pooling"
    modules = _read_json(path, "modules.json")
    try:
        folders = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    except (TypeError, KeyError, AttributeError) as error:
        raise ModelUnavailableError(path, "its modules.json is not a list of modules") from error
    if others := sorted(folders.keys() - {"Transformer", "Pooling", "Normalize"}):
        raise ModelUnavailableError(path, f"its pipeline has a {others[0]} module, which is not supported")
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
        raise ModelUnavailableError(path, "pooling that leaves the prompt out is not supported")
    return cast(Pooling, modes[0])


def _prompt(settings: dict[str, Any], *names: str) -> str | None:
    """The first of the named prompts that the directory has, else its default prompt, else None."""
    prompts = settings.get("prompts") or {}
    for name in (*names, settings.get("default_prompt_name")):
        if isinstance(prompts.get(name), str):
            return str(prompts[name])
    return None


def _max_tokens(config: dict[str, Any], sentence: dict[str, Any], tokenizer: dict[str, Any]) -> int:
    positions = config.get("max_position_embeddings")
    if positions and config.get("model_type") in _OFFSET_POSITION_TYPES:
        positions -= (config.get("pad_token_id") or 0) + 1
    limits = (positions, sentence.get("max_seq_length"), tokenizer.get("model_max_length"))
    return int(min(limit for limit in (*limits, 1e30) if isinstance(limit, int | float) and limit > 0))


def _weight_files(path: Path) -> tuple[Path, ...]:
    for single, index in _WEIGHTS:
        if (path / single).is_file():
            files = (path / single,)
        elif (path / index).is_file():
            shards = _read_object(path, index).get("weight_map")
            if not isinstance(shards, dict) or not shards:
                raise ModelUnavailableError(path, f"its {index} names no files")
            files = tuple(path / name for name in sorted(set(shards.values())))
        else:
            continue
        for file in files:
            if not file.is_file():
                raise ModelUnavailableError(path, f"{file.name} is missing")
            if file.suffix == ".safetensors":
                _check_safetensors(path, file)
        return files
    raise ModelUnavailableError(path, "it has no weights (model.safetensors)")


def _safetensors_header(file: Path) -> bytes:
    """The JSON header: which tensors there are, and where. It follows its own length in eight bytes."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        return stream.read(min(length, file.stat().st_size))


def _check_safetensors(path: Path, file: Path) -> None:
    """The header says where the last tensor ends: a file cut short is found without reading it."""
    try:
        header = _safetensors_header(file)
        tensors = json.loads(header)
        end = max((tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"), default=0)
        expected = 8 + len(header) + end
        size = file.stat().st_size
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise ModelUnavailableError(path, f"{file.name} is incomplete, or is no safetensors file") from error
    if size != expected:
        raise ModelUnavailableError(path, f"{file.name} has {size} of its {expected} bytes")


def _samples(file: Path) -> Iterator[bytes]:
    """The header of a safetensors file, then slices spread evenly over the rest (all of a small one)."""
    start = 0
    if file.suffix == ".safetensors":
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

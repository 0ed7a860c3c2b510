"""Loads the tokenizer and the model of a directory, on the GPU if possible, else on the CPU.

Loading uses no network. Missing weights are an error: transformers would initialize them randomly and only warn, and a
search over random vectors returns results without meaning.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from embedding.engine.compute_threads import limit_torch_threads
from embedding.engine.precision import Precision, cpu_precision, gpu_precision
from embedding.errors import ModelUnavailableError
from embedding.model_files.model_directory import read_model_directory
from embedding.model_settings import EmbeddingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TokenizersBackend

logger = logging.getLogger(__name__)

_LOAD_LOCK = Lock()
"""transformers changes torch's global default dtype during a load and then restores it. Parallel loads can leave the
wrong one set."""

_ONEDNN_CACHE_SIZES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""oneDNN and torch cache compiled kernels for the last 1024 matrix shapes by default, up to 1 MB each: texts of all
lengths would need about 1 GB. Both read these environment variables when they are first used."""

_HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}
"""torch asks Linux for huge pages for tensors of at least 2 MB: without them, the kernel maps the pages of every large
temporary tensor anew, which costs bulk work 6 % of its time. Read when torch first allocates memory."""


def load_embedding_model(
    settings: EmbeddingSettings | None = None, *, precision: Precision | None = None
) -> "tuple[TokenizersBackend, PreTrainedModel]":
    """Load the tokenizer and the model of the configured embedding model; see `load_model`.

    Args:
        settings: The model directory, device and number format.
        precision: Replaces the configured number format.

    Raises:
        ModelUnavailableError: The directory is missing, incomplete or broken.
    """
    settings = settings or EmbeddingSettings()
    directory = read_model_directory(settings.embedding_model_path)
    dtype = precision or settings.embedding_dtype
    packed = directory.model_type == "qwen3" and directory.pooling == "lasttoken"
    return load_model(
        directory.path,
        settings.embedding_device,
        on_gpu=gpu_precision(dtype),
        on_cpu=cpu_precision(dtype, packed=packed),
    )


def load_model(
    path: Path,
    device: Literal["auto", "cuda", "cpu"],
    *,
    on_gpu: Precision = "float16",
    on_cpu: Precision = "float32",
    language_model: bool = False,
) -> "tuple[TokenizersBackend, PreTrainedModel]":
    """Load the tokenizer and the model of a directory for inference.

    Unless the device is `cpu`, the GPU is tried first. The attempt includes a forward pass, because an old driver or a
    lack of memory causes an error only then. If it fails, a warning is logged and the model is loaded on the CPU.

    Args:
        path: The model directory.
        device: `auto` means the same as `cuda`.
        on_gpu: Number format on the GPU.
        on_cpu: Number format on the CPU.
        language_model: Whether to load the head that predicts the next token, too.

    Raises:
        ModelUnavailableError: The tokenizer or the model cannot be loaded, or they do not match.
    """
    for name, value in (_ONEDNN_CACHE_SIZES | _HUGE_PAGES).items():
        os.environ.setdefault(name, value)
    limit_torch_threads()
    with _LOAD_LOCK, _silenced_transformers():
        tokenizer = _load_tokenizer(path)
        model = None if device == "cpu" else _load_on_gpu(path, on_gpu, language_model)
        if model is None:
            model = _load_weights(path, on_cpu, language_model)
    if tokenizer.backend_tokenizer.get_vocab_size() > model.config.vocab_size:
        raise ModelUnavailableError(path, "its tokenizer has more tokens than its model; they do not match")
    return tokenizer, model


def _load_tokenizer(path: Path) -> "TokenizersBackend":
    from transformers import AutoTokenizer, TokenizersBackend

    try:
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        raise ModelUnavailableError(path, f"its tokenizer cannot be loaded ({_reason(error)})") from error
    if not isinstance(tokenizer, TokenizersBackend):
        raise ModelUnavailableError(path, f"its tokenizer ({type(tokenizer).__name__}) has no tokenizer.json")
    return tokenizer


def _load_on_gpu(path: Path, precision: Precision, language_model: bool) -> "PreTrainedModel | None":
    import torch

    try:
        if not torch.cuda.is_available():
            raise RuntimeError("no CUDA device is available")
        model = _load_weights(path, precision, language_model)
        model.cuda()  # type: ignore[call-arg]  # a decorator in transformers loses the bound signature
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device="cuda"))
        torch.cuda.synchronize()
    except ModelUnavailableError:
        raise
    except Exception as error:  # noqa: BLE001 - drivers raise many kinds of errors
        logger.warning("The model in %s runs on the CPU, slowly: the GPU cannot be used (%s).", path, _reason(error))
        return None
    return model


def _load_weights(path: Path, precision: Precision, language_model: bool) -> "PreTrainedModel":
    from transformers import AutoModel, AutoModelForCausalLM

    auto_class: Any = AutoModelForCausalLM if language_model else AutoModel
    try:
        model: PreTrainedModel
        model, info = auto_class.from_pretrained(  # sets eval mode
            path,
            dtype=precision,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelUnavailableError(path, f"its model cannot be loaded ({_reason(error)})") from error
    # Embeddings do not use the pooler of BERT-like models (a layer for classification), and many files lack it.
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        raise ModelUnavailableError(path, f"its weights lack {len(missing)} tensors ({missing[0]}, …)")
    model.config.use_cache = False
    return model


@contextmanager
def _silenced_transformers() -> Iterator[None]:
    """Suppress progress bars and the report on unused weights, which would go to the log of a server."""
    from transformers.utils import logging as untyped_module

    transformers_logging: Any = untyped_module
    verbosity = transformers_logging.get_verbosity()
    had_progress_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if had_progress_bars:
            transformers_logging.enable_progress_bar()


def _reason(error: BaseException) -> str:
    """Return the type and the first line of an error; messages of torch can be very long."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

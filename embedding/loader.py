"""Loads the tokenizer and the model of a directory: on the GPU when it can, on the CPU when it must.

Nothing is ever fetched from a hub here. What transformers merely warns about (weights that are missing from the
files and would be random) is an error: a search over random vectors looks alive and finds nothing.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal

from embedding.engine.precision import Precision, cpu_precision, gpu_precision
from embedding.errors import ModelUnavailableError
from embedding.model_files.directory import read_model_directory
from embedding.model_settings import EmbeddingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TokenizersBackend

logger = logging.getLogger(__name__)

_LOADING = Lock()
"""One load at a time: transformers sets torch's default number format meanwhile, and puts back the one it found. Two
at once may leave that of a model behind, for the whole process."""

_KEPT_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "128", "LRU_CACHE_CAPACITY": "128"}
"""oneDNN, and torch above it, keep code for the last 1024 shapes of matrices they met, up to a megabyte each: texts of
all lengths would take a gigabyte. They read these variables when they begin."""


def load_embedding_model(
    settings: EmbeddingSettings | None = None, *, precision: Precision | None = None
) -> "tuple[TokenizersBackend, PreTrainedModel]":
    """Load the configured embedding model, see `load_model`; in `precision` instead of the configured one, if given.

    Raises:
        ModelUnavailableError: the directory is missing, incomplete or broken.
    """
    settings = settings or EmbeddingSettings()
    directory = read_model_directory(settings.embedding_model_path)
    wanted = precision or settings.embedding_dtype
    packed = directory.model_type == "qwen3" and directory.pooling == "lasttoken"
    return load_model(
        directory.path,
        settings.embedding_device,
        on_gpu=gpu_precision(wanted),
        on_cpu=cpu_precision(wanted, packed=packed),
    )


def load_model(
    path: Path,
    device: Literal["auto", "cuda", "cpu"],
    *,
    on_gpu: Precision = "float16",
    on_cpu: Precision = "float32",
    language_model: bool = False,
) -> "tuple[TokenizersBackend, PreTrainedModel]":
    """Load a model directory for inference, on the GPU or else on the CPU, in the number format given for it.

    Unless the device is `cpu`, the GPU is tried first, with a forward pass: a driver that is too old or a full memory
    shows only there. Whatever fails becomes a logged warning, and the CPU takes over. A language model comes with the
    head that predicts the next token.

    Raises:
        ModelUnavailableError: tokenizer and model cannot be loaded, or don't belong together.
    """
    for name, shapes in _KEPT_SHAPES.items():
        os.environ.setdefault(name, shapes)
    with _LOADING, _quiet_transformers():
        tokenizer = _load_tokenizer(path)
        model = None if device == "cpu" else _load_on_gpu(path, on_gpu, language_model)
        if model is None:
            model = _load_weights(path, on_cpu, language_model)
    if tokenizer.backend_tokenizer.get_vocab_size() > model.config.vocab_size:
        raise ModelUnavailableError(path, "its tokenizer knows more tokens than its model; they don't belong together")
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
        model.cuda()  # type: ignore[call-arg]  # transformers' decorator hides that it is bound
        with torch.inference_mode():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device="cuda"))
        torch.cuda.synchronize()
    except ModelUnavailableError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever a driver may raise, there is the CPU
        logger.warning("The model in %s runs on the CPU, slowly: the GPU cannot be used (%s).", path, _reason(error))
        return None
    return model


def _load_weights(path: Path, precision: Precision, language_model: bool) -> "PreTrainedModel":
    from transformers import AutoModel, AutoModelForCausalLM

    auto_class: Any = AutoModelForCausalLM if language_model else AutoModel
    try:
        model: PreTrainedModel
        model, info = auto_class.from_pretrained(  # in eval mode
            path, dtype=precision, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise ModelUnavailableError(path, f"its model cannot be loaded ({_reason(error)})") from error
    # The pooler of BERT-like models is a classification head; embeddings do not use it, and many files lack it.
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith("pooler.")):
        raise ModelUnavailableError(path, f"its weights lack {len(missing)} tensors ({missing[0]}, …)")
    model.config.use_cache = False
    return model


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar for a load of seconds, no table of unused weights: errors are raised, not printed."""
    from transformers.utils import logging as untyped_module

    reports: Any = untyped_module
    verbosity, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity_error()
    reports.disable_progress_bar()
    try:
        yield
    finally:
        reports.set_verbosity(verbosity)
        if bars:
            reports.enable_progress_bar()


def _reason(error: BaseException) -> str:
    """One line of an error whose text may be a page."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

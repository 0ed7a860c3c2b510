"""The loader returns a model for inference, warns if it falls back to the CPU, and rejects broken models."""

import json
import logging
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import pytest

from embedding.errors import ModelUnavailableError
from embedding.loader import load_embedding_model
from embedding.model_settings import EmbeddingSettings

Copy = Callable[[Path], Path]


def settings_for(path: Path, device: Literal["auto", "cuda", "cpu"] = "cpu") -> EmbeddingSettings:
    return EmbeddingSettings(embedding_model_path=path, embedding_device=device, embedding_dtype="float32")


def test_cpu_model_is_in_eval_mode_and_loads_without_warnings(
    tiny_qwen3: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    tokenizer, model = load_embedding_model(settings_for(tiny_qwen3))
    assert model.dtype == torch.float32  # the file contains bfloat16
    assert model.device.type == "cpu"
    assert not model.training
    assert tokenizer("hello")["input_ids"][-1] == tokenizer.pad_token_id
    assert caplog.records == []
    assert capfd.readouterr().err == ""  # no progress bars in the logs of a server


def test_code_of_a_model_directory_is_never_run(tiny_bert: Path, copy_of: Copy, tmp_path: Path) -> None:
    """`auto_map` names a class in a module of the directory, which transformers would import if it were trusted."""
    directory, evidence = copy_of(tiny_bert), tmp_path / "ran"
    (directory / "code.py").write_text(f"open({str(evidence)!r}, 'w')", encoding="utf-8")
    for name in ("config.json", "tokenizer_config.json"):
        classes = dict.fromkeys(("AutoConfig", "AutoModel", "AutoTokenizer"), "code.Own")
        content = json.loads((directory / name).read_text(encoding="utf-8")) | {"auto_map": classes}
        (directory / name).write_text(json.dumps(content), encoding="utf-8")
    load_embedding_model(settings_for(directory))
    assert not evidence.exists()
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(config | {"model_type": "own"}), encoding="utf-8")
    with pytest.raises(ModelUnavailableError):
        load_embedding_model(settings_for(directory))
    assert not evidence.exists()


def test_parallel_loads_do_not_change_the_default_dtype(tiny_qwen3: Path) -> None:
    import torch

    def load(number: int) -> torch.dtype:
        _, model = load_embedding_model(settings_for(tiny_qwen3), precision=("bfloat16", "float32")[number % 2])
        return model.dtype

    with ThreadPoolExecutor(4) as pool:
        dtypes = [*pool.map(load, range(12))]
    assert dtypes == [torch.bfloat16, torch.float32] * 6
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_precision_depends_on_the_hardware_unless_configured(
    tiny_qwen3: Path, tiny_bert: Path, has_bfloat16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def dtype(path: Path, **changes: Any) -> torch.dtype:
        settings = EmbeddingSettings(embedding_model_path=path, embedding_device="cpu", **changes)
        return load_embedding_model(settings)[1].dtype

    monkeypatch.setattr("embedding.engine.precision.has_bfloat16", lambda: has_bfloat16)
    assert dtype(tiny_qwen3) == (torch.bfloat16 if has_bfloat16 else torch.float32)
    assert dtype(tiny_bert) == torch.float32
    assert dtype(tiny_qwen3, embedding_dtype="float16") == torch.float16
    assert dtype(tiny_bert, embedding_dtype="bfloat16") == torch.bfloat16


def test_model_is_configured_by_environment_variables(tiny_bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_bert))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    assert load_embedding_model()[1].config.model_type == "bert"


def test_loading_uses_no_network(tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise AssertionError("the loader opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load_embedding_model(settings_for(tiny_qwen3))


@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_missing_gpu_falls_back_to_the_cpu_with_a_warning(
    tiny_qwen3: Path,
    device: Literal["auto", "cuda"],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    _, model = load_embedding_model(settings_for(tiny_qwen3, device))
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "no CUDA device" in record.getMessage()


def test_failing_gpu_falls_back_to_the_cpu_with_a_warning(
    tiny_qwen3: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    def out_of_memory(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 594.00 MiB\nmany more lines")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.nn.Module, "cuda", out_of_memory)
    _, model = load_embedding_model(settings_for(tiny_qwen3, "auto"))
    assert (model.device.type, model.dtype) == ("cpu", torch.float32)
    (record,) = caplog.records
    assert "CUDA out of memory. Tried to allocate 594.00 MiB" in record.getMessage()
    assert "many more lines" not in record.getMessage()


def test_weights_without_a_layer_are_rejected(tiny_qwen3: Path, copy_of: Copy) -> None:
    """transformers would initialize the layer randomly and only log a warning."""
    from safetensors.torch import load_file, save_file

    directory = copy_of(tiny_qwen3)
    tensors = load_file(directory / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("layers.1.")}
    assert len(kept) < len(tensors)
    save_file(kept, directory / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnavailableError, match=r"its weights lack \d+ tensors"):
        load_embedding_model(settings_for(directory))


def test_bert_without_the_unused_pooler_is_loaded(tiny_bert: Path) -> None:
    from safetensors.torch import load_file

    assert not any("pooler" in name for name in load_file(tiny_bert / "model.safetensors"))
    load_embedding_model(settings_for(tiny_bert))


def test_weights_of_wrong_shape_are_rejected(tiny_bert: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_bert)
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    (directory / "config.json").write_text(json.dumps(config | {"intermediate_size": 32}), encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="its model cannot be loaded"):
        load_embedding_model(settings_for(directory))


def test_unknown_architecture_is_rejected_without_running_its_code(tiny_bert: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_bert)
    (directory / "modeling.py").write_text("raise SystemExit('ran')", encoding="utf-8")
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "own", "auto_map": {"AutoModel": "modeling.Own", "AutoConfig": "modeling.OwnConfig"}}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(ModelUnavailableError):
        load_embedding_model(settings_for(directory))


def test_broken_tokenizer_is_rejected(tiny_bert: Path, copy_of: Copy) -> None:
    directory = copy_of(tiny_bert)
    (directory / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelUnavailableError, match="its tokenizer cannot be loaded"):
        load_embedding_model(settings_for(directory))


def test_tokenizer_of_another_model_is_rejected(tiny_qwen3: Path, tiny_bert: Path, copy_of: Copy) -> None:
    """Token ids beyond the embedding table cause an index error on the CPU and kill the process on a GPU."""
    directory = copy_of(tiny_bert)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (directory / name).write_bytes((tiny_qwen3 / name).read_bytes())
    with pytest.raises(ModelUnavailableError, match="they do not match"):
        load_embedding_model(settings_for(directory))

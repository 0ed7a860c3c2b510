"""Tiny model directories, created once per session; a test that changes one must use `copy_of`."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.tiny_models import make_tiny_bert, make_tiny_qwen3


@pytest.fixture(scope="session")
def _one_torch_thread() -> None:
    """A second thread makes tiny matrix products slower, above all on a busy machine."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory: pytest.TempPathFactory, _one_torch_thread: None) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("models") / "qwen3")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory, _one_torch_thread: None) -> Path:
    return make_tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a model directory, so that a test can change it."""

    def copy(directory: Path) -> Path:
        return Path(shutil.copytree(directory, tmp_path / directory.name))

    return copy

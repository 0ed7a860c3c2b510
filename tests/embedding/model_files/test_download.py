"""Downloads from a hub on localhost: complete and resumed ones, and the messages of failed ones."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedding.errors import ModelFetchError
from embedding.loader import load_embedding_model
from embedding.model_files.download import fetch_model
from embedding.model_files.model_directory import check_model_files
from embedding.model_settings import EmbeddingSettings
from tests.support.servers.fake_hub import COMMIT, FakeHub, fake_hub

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _direct_connections(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ignore this machine's proxy and token; a new session makes the client read the environment again."""
    from huggingface_hub import close_session

    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    close_session()
    yield
    close_session()


@pytest.fixture
def hub(tiny_qwen3: Path, tmp_path: Path) -> Iterator[FakeHub]:
    root = Path(shutil.copytree(tiny_qwen3, tmp_path / "hub"))
    (root / "onnx").mkdir()
    for extra in ("onnx/model.safetensors", "onnx/model.onnx", "pytorch_model.bin", "README.md", ".gitattributes"):
        (root / extra).write_bytes(b"not needed")
    with fake_hub(root) as hub:
        yield hub


def fetch(hub: FakeHub, destination: Path, **changes: Any) -> Path:
    return fetch_model(destination, changes.pop("repo_id", hub.repo_id), endpoint=hub.url, **changes)


def test_download_contains_the_needed_files_only(hub: FakeHub, tiny_qwen3: Path, tmp_path: Path) -> None:
    directory = fetch(hub, tmp_path / "models" / "tiny")
    files = {file.relative_to(directory) for file in directory.rglob("*") if file.is_file()}
    expected = {file.relative_to(tiny_qwen3) for file in tiny_qwen3.rglob("*") if file.is_file()}
    assert {file for file in files if file.parts[0] != ".cache"} == expected
    for file in expected:
        assert (directory / file).read_bytes() == (tiny_qwen3 / file).read_bytes()
    settings = EmbeddingSettings(embedding_model_path=directory, embedding_device="cpu")
    assert load_embedding_model(settings)[1].config.model_type == "qwen3"


def test_revision_is_a_branch_or_a_commit(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "branch", revision="main")
    fetch(hub, tmp_path / "commit", revision=COMMIT)
    with pytest.raises(ModelFetchError, match="has no revision v9"):
        fetch(hub, tmp_path / "other", revision="v9")


def test_second_call_downloads_nothing(hub: FakeHub, tmp_path: Path) -> None:
    fetch(hub, tmp_path / "tiny")
    hub.requests.clear()
    fetch(hub, tmp_path / "tiny")
    assert [request for request in hub.requests if request.method == "GET"] == []


def test_download_resumes_after_a_dropped_connection(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # the client loses an incomplete chunk
    hub.drop_once.add("model.safetensors")
    directory = fetch(hub, tmp_path / "tiny")
    first, second = hub.downloads("model.safetensors")
    assert first.range is None
    assert second.range is not None
    assert int(second.range.removeprefix("bytes=").removesuffix("-")) > 4096
    assert (directory / "model.safetensors").read_bytes() == (hub.root / "model.safetensors").read_bytes()


def test_next_call_completes_a_failed_download(hub: FakeHub, tmp_path: Path) -> None:
    hub.broken.add("model.safetensors")
    with pytest.raises(ModelFetchError, match=r"cannot download .* Run it again to continue"):
        fetch(hub, tmp_path / "tiny")
    partial_file = tmp_path / "tiny" / ".cache" / "huggingface" / "download" / "x.1234.incomplete"
    partial_file.parent.mkdir(parents=True, exist_ok=True)
    partial_file.write_bytes(b"half of a file, from a killed process")
    hub.broken.clear()
    finished = {file.name for file in (tmp_path / "tiny").iterdir() if file.is_file()}
    assert finished  # the other files were downloaded
    hub.requests.clear()
    fetch(hub, tmp_path / "tiny")
    assert len(hub.downloads("model.safetensors")) == 1
    assert [request for request in hub.requests if request.method == "GET" and request.file in finished] == []
    assert not partial_file.exists()


def test_unknown_repository_raises_an_error(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(ModelFetchError, match=r"has no model tiny/unheard-of, or it is private.*HF_TOKEN"):
        fetch(hub, tmp_path / "tiny", repo_id="tiny/unheard-of")
    with pytest.raises(ModelFetchError, match="has no model not//a name"):
        fetch(hub, tmp_path / "tiny", repo_id="not//a name")


def test_gated_repository_raises_an_error_with_advice(hub: FakeHub, tmp_path: Path) -> None:
    hub.gated = True
    with pytest.raises(
        ModelFetchError, match=r"is gated: accept its terms on .*tiny/qwen3-embedding, and set HF_TOKEN"
    ):
        fetch(hub, tmp_path / "tiny")


def test_rejected_token_raises_an_error(hub: FakeHub, tmp_path: Path) -> None:
    hub.bad_token = True
    with pytest.raises(ModelFetchError, match=r"refused access to tiny/qwen3-embedding \(401\)\. Check HF_TOKEN"):
        fetch(hub, tmp_path / "tiny")


def test_unreachable_hub_raises_an_error_even_if_files_exist(tmp_path: Path) -> None:
    """`snapshot_download` would return the directory as if it were complete."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{unused.getsockname()[1]}"
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "config.json").write_text("{}", encoding="utf-8")
        with pytest.raises(ModelFetchError) as caught:
            fetch_model(tmp_path / "tiny", endpoint=endpoint)
    for hint in (endpoint, "HTTPS_PROXY", "HF_ENDPOINT"):
        assert hint in str(caught.value)


def test_repository_without_weights_raises_an_error(hub: FakeHub, tmp_path: Path) -> None:
    (hub.root / "model.safetensors").unlink()
    with pytest.raises(ModelFetchError, match=r"not a usable model: it has no weights"):
        fetch(hub, tmp_path / "tiny")


def test_check_decides_whether_a_model_is_usable(hub: FakeHub, tmp_path: Path) -> None:
    (hub.root / "modules.json").write_text('[{"path": "1_LogitScore", "type": "x.LogitScore"}]', encoding="utf-8")
    with pytest.raises(ModelFetchError, match=r"not a usable model: .* LogitScore"):
        fetch(hub, tmp_path / "embedding")
    assert fetch(hub, tmp_path / "reranker", check=check_model_files) == tmp_path / "reranker"


def test_full_disk_raises_an_error_with_advice(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def full(*args: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(ModelFetchError, match=r"cannot write to .*No space left on device.*finished files are kept"):
        fetch(hub, tmp_path / "tiny")


def test_destination_that_is_a_file_raises_an_error(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "tiny").touch()
    with pytest.raises(ModelFetchError, match="cannot write to"):
        fetch(hub, tmp_path / "tiny")

"""The commands in separate processes: output and exit codes."""

import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from pydantic import SecretStr

from cli.commands.up import model_environment
from cli.processes import free_port
from embedding.model_files.model_directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.directory_lock import lock_directory
from embedding.vector_store.files import vector_store_settings
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from tests.support.product import wait_until
from tests.support.servers.chroma import chroma_server, wait_for_chroma
from tests.support.servers.foreign_server import foreign_server
from tests.support.tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.integration


def course_search(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", *arguments],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )


def test_help_imports_no_heavy_library_and_lists_the_commands() -> None:
    code = "import sys, cli.main; print([m for m in ('torch', 'chromadb', 'dagster', 'mcp') if m in sys.modules])"
    heavy = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert heavy.stdout.strip() == "[]"
    helped = course_search("--help")
    assert helped.returncode == 0
    for command in ("up", "demo", "load", "forget", "fetch-model", "vector-store", "embedding-service"):
        assert command in helped.stdout


def test_up_without_a_model_hints_at_fetch_model(tmp_path: Path) -> None:
    result = course_search("up", EMBEDDING_MODEL_PATH=str(tmp_path / "nothing"))
    assert result.returncode == 1
    assert "course-search fetch-model" in result.stdout


def test_up_needs_no_model_with_an_embedding_service_even_if_it_is_unreachable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with foreign_server() as server:
        settings = EmbeddingSettings(embedding_model_path=tmp_path / "nothing", embedding_service_url=server.url)
        assert model_environment(settings) == {}
        assert f"Embedding model: qwen3-embedding-0.6b ({server.url})" in capsys.readouterr().out
    assert model_environment(settings) == {}
    assert "cannot be reached" in capsys.readouterr().out


def test_embedding_service_without_a_model_hints_at_fetch_model(tmp_path: Path) -> None:
    result = course_search("embedding-service", EMBEDDING_MODEL_PATH=str(tmp_path / "nothing"))
    assert result.returncode == 1
    assert "course-search fetch-model" in result.stderr


def test_embedding_service_answers_503_to_pending_calls_when_it_is_stopped(tmp_path: Path) -> None:
    port, model = free_port(), make_tiny_qwen3(tmp_path / "model")
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "embedding-service", "--port", str(port)],
        env={
            **os.environ,
            "EMBEDDING_MODEL_PATH": str(model),
            "EMBEDDING_DEVICE": "cpu",
            "INTERNAL_TOKEN": "s3cret",
            "OPENAI_MAX_TEXTS": "5000",
        },
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    try:
        url = f"http://127.0.0.1:{port}"
        settings = EmbeddingSettings(embedding_service_url=url, embedding_service_token=SecretStr("s3cret"))
        embedder = RemoteEmbedder(settings, patience_seconds=200)
        assert embedder.signature == model_signature(EmbeddingSettings(embedding_model_path=model))
        assert len(embedder.embed_documents(["copper"]).vectors) == 1
        with ThreadPoolExecutor(1) as pool:
            long_work = {"input": ["copper plate " * 100] * 3000}
            headers = {"Authorization": "Bearer s3cret"}
            used_before = psutil.Process(process.pid).cpu_times().user
            call = pool.submit(httpx.post, f"{url}/v1/embeddings", json=long_work, headers=headers, timeout=240)
            wait_until(
                lambda: call.done() or psutil.Process(process.pid).cpu_times().user > used_before + 1,
                120,
                lambda: "the service does not compute",
            )
            process.terminate()
            answer = call.result()
        assert answer.status_code == httpx.codes.SERVICE_UNAVAILABLE
        assert answer.headers["Retry-After"]
        assert "is being stopped" in answer.json()["error"]["message"]
    finally:
        process.terminate()
        assert process.wait(120) in (0, -signal.SIGTERM)


def test_up_reports_a_taken_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = course_search("up", SEARCH_PORT=str(port))
    assert result.returncode == 1
    assert f"Port {port} is in use" in result.stdout


def test_up_does_not_need_the_port_of_chroma_if_chroma_url_is_set(tmp_path: Path) -> None:
    """The server at CHROMA_URL may be the one that uses CHROMA_PORT. The missing model is noticed after the ports."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        url, model = f"http://127.0.0.1:{port}", str(tmp_path / "nothing")
        result = course_search("up", CHROMA_URL=url, CHROMA_PORT=port, EMBEDDING_MODEL_PATH=model)
        assert f"Vector store: {url}" in result.stdout
        assert "course-search fetch-model" in result.stdout
        assert "is in use" in course_search("up", CHROMA_PORT=port, EMBEDDING_MODEL_PATH=model).stdout


def test_invalid_setting_is_reported_in_one_line() -> None:
    result = course_search("up", SEARCH_PORT="eighty")
    assert result.returncode == 1
    assert "SEARCH_PORT" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("command", ["up", "embedding-service"])
def test_invalid_token_is_reported_at_the_start_and_not_shown(command: str) -> None:
    result = course_search(command, INTERNAL_TOKEN="sek\nret")
    assert result.returncode == 1
    assert result.stderr.startswith("INTERNAL_TOKEN: it contains a line break")
    assert "sek" not in result.stderr


def test_malformed_url_of_dagsters_database_is_reported_and_not_shown(tmp_path: Path) -> None:
    result = course_search(
        "up", DAGSTER_POSTGRES_URL="postgresql://u:sekret@h:port/d", EMBEDDING_MODEL_PATH=str(make_tiny_qwen3(tmp_path))
    )
    assert result.returncode == 1
    assert result.stdout.splitlines()[-1].startswith("DAGSTER_POSTGRES_URL is not a database URL")
    assert "sekret" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Qwen/Qwen3-Embedding-0.6B to models/qwen3-embedding-0.6b"),
        (["--reranker"], "Qwen/Qwen3-Reranker-0.6B to models/qwen3-reranker-0.6b"),
    ],
)
def test_fetch_model_without_a_hub_hints_at_hf_endpoint(options: list[str], message: str) -> None:
    result = course_search("fetch-model", *options, HF_ENDPOINT=f"http://127.0.0.1:{free_port()}")
    assert result.returncode == 1
    assert message in result.stdout
    assert "HF_ENDPOINT" in result.stderr


def test_second_chroma_server_of_a_directory_is_refused(tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "cli", "vector-store", "--port"]
    with subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as first:
        try:
            wait_for_chroma(f"http://127.0.0.1:{port}")
            second = course_search("vector-store", "--port", str(free_port()))
            assert second.returncode == 1
            assert "a Chroma server runs there already" in second.stderr
            assert httpx.get(f"http://127.0.0.1:{port}/api/v2/heartbeat").status_code == httpx.codes.OK
        finally:
            first.terminate()


@pytest.mark.parametrize("leftover", ["catalogue.db", "dagster/dagster.yaml", "chroma/file"])
def test_demo_clears_its_directory_unless_another_demo_runs(tmp_path: Path, leftover: str) -> None:
    path = tmp_path / "data" / "demo" / leftover
    path.parent.mkdir(parents=True)
    path.touch()
    lock = lock_directory(tmp_path / "data/demo/dagster", ".up.lock")
    refused = course_search("demo", EMBEDDING_MODEL_PATH=str(tmp_path / "nothing"))
    assert "is in use by process" in refused.stdout
    assert path.exists()
    os.close(lock)
    failed = course_search("demo", EMBEDDING_MODEL_PATH=str(tmp_path / "nothing"))
    assert failed.returncode == 1
    assert "course-search fetch-model" in failed.stdout
    assert not path.exists()


def test_vector_store_removes_orphaned_files_and_publishes_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chroma keeps the files of deleted collections. The address file makes a server on an unusual port known."""
    directory, port = tmp_path / "chroma", free_port()
    with chroma_server(directory) as url:
        store = VectorStore(VectorStoreSettings(chroma_url=url))
        for course_id in ("stays", "goes"):
            collection = store.create(CollectionInfo(course_id, "model", "signature"))
            count = 1001  # Chroma keeps fewer records in its database, without a directory
            records = [Record(f"{course_id}/{number}", "Copper", {}, "hash") for number in range(count)]
            collection.upsert(records, np.eye(len(records), 4, dtype=np.float32) + 1)
        before = {path.name for path in directory.iterdir() if path.is_dir()}
        store.delete("goes")
        store.close()
    assert len(before) == 2
    assert {path.name for path in directory.iterdir() if path.is_dir()} == before, (
        "Chroma keeps the files of deleted collections"
    )
    environment = {**os.environ, "CHROMA_DB_DIR": str(directory)}
    command = [sys.executable, "-m", "cli", "vector-store", "--port", str(port)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        wait_for_chroma(f"http://127.0.0.1:{port}")
        monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
        assert vector_store_settings().chroma_url == f"http://127.0.0.1:{port}"
        process.terminate()
        output, _ = process.communicate()
    assert vector_store_settings().chroma_url == VectorStoreSettings().chroma_url, (
        "the address of a stopped server is ignored"
    )
    [kept] = [path.name for path in directory.iterdir() if path.is_dir()]
    assert f"Removing {directory / next(iter(before - {kept}))}" in output

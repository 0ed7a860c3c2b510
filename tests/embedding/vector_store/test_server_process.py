"""The Chroma server is restarted before its memory or its files run out, and nothing that was written is lost."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.files import vector_store_settings
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from embedding.vector_store.server_process import ServerUsage
from maintenance.checks.environment import check_server
from maintenance.checks.findings import Level
from tests.support.servers.chroma import wait_for_chroma

pytestmark = pytest.mark.integration

RECORDS, DIMENSIONS = 150, 1024
IMPATIENT = """
from cli.main import main
from embedding.vector_store import server_process

server_process.CHECK_SECONDS, server_process.MIN_RUN_SECONDS = 0.1, 2.0
main()
"""


@contextmanager
def vector_store(directory: Path, max_memory_mb: int) -> Iterator[tuple[VectorStore, "subprocess.Popen[bytes]"]]:
    """`course-search vector-store`, which checks its server often."""
    port = free_port()
    env = {**os.environ, "CHROMA_DB_DIR": str(directory), "CHROMA_MAX_MEMORY_MB": str(max_memory_mb)}
    command = [sys.executable, "-c", IMPATIENT, "vector-store", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with log_of(directory).open("w") as output:
        process = subprocess.Popen(command, env=env, stdout=output)
    try:
        wait_for_chroma(url)
        with closing(VectorStore(VectorStoreSettings(chroma_url=url), patience_seconds=60)) as store:
            yield store, process
    finally:
        process.kill()
        process.wait()


def log_of(directory: Path) -> Path:
    return directory.with_suffix(".log")


def write(store: VectorStore, course_id: str) -> None:
    collection = store.create(CollectionInfo(course_id, "model", "signature"))
    records = [Record(f"c{number}", f"text {number} of {course_id}", {}, "hash") for number in range(RECORDS)]
    vectors = np.eye(RECORDS, DIMENSIONS, dtype=np.float32)
    for start in range(0, RECORDS, 50):
        batch, rows = records[start : start + 50], vectors[start : start + 50]
        collection.upsert(batch, rows)
        assert collection.find_mismatches(batch, rows) == []


def test_server_above_its_limit_is_restarted_while_collections_are_written(tmp_path: Path) -> None:
    """An idle server uses about 110 MB. Runs retry while it restarts."""
    courses = [f"course {number}" for number in range(14)]
    with vector_store(tmp_path / "chroma", max_memory_mb=150) as (store, process):
        for course_id in courses:
            write(store, course_id)
        for course_id in courses:
            assert sum(len(rows) for _, rows in store.open(course_id).contents()) == RECORDS
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0
    output = log_of(tmp_path / "chroma").read_text()
    assert "The Chroma server uses " in output
    assert " of 150 MB and " in output


def test_server_may_open_as_many_files_as_its_user_and_ends_with_its_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each loaded collection has 4 open files, and a soft limit of 1,024 is common."""
    with vector_store(tmp_path / "chroma", max_memory_mb=10_000) as (store, process):
        [server] = psutil.Process(process.pid).children()
        soft, hard = server.rlimit(psutil.RLIMIT_NOFILE)
        assert soft == hard
        usage = ServerUsage.of(server, 10_000)
        assert not usage.is_above_limits
        assert usage.max_open_files == int(0.8 * soft)
        monkeypatch.setenv("CHROMA_DB_DIR", str(tmp_path / "chroma"))
        for limit, level in ((10_000, Level.OK), (1, Level.WARNING)):
            settings = vector_store_settings().model_copy(update={"chroma_max_memory_mb": limit})
            [_, finding] = check_server(store, settings)
            assert (finding.level, f"of {limit:,} MB" in finding.message) == (level, True)
        process.kill()
        assert psutil.wait_procs([server], timeout=30)[1] == []

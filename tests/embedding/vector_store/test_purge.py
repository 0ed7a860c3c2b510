"""Chroma's files of vector indices contain no text of any course."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest

from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.offline import OfflineVectorStore
from embedding.vector_store.purge import clear_unused
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from tests.support.servers.chroma import wait_for_chroma

pytestmark = pytest.mark.integration

MARKER = "ZQXJVKWQ"
COURSES = [f"course {number}" for number in range(12)]
RECORDS = 40
"""So few that Chroma does not write them to the index, whose files are as they were created."""


@contextmanager
def own_server(directory: Path) -> Iterator[VectorStore]:
    """The server that `course-search vector-store` starts."""
    port = free_port()
    environment = {**os.environ, "CHROMA_DB_DIR": str(directory)}
    process = subprocess.Popen([sys.executable, "-m", "cli", "vector-store", "--port", str(port)], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for_chroma(url)
        with closing(VectorStore(VectorStoreSettings(chroma_url=url))) as store:
            yield store
    finally:
        process.terminate()
        process.wait(timeout=60)


def write(store: VectorStore, course_id: str) -> None:
    collection = store.create(CollectionInfo(course_id, "model", "signature"))
    texts = [f"{MARKER * 48} {course_id} {'x' * number}" for number in range(RECORDS)]
    records = [Record(f"c{number}", text, {}, "hash") for number, text in enumerate(texts)]
    collection.upsert(records, np.eye(RECORDS, 384, dtype=np.float32))
    assert collection.dimensions() == 384


def index_files(directory: Path) -> list[Path]:
    return [path for path in directory.glob("*/*") if path.is_file()]


def test_own_server_writes_no_text_to_the_files_of_an_index(tmp_path: Path) -> None:
    """Chroma writes uninitialised memory there: without the setting, half of these files contain a text.

    The texts have about the size of `length.bin`, since a C library gives freed memory to what has the same size.
    """
    directory = tmp_path / "chroma"
    with own_server(directory) as store:
        for course_id in COURSES:
            write(store, course_id)
    files = index_files(directory)
    assert len(files) >= len(COURSES)
    assert [path for path in files if MARKER.encode() in path.read_bytes()] == []


def test_unused_parts_are_cleared_and_all_records_kept(tmp_path: Path) -> None:
    """One index was never written since its creation, the other contains records."""
    directory = tmp_path / "chroma"
    directory.mkdir()
    with closing(OfflineVectorStore(directory)) as store:
        write(store, "small")
        large = store.create(CollectionInfo("large", "model", "signature"))
        vectors = np.random.default_rng(0).random((1500, 8), dtype=np.float32)
        large.upsert([Record(str(number), "text", {}, "hash") for number in range(len(vectors))], vectors)
        assert large.dimensions() == 8
    unused = [path for path in directory.glob("*/data_level0.bin") if path.stat().st_size == 100 * 1676]
    assert len(unused) == 1
    used = {path: path.read_bytes() for path in index_files(directory) if path.parent != unused[0].parent}
    for path in (unused[0], unused[0].with_name("length.bin")):
        path.write_bytes((MARKER.encode() * path.stat().st_size)[: path.stat().st_size])
    clear_unused(directory)
    assert not any(unused[0].read_bytes())
    assert (unused[0].stat().st_size, unused[0].stat().st_blocks) == (100 * 1676, 0)
    assert not any(unused[0].with_name("length.bin").read_bytes())
    assert {path: path.read_bytes() for path in used} == used
    with closing(OfflineVectorStore(directory)) as store:
        write(store, "small")
        vector = store.open("small").stored_vectors(["c3"])["c3"].vector
        np.testing.assert_array_equal(vector, np.eye(RECORDS, 384, dtype=np.float32)[3])
        assert store.open("large").count() == 1500


def test_start_of_the_server_clears_the_files_of_another_one(tmp_path: Path) -> None:
    directory = tmp_path / "chroma"
    directory.mkdir()
    with closing(OfflineVectorStore(directory)) as store:
        write(store, "small")
    (path,) = directory.glob("*/data_level0.bin")
    path.write_bytes((MARKER.encode() * path.stat().st_size)[: path.stat().st_size])
    with own_server(directory) as store:
        assert MARKER.encode() not in path.read_bytes()
        assert store.open("small").dimensions() == 384

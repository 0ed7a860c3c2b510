"""A year of one Chroma server, scaled down: courses change, are deleted and are built again every month."""

import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import perf_counter, sleep

import numpy as np
import psutil

from benchmarks.scale.embedding_server import DIMENSIONS
from benchmarks.scale.product import MEGABYTE, size_of
from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.files import DATABASE
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings

MONTHS = 12
CHUNKS = 150
CHANGED_SHARE = 0.2
"""Share of the chunks of each course that change in a month."""
REBUILT_SHARE = 0.1
"""Share of the courses that are deleted and built again in a month."""
MEGABYTES_PER_COURSE = 4
SERVER = """
from cli.main import main
from embedding.vector_store import server_process

server_process.CHECK_SECONDS, server_process.MIN_RUN_SECONDS = 0.5, 5.0
main()
"""
"""`course-search vector-store`, which may be restarted every 5 seconds, because a month takes seconds."""


def year_of_chroma(courses: int) -> Iterator[dict[str, float]]:
    """Write the courses, then change them for 12 months; yields the figures after each month.

    The memory limit of the server allows half of the courses, beside the memory of an idle server.
    """
    with tempfile.TemporaryDirectory(prefix="course-search-") as name:
        directory, port = Path(name) / "chroma", free_port()
        limit = 140 + courses * MEGABYTES_PER_COURSE // 2
        env = {**os.environ, "CHROMA_DB_DIR": str(directory), "CHROMA_MAX_MEMORY_MB": str(limit)}
        log = Path(name) / "log"
        with log.open("w") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", SERVER, "vector-store", "--port", str(port)],
                env=env,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        try:
            settings = VectorStoreSettings(chroma_url=f"http://127.0.0.1:{port}")
            with closing(VectorStore(settings, patience_seconds=60)) as store:
                while not store.answers():
                    sleep(0.1)
                random = np.random.default_rng(0)
                for month in range(MONTHS + 1):
                    started = perf_counter()
                    for course in range(courses):
                        _change(store, f"course {course}", month, random)
                    yield {
                        "month": month,
                        "limit_mb": limit,
                        "seconds": perf_counter() - started,
                        "restarts": log.read_text().count("is restarted"),
                        **_usage(process, directory),
                    }
        finally:
            process.terminate()
            process.wait()


def _change(store: VectorStore, course_id: str, month: int, random: np.random.Generator) -> None:
    if month and random.random() < REBUILT_SHARE:
        store.delete(course_id)
        month = 0
    numbers = random.permutation(CHUNKS)[: int(CHUNKS * CHANGED_SHARE)] if month else range(CHUNKS)
    collection = store.create(CollectionInfo(course_id, "model", "signature"))
    records = [Record(f"c{number}", f"{number} in {month} " + "word " * 80, {}, f"{month}") for number in numbers]
    vectors = random.standard_normal((len(records), DIMENSIONS), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    for start in range(0, len(records), 64):
        batch, rows = records[start : start + 64], vectors[start : start + 64]
        collection.upsert(batch, rows)
        if collection.find_mismatches(batch, rows):
            raise RuntimeError(f"Chroma lost records of {course_id}")
    if collection.count() != CHUNKS:
        raise RuntimeError(f"Chroma lost records of {course_id}")


def _usage(process: "subprocess.Popen[bytes]", directory: Path) -> dict[str, float]:
    servers = psutil.Process(process.pid).children()
    with closing(sqlite3.connect(f"{(directory / DATABASE).as_uri()}?mode=ro", uri=True, timeout=30)) as database:
        [queue] = database.execute("SELECT count(*) FROM embeddings_queue").fetchone()
    return {
        "rss_mb": sum(server.memory_info().rss for server in servers) / MEGABYTE,
        "open_files": sum(server.num_fds() for server in servers),
        "database_mb": (directory / DATABASE).stat().st_size / MEGABYTE,
        "disk_mb": size_of(directory),
        "log_rows": queue,
    }

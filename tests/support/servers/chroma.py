"""A Chroma server for tests."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import CollectionNotFoundError

CHROMA = (sys.executable, "-c", "import sys, chromadb_rust_bindings; chromadb_rust_bindings.cli(sys.argv)")
"""What the command `chroma` does, without importing the client, which takes more time than the start of the server."""


@contextmanager
def chroma_server(directory: Path, port: int | None = None) -> Iterator[str]:
    """Run a Chroma server and yield its URL. The same directory and port restart the same server."""
    with chroma_process(directory, port) as (url, _):
        yield url


@contextmanager
def chroma_process(directory: Path, port: int | None = None) -> Iterator[tuple[str, psutil.Process]]:
    """Run a Chroma server and yield its URL and process."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    log = directory.with_suffix(".log").open("ab")
    process = subprocess.Popen(
        [*CHROMA, "run", "--path", directory, "--host", "127.0.0.1", "--port", str(port)],
        stdout=log,
        stderr=subprocess.STDOUT,
    )
    try:
        wait_for_chroma(url)
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(timeout=120)
        log.close()


def has_collection(store: VectorStore, course_id: str) -> bool:
    """Whether the course has a collection."""
    try:
        store.open(course_id)
    except CollectionNotFoundError:
        return False
    return True


def wait_for_chroma(url: str, seconds: float = 120) -> None:
    """Wait until the server answers its heartbeat."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            httpx.get(f"{url}/api/v2/heartbeat", timeout=5).raise_for_status()
        except httpx.HTTPError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return

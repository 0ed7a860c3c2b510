"""Benchmark: the memory of indexing, which must not grow with the size of the course.

Courses of three sizes are indexed from a SQLite catalogue into a Chroma server, twice: first all chunks are new, then
none has changed. Each pass runs in a fresh process. Random unit vectors replace the model, whose memory is not part of
this measurement. The result is the growth of the process after all modules are imported.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.pipeline_cost.stage_one import StageOne
from benchmarks.resident_memory import ResidentMemory
from benchmarks.serving import open_stores
from embedding.interface import Embedder, Embeddings, Pause, no_pause
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.indexing import index_course
from embedding.vector_store.server import VectorStoreSettings
from models.chunks import chunk_page
from models.database import CatalogueSettings, create_catalogue_engine, transaction
from models.tables import Chunk

SIZES = (1_000, 10_000, 50_000)
PASSES = ("everything new", "nothing changed")
PAGE_SIZE = 500
DIMENSIONS = 1024
MEGABYTE = 2**20


def main() -> None:
    """Measure, print a table, and write the figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--course", help=argparse.SUPPRESS)  # used in the child processes
    arguments = parser.parse_args()
    if arguments.course:
        print(json.dumps(_index(arguments.course)))  # noqa: T201 - read by the parent process
        return
    figures = {
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count()},
        "page_size": PAGE_SIZE,
        "dimensions": DIMENSIONS,
        "courses": _measure(),
    }
    _print(figures)
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _measure() -> list[dict[str, Any]]:
    with open_stores({}) as stores:
        database = Path(str(stores.engine.url.database))
        for size in SIZES:
            StageOne(database).write_course(f"of-{size}", size)
        courses = []
        cases = [(size, name) for size in SIZES for name in PASSES]
        for size, name in track(cases, description="Measuring", console=Console(stderr=True), transient=True):
            command = [sys.executable, "-m", "benchmarks.indexing_memory.main", "--course", f"of-{size}"]
            env = os.environ | stores.settings
            answer = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
            courses.append({"chunks": size, "pass": name, **json.loads(answer.stdout)})
        return courses


def _index(course_id: str) -> dict[str, Any]:
    """Index the course in this process, and return the figures."""
    engine = create_catalogue_engine(CatalogueSettings())

    def pages() -> Iterator[Sequence[Chunk]]:
        after: str | None = None
        while True:
            with transaction(engine) as session:
                page = chunk_page(session, course_id, after=after, limit=PAGE_SIZE)
            if not page:
                return
            yield page
            after = page[-1].id

    with closing(VectorStore(VectorStoreSettings())) as store:
        store.check()
        with ResidentMemory() as memory:
            report = index_course(course_id, pages(), store, _RandomEmbedder(), lambda _: None)
    if not (report.complete and report.sound):
        raise RuntimeError(f"{course_id}: {report.stored} documents, {report.vectors.unsound} unsound")
    return {
        "embedded": report.embedded,
        "kept": report.kept,
        "seconds": round(report.seconds, 2),
        "before_mb": round(memory.before / MEGABYTE, 1),
        "peak_mb": round(memory.peak / MEGABYTE, 1),
        "growth_mb": round((memory.peak - memory.before) / MEGABYTE, 1),
    }


class _RandomEmbedder(Embedder):
    """Returns random unit vectors."""

    def __init__(self) -> None:
        self.name = self.signature = "random"
        self.dimensions = DIMENSIONS
        self._random = np.random.default_rng(0)

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,  # noqa: ARG002
        pause: Pause = no_pause,  # noqa: ARG002
    ) -> Embeddings:
        """One random vector per text."""
        vectors = self._random.standard_normal((len(texts), DIMENSIONS), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return Embeddings(vectors, (1,) * len(texts), truncated=0)


def _print(figures: dict[str, Any]) -> None:
    table = Table(title=f"Indexing, pages of {PAGE_SIZE} chunks, {DIMENSIONS} dimensions")
    table.add_column("pass")
    for column in ("chunks", "embedded", "seconds", "before, MB", "peak, MB", "growth, MB"):
        table.add_column(column, justify="right")
    for row in figures["courses"]:
        table.add_row(
            row["pass"],
            f"{row['chunks']:,}",
            f"{row['embedded']:,}",
            *(f"{row[key]:,.1f}" for key in ("seconds", "before_mb", "peak_mb", "growth_mb")),
        )
    Console(file=sys.stdout).print(table)


if __name__ == "__main__":
    main()

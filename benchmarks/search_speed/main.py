"""Benchmark: search speed, compared with plain Chroma, LangChain and LlamaIndex, on the same courses and questions.

    python -m benchmarks.search_speed.main [--out FILE] [--sizes 300 5000 50000] [--seconds 3]

Each system runs in a separate process that searches from one or eight threads. The systems alternate within each
measurement. Query vectors are given, so embedding is not measured. LangChain (`EnsembleRetriever`) and LlamaIndex
(`QueryFusionRetriever`) are libraries: their figures include HTTP only to Chroma. The product is measured in process
and over HTTP. At the end, the time saved by the product's caches is measured.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, Any, Self, cast

import numpy as np
from rich.console import Console

from benchmarks.search_quality.metrics import milliseconds
from benchmarks.search_speed.made_up_course import DIMENSIONS, MadeUpCourse, make_course
from benchmarks.search_speed.our_systems import (
    APP,
    CHROMA,
    COLLECTION,
    COURSE,
    IN_PROCESS,
    LOOK_UP,
    OUR_SYSTEMS,
    QUESTIONS,
    SEARCH_URL,
)
from benchmarks.search_speed.tables import print_caches, print_cells
from benchmarks.search_speed.worker import RESULTS
from benchmarks.serving import ROOT, Serving, serving
from embedding.vector_store.collection_names import collection_name
from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.records import Record
from models.chunks import chunk_pages
from models.database import transaction
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk

SIZES = (300, 5_000, 50_000)
METHODS = ("vector", "hybrid")
CLIENTS = (1, 8)
TURNS = 3
"""Number of alternating turns into which the seconds of a measurement are divided."""
MAX_SMALL_COURSE = 1_000
"""Chunks of a course that loads so fast that a search waits for it. For larger courses Chroma answers meanwhile."""
BASELINES = ("LangChain", "LlamaIndex")
BASELINES_PYTHON = ROOT / ".venv-baselines" / "bin" / "python"

progress = Console(stderr=True, highlight=False)


class SystemFailedError(Exception):
    """The process of a system ended unexpectedly; the message holds its standard error."""


def main() -> None:
    """Measure, print tables, and write the figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of chunks of the courses")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per system and measurement (%(default)s)")
    arguments = parser.parse_args()
    if not BASELINES_PYTHON.exists():
        parser.error("the baselines are not installed: run `make bench-search`")
    figures = measure(arguments.sizes, arguments.seconds, (*OUR_SYSTEMS, *BASELINES))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(sizes: Sequence[int], seconds: float, systems: Sequence[str]) -> dict[str, Any]:
    """Measure courses of these sizes, and print each table as soon as it is complete."""
    figures: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count(), "load_before": os.getloadavg()},
        "dimensions": DIMENSIONS,
        "results": RESULTS,
        "seconds": seconds,
        "cells": [],
        "loading": {},
        "requests": {},
    }
    for size in sizes:
        progress.print(f"{size:,} chunks: generating and publishing the course")
        course = make_course(size)
        with _published(course) as product, ExitStack() as stack:
            progress.print(f"{size:,} chunks: starting the systems")
            started = {
                name: stack.enter_context(SystemProcess(name, _environment(product, course))) for name in systems
            }
            for system in started.values():
                system.read_reply()
            cells = list(_measure_cells(course, started, seconds))
            figures["loading"][size] = started[IN_PROCESS].execute("loading")
            if size <= MAX_SMALL_COURSE:
                figures["requests"][size] = started[IN_PROCESS].execute("requests")
        figures["cells"] += cells
        print_cells(size, cells)
    print_caches(figures["loading"], figures["requests"])
    figures["machine"]["load_after"] = os.getloadavg()
    return figures


class SystemProcess:
    """A process that runs the benchmark of one system. It executes the commands of `benchmarks.search_speed.worker`."""

    def __init__(self, name: str, environment: Mapping[str, str]) -> None:
        self.name = name
        is_baseline = name in BASELINES
        python = BASELINES_PYTHON if is_baseline else Path(sys.executable)
        module = "benchmarks.search_speed.baselines" if is_baseline else "benchmarks.search_speed.our_systems"
        self._log = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed with the system
        self._process = subprocess.Popen(
            [python, "-m", module, name],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()
        self._log.close()

    def execute(self, command: str, **arguments: Any) -> Any:
        """Send a command and return its reply.

        Raises:
            SystemFailedError: the process ended.
        """
        with suppress(BrokenPipeError):  # `read_reply` reports the reason
            print(json.dumps({"command": command, **arguments}), file=self._process.stdin, flush=True)
        return self.read_reply()

    def read_reply(self) -> Any:
        """The next reply. The first one, before any command, is sent when the process is ready.

        Raises:
            SystemFailedError: the process ended.
        """
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise SystemFailedError(f"{self.name} ended with exit code {self._process.returncode}:\n{self._log.read()}")
        return json.loads(line)


@contextmanager
def _published(course: MadeUpCourse) -> Iterator[Serving]:
    """Start the product and publish the course."""
    with tempfile.TemporaryDirectory(prefix="course-search-") as name:
        questions = Path(name) / "questions.npz"
        course.save_questions(questions)
        with serving({QUESTIONS: str(questions), COURSE: course.id}, APP) as product:
            product.publish((course.id, course.corpus()), course.id, partial(_index, product, course))
            yield product


def _index(product: Serving, course: MadeUpCourse) -> CourseFingerprint:
    """Write the collection like a run, but in larger batches and without checks."""
    collection = product.store.create(CollectionInfo(course.id, LOOK_UP, LOOK_UP))
    content, written = FingerprintBuilder(), 0
    with transaction(product.engine) as session:
        for page in chunk_pages(session, course.id):
            records = [Record(chunk.id, chunk.text, _metadata(chunk), content.add(chunk)) for chunk in page]
            collection.upsert(records, course.vectors[written : written + len(page)])
            written += len(page)
    return content.build(LOOK_UP)


def _metadata(chunk: Chunk) -> dict[str, Any]:
    fields = ("course_id", "lecture_id", "section_id", "source_type", "language")
    return {**(chunk.extra or {}), **{field: getattr(chunk, field) for field in fields}}


def _environment(product: Serving, course: MadeUpCourse) -> dict[str, str]:
    return {**product.settings, SEARCH_URL: product.url, COLLECTION: collection_name(course.id)}


def _measure_cells(
    course: MadeUpCourse, systems: Mapping[str, SystemProcess], seconds: float
) -> Iterator[dict[str, Any]]:
    for method, filtered in [(method, filtered) for method in METHODS for filtered in (False, True)]:
        capable = {name: system for name, system in systems.items() if method == "vector" or name != CHROMA}
        options = {"method": method, "filtered": filtered}
        progress.print(f"{len(course.texts):,} chunks: {method}{', filtered' if filtered else ''}")
        recalls = {}
        if method == "vector":
            exact = course.nearest(RESULTS, filtered=filtered)
            recalls = {name: _recall(exact, system.execute("search", **options)) for name, system in capable.items()}
        else:
            for system in capable.values():  # warm up
                system.execute("measure", clients=1, seconds=0.1, **options)
        for clients in CLIENTS:
            replies: dict[str, list[Any]] = {name: [] for name in capable}
            for _ in range(TURNS):
                for name, system in capable.items():
                    reply = system.execute("measure", clients=clients, seconds=seconds / TURNS, **options)
                    replies[name].append(reply)
            yield {
                "chunks": len(course.texts),
                **options,
                "clients": clients,
                "systems": {name: _speed(replies[name]) | {"recall": recalls.get(name)} for name in capable},
            }


def _speed(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    durations = [duration for turn in turns for duration in turn["durations"]]
    return {
        "calls": len(durations),
        "p50_ms": milliseconds(durations, 50),
        "p99_ms": milliseconds(durations, 99),
        "per_second": round(len(durations) / sum(turn["seconds"] for turn in turns), 1),
    }


def _recall(exact: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]) -> float:
    """Mean share of the ids of an exact search that the system finds."""
    shares = [len(set(expected) & set(actual)) / len(expected) for expected, actual in zip(exact, answers, strict=True)]
    return round(float(np.mean(shares)), 4)


if __name__ == "__main__":
    main()

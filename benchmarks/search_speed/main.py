"""How fast the search is, beside Chroma alone, LangChain and LlamaIndex: the same courses, vectors and questions.

    python -m benchmarks.search [--out FILE] [--sizes 300 5000 50000] [--seconds 3]

Every system is a process that asks from one or eight threads, and they take turns within each figure. All get the
query's vector ready-made: what a search costs beyond it is measured. LangChain (`EnsembleRetriever`) and LlamaIndex
(`QueryFusionRetriever`) are libraries, so their figures hold no HTTP but that to Chroma; ours is measured in process
and over HTTP. At the end, what our caches save.
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
"""Into which the seconds of a figure are divided."""
SMALL = 1_000
"""Chunks of a course that a request without a cache loads before it answers, rather than ask Chroma meanwhile."""
BASELINES = ("LangChain", "LlamaIndex")
BASELINES_PYTHON = ROOT / ".venv-baselines" / "bin" / "python"

progress = Console(stderr=True, highlight=False)


class SystemFailedError(Exception):
    """A system ended although it should not; the message ends with what it said."""


def main() -> None:
    """Measure, print tables, and write the same figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="chunks of the courses")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each system and figure (%(default)s)")
    arguments = parser.parse_args()
    if not BASELINES_PYTHON.exists():
        parser.error("the baselines are not installed: `make bench-search` does it")
    figures = measure(arguments.sizes, arguments.seconds, (*OUR_SYSTEMS, *BASELINES))
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(sizes: Sequence[int], seconds: float, systems: Sequence[str]) -> dict[str, Any]:
    """Measure courses of these sizes; every table is printed when it is done."""
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
        progress.print(f"{size:,} chunks: making and publishing the course")
        course = make_course(size)
        with _published(course) as product, ExitStack() as stack:
            progress.print(f"{size:,} chunks: starting the systems")
            started = {name: stack.enter_context(_System(name, _environment(product, course))) for name in systems}
            for system in started.values():
                system.wait()
            cells = list(_measure_cells(course, started, seconds))
            figures["loading"][size] = started[IN_PROCESS].order(do="loading")
            if size <= SMALL:
                figures["requests"][size] = started[IN_PROCESS].order(do="requests")
        figures["cells"] += cells
        print_cells(size, cells)
    print_caches(figures["loading"], figures["requests"])
    figures["machine"]["load_after"] = os.getloadavg()
    return figures


class _System:
    """A process that carries out orders, see `search_worker`."""

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

    def order(self, **order: Any) -> Any:
        """What comes back.

        Raises:
            SystemFailedError: nothing does.
        """
        with suppress(BrokenPipeError):  # `wait` says why
            print(json.dumps(order), file=self._process.stdin, flush=True)
        return self.wait()

    def wait(self) -> Any:
        """What it says next; the first is that it is ready."""
        line = cast(IO[str], self._process.stdout).readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise SystemFailedError(f"{self.name} ended with exit code {self._process.returncode}:\n{self._log.read()}")
        return json.loads(line)


@contextmanager
def _published(course: MadeUpCourse) -> Iterator[Serving]:
    """The product, with the course published."""
    with tempfile.TemporaryDirectory(prefix="course-search-") as name:
        questions = Path(name) / "questions.npz"
        course.save_questions(questions)
        with serving({QUESTIONS: str(questions), COURSE: course.id}, APP) as product:
            product.publish((course.id, course.corpus()), course.id, partial(_index, product, course))
            yield product


def _index(product: Serving, course: MadeUpCourse) -> CourseFingerprint:
    """Write the collection as a run does, but in larger batches and without reading it back."""
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


def _measure_cells(course: MadeUpCourse, systems: Mapping[str, _System], seconds: float) -> Iterator[dict[str, Any]]:
    for method, filtered in [(method, filtered) for method in METHODS for filtered in (False, True)]:
        able = {name: system for name, system in systems.items() if method == "vector" or name != CHROMA}
        what = {"method": method, "filtered": filtered}
        progress.print(f"{len(course.texts):,} chunks: {method}{', filtered' if filtered else ''}")
        recalls = {}
        if method == "vector":
            exact = course.nearest(RESULTS, filtered=filtered)
            recalls = {name: _recall(exact, system.order(do="answer", **what)) for name, system in able.items()}
        else:
            for system in able.values():  # not to begin cold
                system.order(do="measure", clients=1, seconds=0.1, **what)
        for clients in CLIENTS:
            answers: dict[str, list[Any]] = {name: [] for name in able}
            for _ in range(TURNS):
                for name, system in able.items():
                    order = {"do": "measure", "clients": clients, "seconds": seconds / TURNS, **what}
                    answers[name].append(system.order(**order))
            yield {
                "chunks": len(course.texts),
                **what,
                "clients": clients,
                "systems": {name: _speed(answers[name]) | {"recall": recalls.get(name)} for name in able},
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
    """Share of what an exact search finds."""
    shares = [len(set(right) & set(found)) / len(right) for right, found in zip(exact, answers, strict=True)]
    return round(float(np.mean(shares)), 4)


if __name__ == "__main__":
    main()

"""Benchmark: search speed, compared with plain Chroma, LangChain and LlamaIndex, on the same courses and questions.

    python -m benchmarks.search_speed.main [--out FILE] [--sizes 300 5000 50000] [--seconds 3] [--minutes 14]

Each system runs in a separate process that searches from one or eight threads. The systems alternate within each
measurement. Query vectors are given, so embedding is not measured. LangChain (`EnsembleRetriever`) and LlamaIndex
(`QueryFusionRetriever`) are libraries: their figures include HTTP only to Chroma. The product is measured in process
and over HTTP. The bare float32 product of all vectors with the query, in numpy with one thread, shows what the search
in process adds to it. For each course, the first search, the time saved by the caches and the time of filters are
measured too. A search of many courses is compared with a search of one of them, over HTTP.

A system that fails is a row with the reason, and the others are still measured. The tables are printed at the end, even
if the time is over before all is measured.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.search_quality.metrics import milliseconds
from benchmarks.search_speed import many_courses
from benchmarks.search_speed.made_up_course import DIMENSIONS, MadeUpCourse, make_course
from benchmarks.search_speed.our_systems import (
    CHROMA,
    COLLECTION,
    IN_PROCESS,
    MANY_COURSES,
    OUR_SYSTEMS,
    OVER_HTTP,
    PRODUCT,
    SEARCH_URL,
)
from benchmarks.search_speed.processes import Deadline, SystemFailedError, SystemProcess, one_line
from benchmarks.search_speed.publishing import published_course, published_courses
from benchmarks.search_speed.tables import print_tables, summary, summary_of_many_courses
from benchmarks.search_speed.worker import RESULTS
from benchmarks.serving import ROOT, Serving
from embedding.vector_store.collection_names import collection_name

SIZES = (300, 5_000, 50_000)
METHODS = ("hybrid", "vector")
"""The most important first: a time limit loses the rest."""
CLIENTS = (1, 8)
TURNS = 3
"""Number of alternating turns into which the seconds of a measurement are divided."""
BASELINES = ("LangChain", "LlamaIndex")
BASELINES_PYTHON = ROOT / ".venv-baselines" / "bin" / "python"
SETUP_SECONDS = 240.0
"""Time limit of a system until its first search; all are set up at the same time."""
TURN_SECONDS = 30.0
"""Time limit of one turn, in addition to the seconds that are measured."""
COMMAND_SECONDS = 120.0
"""Time limit of any other command."""
OF_COURSE = ("opening", "requests", "filters")
"""What is measured of each course in process; commands of `our_systems`."""
NOT_MEASURED = "not measured"

progress = Console(stderr=True, highlight=False, log_path=False, soft_wrap=True)


def main() -> None:
    """Measure, print tables, and write the figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of chunks of the courses")
    parser.add_argument("--seconds", type=float, default=3.0, help="seconds per system and measurement (%(default)s)")
    parser.add_argument("--minutes", type=float, default=14.0, help="time limit of the whole benchmark (%(default)s)")
    arguments = parser.parse_args()
    systems = (*OUR_SYSTEMS, *BASELINES)
    figures = empty_figures(arguments.sizes, arguments.seconds, systems)
    try:
        measure(figures, systems, Deadline(arguments.minutes))
    finally:
        figures["summary"] = summary(figures["cells"])
        figures["many_courses"]["summary"] = summary_of_many_courses(figures["many_courses"])
        if arguments.out:
            arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
        print_tables(figures)


def empty_figures(sizes: Sequence[int], seconds: float, systems: Sequence[str]) -> dict[str, Any]:
    """All figures of a benchmark, each of them marked as not measured."""
    missing = {"failed": NOT_MEASURED}
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"python": platform.python_version(), "cpus": os.cpu_count(), "load_before": os.getloadavg()},
        "dimensions": DIMENSIONS,
        "results": RESULTS,
        "seconds": seconds,
        "cells": [
            {
                "chunks": size,
                "method": method,
                "filtered": filtered,
                "clients": clients,
                "systems": {name: missing for name in systems if _takes_part(name, method, clients)},
            }
            for size, method, filtered, clients in product(sizes, METHODS, (False, True), CLIENTS)
        ],
        "setup": {size: dict.fromkeys(systems, missing) for size in sizes},
        **{name: dict.fromkeys(sizes, missing) for name in OF_COURSE},
        "phases": {size: {} for size in sizes},
        "many_courses": {
            "courses": many_courses.COURSES,
            "chunks": many_courses.CHUNKS,
            "cells": [
                {"method": "hybrid", "filtered": False, "clients": clients}
                | {"systems": dict.fromkeys((OVER_HTTP, MANY_COURSES), missing)}
                for clients in CLIENTS
            ],
            "first": dict.fromkeys((OVER_HTTP, MANY_COURSES), missing),
            "phases": {},
        },
    }


def measure(figures: dict[str, Any], systems: Sequence[str], deadline: Deadline) -> None:
    """Replace the figures of `empty_figures` one after the other, so that a stop at any time loses only the rest."""
    if OVER_HTTP in systems:
        many, seconds = figures["many_courses"], figures["seconds"]
        subject = f"{many['courses']} courses"
        failure = _failure(subject, deadline, partial(_measure_many_courses, subject, many, seconds, deadline))
        if failure:
            _explain_missing([*(cell["systems"] for cell in many["cells"]), many["first"]], failure)
    for size in figures["phases"]:
        subject = f"{size:,} chunks"
        failure = _failure(subject, deadline, partial(_measure_course, subject, size, figures, systems, deadline))
        if failure:
            cells = [cell["systems"] for cell in figures["cells"] if cell["chunks"] == size]
            _explain_missing([*cells, figures["setup"][size]], failure)
            for name in OF_COURSE:
                of_course = {size: figures[name][size]}
                _explain_missing([of_course], failure)
                figures[name].update(of_course)
    figures["machine"]["load_after"] = os.getloadavg()


def _failure(subject: str, deadline: Deadline, measure_subject: Callable[[], None]) -> str | None:
    """Measure one subject; returns why that failed, which must not end the others."""
    try:
        deadline.check()
        measure_subject()
    except Exception as error:  # noqa: BLE001 - any
        reason = one_line(str(error) if isinstance(error, SystemFailedError) else f"{type(error).__name__}: {error}")
        progress.log(f"{subject}: {reason}", style="red")
        return reason
    return None


def _measure_many_courses(subject: str, figures: dict[str, Any], seconds: float, deadline: Deadline) -> None:
    phase = partial(_phase, subject, figures["phases"])
    with phase("generating the courses"):
        courses = many_courses.make_courses()
    with ExitStack() as stack:
        with phase("loading the courses and building their snapshots"):
            published = stack.enter_context(published_courses(courses, deadline))
        with phase("setting up the clients"):
            started = _started(figures["first"], published, courses[0], deadline, stack)
            for system in started.values():
                _or_failure(system, partial(_set_up, system))
        with phase("searches"):
            _measure_cells(courses[0], started, figures["cells"], seconds, deadline)
        with phase("first searches"):
            figures["first"].update(many_courses.measure_first_searches(published, courses[0], deadline))


def _measure_course(
    subject: str, size: int, figures: dict[str, Any], systems: Sequence[str], deadline: Deadline
) -> None:
    phase = partial(_phase, subject, figures["phases"][size])
    with phase("generating the course"):
        course = make_course(size)
    with ExitStack() as stack:
        with phase("loading and indexing the course"):
            published = stack.enter_context(published_course(course, deadline))
        with phase("setting up the systems"):
            started = _started(systems, published, course, deadline, stack)
            for name, system in started.items():
                figures["setup"][size][name] = _or_failure(system, partial(_set_up, system))
        for name in OF_COURSE if IN_PROCESS in started else ():
            with phase(f"{name}, in process"):
                ask = partial(started[IN_PROCESS].execute, name, COMMAND_SECONDS)
                figures[name][size] = _or_failure(started[IN_PROCESS], ask)
        cells = [cell for cell in figures["cells"] if cell["chunks"] == size]
        seconds = figures["seconds"]
        for method, filtered in product(METHODS, (False, True)):
            with phase(f"{method}{', filtered' if filtered else ''}"):
                same = [cell for cell in cells if (cell["method"], cell["filtered"]) == (method, filtered)]
                _measure_cells(course, started, same, seconds, deadline)


def _started(
    systems: Iterable[str], published: Serving, course: MadeUpCourse, deadline: Deadline, stack: ExitStack
) -> dict[str, SystemProcess]:
    """The processes of the systems, which are stopped with the stack."""
    environment = {**published.settings, SEARCH_URL: published.url, COLLECTION: collection_name(course.id)}
    return {name: stack.enter_context(SystemProcess(name, _command(name), environment, deadline)) for name in systems}


def _measure_cells(
    course: MadeUpCourse,
    systems: Mapping[str, SystemProcess],
    cells: Sequence[dict[str, Any]],
    seconds: float,
    deadline: Deadline,
) -> None:
    """Measure the cells of one method, filtered or not; they differ in the number of clients."""
    options = {name: cells[0][name] for name in ("method", "filtered")}
    recalls: dict[str, Any] = {}
    if options["method"] == "vector":
        exact = course.nearest(RESULTS, filtered=options["filtered"])
        for name, system in _participants(systems, cells[0]):
            if name != PRODUCT:
                found = _or_failure(system, partial(system.execute, "search", COMMAND_SECONDS, **options))
                recalls[name] = None if _failed(found) else _recall(exact, found)
    else:
        for _, system in _participants(systems, cells[0]):  # warm up
            _or_failure(system, partial(system.execute, "measure", TURN_SECONDS, clients=1, seconds=0.1, **options))
    for cell in cells:
        deadline.check()
        turn = {"clients": cell["clients"], "seconds": seconds / TURNS, **options}
        replies: dict[str, list[Any]] = {name: [] for name in cell["systems"]}
        for _ in range(TURNS):
            for name, system in _participants(systems, cell):
                if not any(map(_failed, replies[name])):
                    limit = TURN_SECONDS + seconds / TURNS
                    replies[name].append(_or_failure(system, partial(system.execute, "measure", limit, **turn)))
        for name, turns in replies.items():
            failure = next(filter(_failed, turns), None)
            cell["systems"][name] = failure or (_speed(turns) | {"recall": recalls.get(name)})


def _participants(systems: Mapping[str, SystemProcess], cell: Mapping[str, Any]) -> Iterable[tuple[str, SystemProcess]]:
    return [(name, systems[name]) for name in cell["systems"]]


def _takes_part(name: str, method: str, clients: int) -> bool:
    """Chroma has no hybrid search; the bare product is compared with single searches."""
    return {CHROMA: method == "vector", PRODUCT: clients == 1}.get(name, True)


def _set_up(system: SystemProcess) -> dict[str, Any]:
    return {"seconds": system.wait_ready(SETUP_SECONDS)}


def _or_failure(system: SystemProcess, ask: Callable[[], Any]) -> Any:
    """The answer, or `{"failed": reason}`."""
    try:
        return ask()
    except SystemFailedError as error:
        progress.log(f"  {system.name}: {error}", style="red")
        return {"failed": str(error)}


def _failed(reply: Any) -> bool:
    return isinstance(reply, dict) and "failed" in reply


def _explain_missing(groups: Iterable[dict[Any, Any]], reason: str) -> None:
    """Write the reason into all figures that are still missing."""
    for group in groups:
        for name, row in group.items():
            if row == {"failed": NOT_MEASURED}:
                group[name] = {"failed": reason}


@contextmanager
def _phase(subject: str, phases: dict[str, float], name: str) -> Iterator[None]:
    """Print the name of a phase when it begins, and record its seconds."""
    progress.log(f"{subject}: {name}")
    started = time.monotonic()
    try:
        yield
    finally:
        phases[name] = round(time.monotonic() - started, 1)


def _command(name: str) -> list[str | Path]:
    if name in BASELINES:
        return [BASELINES_PYTHON, "-m", "benchmarks.search_speed.baselines", name]
    return [sys.executable, "-m", "benchmarks.search_speed.our_systems", name]


def _speed(turns: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    durations = [duration for turn in turns for duration in turn["durations"]]
    return {
        "calls": len(durations),
        "p50_ms": milliseconds(durations, 50),
        "p99_ms": milliseconds(durations, 99),
        "per_second": round(len(durations) / sum(turn["seconds"] for turn in turns), 1),
        "cpu_ms": round(sum(turn["cpu_seconds"] for turn in turns) / len(durations) * 1000, 3),
    }


def _recall(exact: Sequence[Sequence[str]], answers: Sequence[Sequence[str]]) -> float:
    """Mean share of the ids of an exact search that the system finds."""
    shares = [len(set(expected) & set(actual)) / len(expected) for expected, actual in zip(exact, answers, strict=True)]
    return round(float(np.mean(shares)), 4)


if __name__ == "__main__":
    main()

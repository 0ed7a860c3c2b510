"""Benchmark: the product with more and more courses, one very large course, and a year of Chroma.

Vectors come from an embedding server that costs almost nothing; everything else is real: Chroma, catalogue, Dagster,
search app. Each size adds to the former one. Most courses are embedded by the product's own run in this process, and a
sample at each size by a run that Dagster launches. The benchmark stops when the memory or the time runs out, and says
which. Every measurement is written to `--out` at once.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from benchmarks.scale.measuring import SEARCHED, measure, measure_large_course
from benchmarks.scale.product import MEGABYTE, ScaleProduct, running_product
from benchmarks.scale.report import print_report, write_plots
from benchmarks.scale.year import year_of_chroma

SIZES = (100, 250, 500, 1000, 2000, 4000, 8000)
SAMPLE = 20
BATCH = 20
"""Courses of one run that fills the product, as many as `stage_one_sensor` gives to one."""

progress = Console(stderr=True, highlight=False)


def main() -> None:
    """Measure, print tables, and write the figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--plots", type=Path, help="directory for the plots scale-*.svg")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of courses (%(default)s)")
    parser.add_argument("--sample", type=int, default=SAMPLE, help="courses of the measured run (%(default)s)")
    parser.add_argument("--minutes", type=float, default=15.0, help="time budget of the sizes (%(default)s)")
    parser.add_argument("--reserve-mb", type=int, default=2048, help="memory that must stay available (%(default)s)")
    parser.add_argument(
        "--large", type=int, default=100_000, help="chunks of the large course, 0 for none (%(default)s)"
    )
    parser.add_argument("--year", type=int, default=40, help="courses of the year of Chroma, 0 for none (%(default)s)")
    parser.add_argument("--database-url", help="empty PostgreSQL database (default: SQLite)")
    arguments = parser.parse_args()
    out = arguments.out.absolute() if arguments.out else None
    plots = arguments.plots.absolute() if arguments.plots else None
    figures: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": _cpu(),
            "cpus": os.cpu_count(),
            "memory_mb": psutil.virtual_memory().total // MEGABYTE,
            "python": platform.python_version(),
        },
        "versions": {library: version(library) for library in ("dagster", "chromadb")},
        "database": "postgresql" if arguments.database_url else "sqlite",
        "sizes": [],
        "errors": {},
    }

    def save() -> None:
        if out:
            out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")

    def attempt(name: str, part: Callable[[], None]) -> None:
        started = time.monotonic()
        try:
            part()
        except Exception as error:  # noqa: BLE001 - the other parts are measured nevertheless
            progress.print(f"{name} failed: {error!r}")
            figures["errors"][name] = repr(error)
        figures.setdefault("seconds", {})[name] = round(time.monotonic() - started)
        save()

    def large() -> None:
        with running_product(None) as product:
            figures["large"] = _rounded(measure_large_course(product, arguments.large))

    def year() -> None:
        figures["year"] = []
        for month in year_of_chroma(arguments.year):
            figures["year"].append(_rounded(month))
            save()

    try:
        attempt("sizes", lambda: _measure_sizes(arguments, figures, save))
        if arguments.large:
            attempt("large", large)
        if arguments.year:
            attempt("year", year)
    finally:
        save()
        print_report(figures, Console(file=sys.stdout, highlight=False))
        if plots:
            write_plots(figures, plots)
    if figures["errors"]:
        sys.exit(1)


def _measure_sizes(arguments: argparse.Namespace, figures: dict[str, Any], save: Callable[[], None]) -> None:
    deadline = time.monotonic() + 60 * arguments.minutes
    figures["stopped_by"] = "all sizes were measured"
    with running_product(arguments.database_url) as product:
        for size in sorted(arguments.sizes):
            if reason := _fill(product, size - arguments.sample, deadline, arguments.reserve_mb):
                figures["stopped_by"] = f"{reason} at {len(product.courses.chunks)} courses"
                progress.print(f"Stopped: {figures['stopped_by']}")
                # What was filled since the last size is measured, too.
                if len(product.courses.chunks) < 1.2 * max((row["courses"] for row in figures["sizes"]), default=0):
                    return
            existing = list(product.courses.chunks)
            sample = [f"course-{len(existing) + number}" for number in range(arguments.sample)]
            for course_id in sample:
                product.courses.write(course_id)
            searched = [course_id for course_id in existing[::-1] if course_id not in _SEARCHED][:SEARCHED]
            _SEARCHED.update(searched)
            progress.print(f"{len(product.courses.chunks)} courses: measuring")
            figures["sizes"].append(_rounded(measure(product, sample, searched or sample)))
            save()
            if reason:
                return


_SEARCHED: set[str] = set()


def _fill(product: ScaleProduct, size: int, deadline: float, reserve_mb: int) -> str | None:
    """Embed courses until there are this many; returns why it stopped before."""
    while (existing := len(product.courses.chunks)) < size:
        if psutil.virtual_memory().available < reserve_mb * MEGABYTE:
            return f"less than {reserve_mb} MB of memory are available"
        if time.monotonic() > deadline:
            return "the time is used up"
        batch = [f"course-{number}" for number in range(existing, min(size, existing + BATCH))]
        for course_id in batch:
            product.courses.write(course_id)
        seconds = product.fill(batch)
        progress.print(f"{existing + len(batch)} courses, {seconds:.2f} s each", end="\r")
    return None


def _rounded(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3 if abs(value) < 100 else 1) for name, value in figures.items()}


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()

"""Benchmark of the product under load (`docs/load.md`): capacity, 80 % of it for long, more than it, and faults.

The product runs as `course-search up` starts it, in a scratch directory on this machine; a setting of another machine
is not used. Meanwhile courses are changed and embedded again all the time. Each answer is checked by its content.
The exit code is 1 if a check failed.
"""

import argparse
import json
import os
import platform
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.load import phases, tables
from benchmarks.load.answers import States
from benchmarks.load.faults import faults
from benchmarks.load.mix import Mix
from benchmarks.load.phases import Load
from benchmarks.load.product import loaded_product
from benchmarks.serving import ROOT

LIBRARIES = ("chromadb", "dagster", "fastapi", "numpy", "torch", "uvicorn")


def main() -> None:
    """Measure, print the tables, write the figures to `--out`, and exit with 1 if a check failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument(
        "--seconds", type=float, default=1200, help="seconds of load at 80 %% of capacity (%(default)s)"
    )
    parser.add_argument("--courses", type=int, default=60, help="courses (%(default)s)")
    parser.add_argument("--passages", type=int, default=40, help="passages of each course (%(default)s)")
    parser.add_argument("--changed", type=int, default=50, help="courses that must be embedded anew (%(default)s)")
    parser.add_argument(
        "--step-seconds", type=float, default=8, help="seconds of each step that finds the capacity (%(default)s)"
    )
    parser.add_argument("--overload-seconds", type=float, default=20, help="seconds above capacity (%(default)s)")
    parser.add_argument("--model", type=Path, help="model directory (default: the demo model)")
    parser.add_argument(
        "--fault-seconds", type=float, default=12, help="seconds of each fault; 0 leaves them out (%(default)s)"
    )
    arguments = parser.parse_args()
    out = arguments.out.absolute() if arguments.out else None
    figures: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(),
        "versions": {library: version(library) for library in LIBRARIES},
        "courses": arguments.courses,
        "passages": arguments.passages,
        "problems": [],
    }
    ended_by = "an interrupt"
    try:
        _measure(arguments, figures)
        ended_by = ""
    except KeyboardInterrupt:
        pass
    except Exception as error:
        ended_by = f"{type(error).__name__}: {error}"
        raise
    finally:
        if ended_by:
            figures["problems"].append(f"ended by {ended_by}")
        tables.print_tables(figures)
        if out:
            out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if figures["problems"] else 0)


def _measure(arguments: argparse.Namespace, figures: dict[str, Any]) -> None:
    with loaded_product(arguments.courses, arguments.passages, arguments.model, {}) as product:
        figures["model"] = product.model
        load = Load(product, Mix(arguments.courses, arguments.passages))
        looks = product.directory / "states.jsonl"
        looks.touch()
        command = [
            sys.executable,
            "-m",
            "benchmarks.load.changes",
            str(arguments.courses),
            str(arguments.passages),
            "2",
            str(looks),
        ]
        changes = product.supervisor.start("changes", command, {"PYTHONPATH": str(ROOT)})
        try:
            capacity = phases.run(phases.find_capacity(load, arguments.step_seconds))
            figures["capacity"] = capacity
            figures["steady"] = {}
            rate = phases.SHARE_OF_CAPACITY * capacity["per_second"]
            phases.run(phases.steady(load, rate, arguments.seconds, figures["steady"]))
            figures["overload"] = phases.run(phases.overload(load, capacity["per_second"], arguments.overload_seconds))
            if arguments.fault_seconds:
                figures["faults"] = []
                phases.run(faults(load, arguments.fault_seconds, figures["faults"]))
            if changes.process.poll() is not None:
                figures["problems"].append("the process that changes the courses ended")
        finally:
            with suppress(OSError):
                _compare(load, looks, arguments.changed, figures)


def _compare(load: Load, looks: Path, changed: int, figures: dict[str, Any]) -> None:
    """Compare all answers with the states of the courses meanwhile."""
    states = States(looks)
    figures["changes"] = {"courses": len(states.changes), "publications": sum(states.changes.values())}
    figures["compared"] = {}
    for name, answers in load.answers.items():
        figures["compared"][name] = dict(answers.check_states(states))
        figures["problems"] += [f"{name}: {problem}" for problem in answers.problems]
        figures["problems"] += [f"{name}: {count} × {error}" for error, count in answers.errors.items()]
        if answers.refused and name in ("capacity", "steady"):
            reasons = ", ".join(f"{count} × {message}" for message, count in answers.refusals.most_common())
            figures["problems"].append(
                f"{name}: {len(answers.refused)} requests were refused in {len(answers.refused_in)} seconds: {reasons}"
            )
        if answers.degraded and not answers.degraded_is_expected:
            figures["problems"].append(f"{name}: degraded answers: {dict(answers.degraded)}")
    if len(states.changes) < changed:
        figures["problems"].append(f"only {len(states.changes)} of {changed} courses were embedded anew")
    for process, measures in figures.get("steady", {}).get("processes", {}).items():
        figures["problems"] += [
            f"{process}: {measure} grew by {growth['rise']:.1f}"
            for measure, growth in measures.items()
            if not growth["is_flat"]
        ]
    share = figures.get("steady", {}).get("client_cpu_share", 0.0)
    if share > phases.MOST_CLIENT_SHARE:
        figures["problems"].append(f"the client was the bottleneck: it used {share:.0%} of a core")


def _machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        "cpu": names[0] if names else platform.processor(),
        "cpus": os.cpu_count(),
        "load_before": os.getloadavg(),
    }


if __name__ == "__main__":
    main()

"""The tables of the load."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

FILE_WIDTH = 140
"""Columns of the tables in a file."""


def print_tables(figures: Mapping[str, Any]) -> None:
    """Print what was measured, whatever there is of it, and the problems."""
    width = None if sys.stdout.isatty() else FILE_WIDTH
    console = Console(file=sys.stdout, highlight=False, soft_wrap=True, width=width)
    if capacity := figures.get("capacity"):
        table = _table("Capacity, while courses are embedded again", "connections", "answers per second")
        for step in capacity["steps"]:
            table.add_row(str(step["clients"]), f"{step['per_second']:.0f}")
        slowest, fastest = min(capacity["windows"]), max(capacity["windows"])
        table.add_row(f"the best, {len(capacity['windows'])} times", f"{slowest:.0f} to {fastest:.0f}")
        console.print(table)
    for name, title in (("steady", "At 80 % of capacity"), ("overload", "Above capacity")):
        if phase := figures.get(name):
            _print_times(console, f"{title}: {phase['rate']:.0f} requests per second", phase)
    if steady := figures.get("steady"):
        _print_processes(console, steady)
        console.print(
            f"The client used {steady['client_cpu_share']:.0%} of a core, and sent 99 % of the requests at most "
            f"{1000 * (steady['client_late_p99_s'] or 0):.1f} ms late."
        )
    if overload := figures.get("overload"):
        console.print(
            f"Above capacity: {overload['asked']} asked, {overload['answers']} answered "
            f"({overload['answered_per_second']:.0f} per second), {overload['refused']} refused (99 % within "
            f"{1000 * (overload['refused_p99_s'] or 0):.0f} ms), recovered in {overload['recovery_seconds']:.1f} s."
        )
    if faults := figures.get("faults"):
        _print_faults(console, faults)
    if changes := figures.get("changes"):
        console.print(f"{changes['courses']} courses were embedded again, {changes['publications']} times in all.")
    for phase, compared in figures.get("compared", {}).items():
        console.print(
            f"Compared with the catalogue, {phase}: "
            + ", ".join(f"{count} answers {what}" for what, count in compared.items())
        )
    if problems := figures["problems"]:
        console.print(f"\n[bold red]{len(problems)} checks failed:[/]")
        for problem in problems:
            console.print(f"  {problem}", markup=False)
    else:
        console.print("\nAll checks passed.")


def _print_times(console: Console, title: str, phase: Mapping[str, Any]) -> None:
    table = _table(title, "answers", "p50 ms", "p90 ms", "p99 ms", "max ms", first="kind")
    for kind, times in (*phase["kinds"].items(), ("all", phase["all"])):
        if times["answers"]:
            values = (f"{times[name]:,.1f}" for name in ("p50_ms", "p90_ms", "p99_ms", "max_ms"))
            table.add_row(kind, f"{times['answers']:,}", *values)
    console.print(table)


def _print_processes(console: Console, steady: Mapping[str, Any]) -> None:
    table = _table(
        "Processes after the warm-up: first, last (per hour)", "RSS MB", "PSS MB", "threads", "files", first="process"
    )
    for process, measures in steady.get("processes", {}).items():
        cells = [
            f"{growth['first']:.0f}, {growth['last']:.0f} ({growth['per_hour']:+.0f})"
            + ("" if growth["is_flat"] else " !")
            for growth in measures.values()
        ]
        table.add_row(process, *cells)
    console.print(table)


def _print_faults(console: Console, faults: Sequence[Mapping[str, Any]]) -> None:
    columns = ("answered", "p50 ms", "p99 ms", "max ms", "expected errors", "other errors", "degraded", "recovered s")
    table = _table("Injected faults", *columns, first="fault")
    for fault in faults:
        times = fault["all"]
        values = [f"{times.get(name, 0):,.1f}" for name in ("p50_ms", "p99_ms", "max_ms")]
        errors = [str(sum(fault[name].values())) for name in ("expected_errors", "unexpected_errors", "degraded")]
        table.add_row(fault["fault"], str(times["answers"]), *values, *errors, f"{fault['recovery_seconds']:.1f}")
    console.print(table)


def _table(title: str, *columns: str, first: str | None = None) -> Table:
    table = Table(title=title, box=SIMPLE_HEAD)
    for name in ([first] if first else []) + list(columns):
        table.add_column(name, justify="left" if name == first else "right")
    return table

"""Tables and plots of the figures: `python -m benchmarks.scale.report FILE.json` prints them as Markdown."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.scale.laws import Law, fit
from benchmarks.scale.plots import plot

NAMES = {
    "run_s_per_course": "a run of the sample, s a course",
    "work_s_per_course": "of it read, embed, write, s a course",
    "cold_p50_ms": "first search of a course, p50, ms",
    "cold_p99_ms": "first search of a course, p99, ms",
    "warm_p50_ms": "further search, p50, ms",
    "warm_p99_ms": "further search, p99, ms",
    "courses_page_ms": "`GET /courses`, ms",
    "metrics_page_ms": "`GET /metrics`, ms",
    "stage_one_sensor_ms": "tick of `stage_one_sensor`, ms",
    "course_status_sensor_ms": "tick of `course_status_sensor`, ms",
    "deleted_course_sensor_ms": "tick of `deleted_course_sensor`, ms",
    "chroma_get_ms": "Chroma: 50 records by id, ms",
    "chroma_page_ms": "Chroma: 50 records by offset, ms",
    "chroma_where_ms": "Chroma: `where` (the product uses none), ms",
    "chroma_rss_mb": "Chroma, memory, MB",
    "chroma_open_files": "Chroma, open files",
    "chroma_disk_mb": "Chroma, disk, MB",
    "search_rss_mb": "search app, memory, MB",
    "search_open_files": "search app, open files",
    "snapshots_mb": "snapshots, disk, MB",
    "daemon_rss_mb": "Dagster daemon, memory, MB",
    "webserver_rss_mb": "Dagster web server, memory, MB",
    "catalogue_mb": "catalogue, disk, MB",
    "dagster_mb": "Dagster's storage, MB",
}
PLOTS = {
    "memory": ("Memory", "MB", ("chroma_rss_mb", "search_rss_mb", "daemon_rss_mb", "webserver_rss_mb")),
    "disk": ("Disk", "MB", ("chroma_disk_mb", "snapshots_mb", "catalogue_mb", "dagster_mb")),
    "searches": ("Searches", "ms", ("cold_p50_ms", "cold_p99_ms", "warm_p50_ms", "warm_p99_ms")),
    "pages-and-ticks": (
        "Pages and ticks",
        "ms",
        (
            "courses_page_ms",
            "metrics_page_ms",
            "stage_one_sensor_ms",
            "course_status_sensor_ms",
            "deleted_course_sensor_ms",
        ),
    ),
    "files": ("Open files", "number", ("chroma_open_files", "search_open_files")),
}
YEAR = ("month", "restarts", "rss_mb", "open_files", "database_mb", "disk_mb", "log_rows", "seconds")


def laws_of(sizes: Sequence[Mapping[str, float]]) -> dict[str, Law]:
    """The growth law of each figure, by the number of courses."""
    laws = {}
    for name in NAMES:
        rows = [row for row in sizes if name in row]
        if law := fit([row["courses"] for row in rows], [row[name] for row in rows]):
            laws[name] = law
    return laws


def tables(figures: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, columns and rows of each table."""
    found = []
    if sizes := figures["sizes"]:
        laws = laws_of(sizes)
        columns = ["figure", *(f"{row['courses']:,.0f}" for row in sizes), "law", "error"]
        rows = [["chunks", *(f"{row['chunks']:,.0f}" for row in sizes), "", ""]]
        for name, label in NAMES.items():
            law = laws.get(name)
            values = [_number(row.get(name)) for row in sizes]
            rows.append([label, *values, str(law or ""), f"{law.residual:.0%}" if law else ""])
        found.append((f"Courses; stopped because {figures.get('stopped_by', 'of an error')}", columns, rows))
    if large := figures.get("large"):
        rows = [[name, _number(value)] for name, value in large.items()]
        found.append(("One large course", ["figure", "value"], rows))
    if year := figures.get("year"):
        rows = [[_number(row[name]) for name in YEAR] for row in year]
        found.append((f"A year of Chroma, limit {year[0]['limit_mb']:.0f} MB", list(YEAR), rows))
    return found


def print_report(figures: Mapping[str, Any], console: Console) -> None:
    """Print the tables, and what failed."""
    for title, columns, rows in tables(figures):
        table = Table(columns[0], title=title, box=SIMPLE_HEAD)
        for column in columns[1:]:
            table.add_column(column, justify="right")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for part, error in figures.get("errors", {}).items():
        console.print(f"{part} failed: {error}", markup=False)


def write_plots(figures: Mapping[str, Any], directory: Path) -> None:
    """Write `scale-*.svg`."""
    sizes = figures["sizes"]
    if not sizes:
        return
    directory.mkdir(parents=True, exist_ok=True)
    for name, (title, unit, lines) in PLOTS.items():
        values = {
            NAMES[line].rpartition(",")[0].replace("`", ""): [row.get(line, 0.0) for row in sizes] for line in lines
        }
        svg = plot(title, unit, [row["courses"] for row in sizes], values)
        (directory / f"scale-{name}.svg").write_text(svg, encoding="utf-8")


def as_markdown(figures: Mapping[str, Any]) -> str:
    """The tables in Markdown, under the machine, the versions and the date."""
    machine, versions = figures["machine"], figures["versions"]
    lines = [
        (
            f"{machine['cpu']}, {machine['cpus']} cores, {machine['memory_mb'] / 1024:.0f} GB; "
            f"Python {machine['python']}, {', '.join(f'{name} {number}' for name, number in versions.items())}, "
            f"{figures['database']}; {figures['date'][:10]}."
        )
    ]
    for title, columns, rows in tables(figures):
        lines += ["", f"**{title}**", "", f"| {' | '.join(columns)} |", "|---" + "|---:" * (len(columns) - 1) + "|"]
        lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"


if __name__ == "__main__":
    print(as_markdown(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))  # noqa: T201 - the output

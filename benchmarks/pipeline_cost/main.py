"""Benchmark of the cost of orchestration: the product compared with a plain script that does the same work.

The plain script (`plain_script.py`) reads the same chunks from the same catalogue, embeds them with the same embedder
in the same batches and writes them to the same Chroma server, without orchestration. The product runs as `make up`
starts it: sensors, daemon, one process per run. Both import their libraries and load the model in each measurement. The
cases are a large course, a copy of it, one changed chunk of it, and many small courses. The systems alternate. Ratios
carry over to other machines, seconds do not.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import chdir, suppress
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from benchmarks.pipeline_cost.systems import Systems, progress
from cli.commands.up import run_product
from cli.launcher_settings import LauncherSettings
from embedding.model_files.demo_model import demo_model_path, demo_model_settings

LIBRARIES = ("dagster", "torch", "transformers", "chromadb")
IDLE_SECONDS = 20.0


def main() -> None:
    """Measure, print tables, and write the figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--model", type=Path, help="model directory (default: the demo model)")
    parser.add_argument("--chunks", type=int, default=5000, help="chunks of the large course (%(default)s)")
    parser.add_argument(
        "--pairs", type=int, default=3, help="large courses, each embedded by both systems (%(default)s)"
    )
    parser.add_argument("--courses", type=int, default=100, help="small courses in one backfill (%(default)s)")
    parser.add_argument("--small-chunks", type=int, default=30, help="chunks of each small course (%(default)s)")
    parser.add_argument("--single", type=int, default=10, help="small courses with one run per course (%(default)s)")
    arguments = parser.parse_args()
    out = arguments.out.absolute() if arguments.out else None
    _use_model(arguments.model, parser)
    machine = _machine() | {"load_before": os.getloadavg()}
    with tempfile.TemporaryDirectory(prefix="course-search-") as name, chdir(name):
        directory = Path(name)
        settings = {"DATABASE_URL": f"sqlite:///{directory}/catalogue.db", "CHROMA_DB_DIR": str(directory / "chroma")}
        launcher = LauncherSettings(dagster_home=directory / "dagster", dagster_postgres_url=None)
        with run_product(launcher, {**os.environ, **settings}, chroma_url=None, any_port=True) as product:
            systems = Systems(product, directory)
            figures = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine,
                "versions": {library: version(library) for library in LIBRARIES},
                "model": os.environ["EMBEDDING_MODEL_NAME"],
                "idle_cores": _idle_cores(systems),
                "large": _measure_large(systems, arguments.chunks, arguments.pairs),
                "small": _measure_small(systems, arguments.courses, arguments.small_chunks, arguments.single),
            }
    machine["load_after"] = os.getloadavg()
    _print(figures)
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _idle_cores(systems: Systems) -> float:
    """CPU cores that the product uses while idle, measured after a first course has been embedded."""
    systems.stage_one.write_course("first", 1)
    systems.run_product(["first"], partial(systems.stage_one.finish_ingestion, "first"))
    progress.print("product: idle")
    before = _cpu_seconds()
    time.sleep(IDLE_SECONDS)
    after = _cpu_seconds()
    return round(sum(after[pid] - before[pid] for pid in before.keys() & after.keys()) / IDLE_SECONDS, 3)


def _measure_large(systems: Systems, chunks: int, pairs: int) -> dict[str, Any]:
    """One large course per pair, launched by the sensor, and its copy; then one chunk of the last course changes."""
    stage_one = systems.stage_one
    course_ids = [f"large-{number}" for number in range(pairs)]
    plain, product, copies = [], [], []
    for course_id in course_ids:
        stage_one.write_course(course_id, chunks)
        plain.append(systems.run_plain_script([course_id]))
        product.append(systems.run_product([course_id], partial(stage_one.finish_ingestion, course_id)))
        copy_id = f"copy-of-{course_id}"
        stage_one.copy_course(course_id, copy_id)
        copies.append(systems.run_product([copy_id], partial(stage_one.finish_ingestion, copy_id)))
    changed = systems.run_product([course_ids[-1]], partial(stage_one.edit_a_chunk, course_ids[-1]))
    pairs_of_timings = list(zip(product, plain, strict=True))
    copied = list(zip(copies, product, strict=True))
    return {
        "chunks": chunks,
        "plain_script": [timing.figures() for timing in plain],
        "product": [timing.figures() for timing in product],
        "copy": [timing.figures() for timing in copies],
        "one_chunk_changed": changed.figures(),
        "ratio": _spread([timing.launched_to_done / base.launched_to_done for timing, base in pairs_of_timings]),
        "work_ratio": _spread([timing.work / base.work for timing, base in pairs_of_timings]),
        "copy_ratio": _spread([copy.launched_to_done / first.launched_to_done for copy, first in copied]),
        "copy_work_ratio": _spread([copy.work / first.work for copy, first in copied]),
        "changed_share": round(changed.launched_to_done / product[-1].launched_to_done, 3),
    }


def _measure_small(systems: Systems, courses: int, chunks: int, single: int) -> dict[str, Any]:
    """Many small courses: one run per course, one backfill of all, and the plain script once for all."""
    stage_one, ui = systems.stage_one, systems.ui
    alone = [f"alone-{number:03}" for number in range(single)]
    together = [f"together-{number:03}" for number in range(courses)]
    ui.stop_sensor()  # it would launch the courses first
    for course_id in (*alone, *together):
        stage_one.write_course(course_id, chunks)
        stage_one.finish_ingestion(course_id)
        ui.add_partition(course_id)
    timings = {
        "one run per course": systems.run_product(alone, partial(ui.launch_runs, alone)),
        "one backfill": systems.run_product(together, partial(ui.launch_backfill, together)),
        "plain script": systems.run_plain_script(together),
    }
    plain_work = timings["plain script"].work / courses
    return {
        "chunks": chunks,
        **{name: timing.figures() for name, timing in timings.items()},
        "overhead_per_course": {
            name: round(timing.total / timing.courses - plain_work, 3) for name, timing in timings.items()
        },
    }


def _use_model(model: Path | None, parser: argparse.ArgumentParser) -> None:
    path = model or demo_model_path()
    if path is None:
        parser.error("the demo model is not installed: run `make install`, or give another model with --model")
    override = {"EMBEDDING_MODEL_NAME": path.name} if model else {}
    os.environ.update(demo_model_settings(path.absolute()) | override)


def _machine() -> dict[str, Any]:
    import torch

    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines() if sys.platform == "linux" else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return {
        "python": platform.python_version(),
        "cpu": names[0] if names else platform.processor(),
        "cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    }


def _cpu_seconds() -> dict[int, float]:
    """Process id → CPU seconds used so far, for each process of the product."""
    used = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            used[process.pid] = times.user + times.system
    return used


def _spread(ratios: Sequence[float]) -> dict[str, float]:
    figures = {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)}
    return {name: round(ratio, 3) for name, ratio in figures.items()}


def _print(figures: dict[str, Any]) -> None:
    console = Console(file=sys.stdout, highlight=False)
    large, small = figures["large"], figures["small"]
    tokens = large["plain_script"][0]["tokens"] / large["chunks"]
    table = _table(f"A course of {large['chunks']:,} chunks of {tokens:.0f} tokens, {figures['model']}", "run")
    for plain, product, copy in zip(large["plain_script"], large["product"], large["copy"], strict=True):
        _add_row(table, "plain script", plain, plain["launched_to_done"])
        _add_row(table, "product", product, product["launched_to_done"])
        _add_row(table, f"product, a copy, {copy['texts']} embedded", copy, copy["launched_to_done"])
    changed = large["one_chunk_changed"]
    _add_row(table, f"product again, {changed['texts']} embedded", changed, changed["launched_to_done"])
    console.print(table)
    for name, ratio in (
        ("product / plain script, from launch to done", large["ratio"]),
        ("product / plain script, work", large["work_ratio"]),
        ("copy / first embedding, from launch to done", large["copy_ratio"]),
        ("copy / first embedding, work", large["copy_work_ratio"]),
    ):
        console.print(f"{name}: {ratio['median']:.2f} ({ratio['lowest']:.2f}-{ratio['highest']:.2f})")
    console.print(f"one chunk changed / first embedding: {large['changed_share']:.2f}\n")
    table = _table(f"Many courses of {small['chunks']} chunks", "per course", "overhead")
    for name, overhead in small["overhead_per_course"].items():
        timing = small[name]
        _add_row(table, f"{name}, {timing['courses']}", timing, timing["total"] / timing["courses"], overhead)
    console.print(table)
    console.print(
        "detection: until a run is launched; startup: queue and processes; setup: libraries, model, state;\n"
        "work: read, embed, write; overhead: seconds per course in addition to the plain script's work.\n"
        f"The idle product uses {figures['idle_cores']:.2f} cores, also while the plain script is measured.",
        soft_wrap=True,
    )


def _table(title: str, *columns: str) -> Table:
    table = Table("system", title=f"{title} (seconds)", box=SIMPLE_HEAD)
    for column in ("detection", "startup", "setup", "work", *columns):
        table.add_column(column, justify="right")
    return table


def _add_row(table: Table, name: str, timing: dict[str, Any], *more: float) -> None:
    seconds = [timing[phase] for phase in ("detection", "startup", "setup", "work")]
    table.add_row(name, *(f"{value:,.2f}" for value in (*seconds, *more)))


if __name__ == "__main__":
    main()

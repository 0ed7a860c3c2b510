"""What orchestration costs: the product beside a plain script that does the same work, interleaved in one run.

The plain script (`plain_script.py`) reads the same chunks from the same catalogue, embeds them with the same embedder
in the same batches and writes them to the same Chroma server, with no orchestration at all. Ours is the product as
`make up` starts it: sensors, daemon, a process a run. Both begin with nothing imported and no model loaded. Measured
are a large course, one changed chunk of it, and many small courses. Ratios carry over to other machines, seconds do
not.
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

from benchmarks.pipeline_cost.systems import Ways, progress
from cli.commands.up import running
from cli.launcher_settings import LauncherSettings
from embedding.model_files.demo_model import demo_model_path, demo_model_settings

LIBRARIES = ("dagster", "torch", "transformers", "chromadb")
IDLE_SECONDS = 20.0


def main() -> None:
    """Measure, print tables, and write the same figures to `--out`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--model", type=Path, help="model directory (default: the demo's stand-in)")
    parser.add_argument("--chunks", type=int, default=5000, help="of the large course (%(default)s)")
    parser.add_argument("--pairs", type=int, default=3, help="of plain and ours over a large course (%(default)s)")
    parser.add_argument("--courses", type=int, default=100, help="small ones (%(default)s)")
    parser.add_argument("--small-chunks", type=int, default=30, help="of each small course (%(default)s)")
    parser.add_argument("--single", type=int, default=10, help="small courses that get a run each (%(default)s)")
    arguments = parser.parse_args()
    out = arguments.out.absolute() if arguments.out else None
    _use_model(arguments.model, parser)
    machine = _machine() | {"load_before": os.getloadavg()}
    with tempfile.TemporaryDirectory(prefix="course-search-") as name, chdir(name):
        directory = Path(name)
        own = {"DATABASE_URL": f"sqlite:///{directory}/catalogue.db", "CHROMA_DB_DIR": str(directory / "chroma")}
        launcher = LauncherSettings(dagster_home=directory / "dagster", dagster_postgres_url=None)
        with running(launcher, {**os.environ, **own}, chroma_url=None, any_port=True) as product:
            ways = Ways(product, directory)
            figures = {
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
                "machine": machine,
                "versions": {library: version(library) for library in LIBRARIES},
                "model": os.environ["EMBEDDING_MODEL_NAME"],
                "idle_cores": _idle_cores(ways),
                "large": _measure_large(ways, arguments.chunks, arguments.pairs),
                "small": _measure_small(ways, arguments.courses, arguments.small_chunks, arguments.single),
            }
    machine["load_after"] = os.getloadavg()
    _print(figures)
    if out:
        out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _idle_cores(ways: Ways) -> float:
    """Processor cores the product keeps busy while it has nothing to do; a first course gets everything going."""
    ways.stage_one.write_course("first", 1)
    ways.ours(["first"], partial(ways.stage_one.finish_ingestion, "first"))
    progress.print("ours: idle")
    before = _cpu_seconds()
    time.sleep(IDLE_SECONDS)
    after = _cpu_seconds()
    return round(sum(after[pid] - before[pid] for pid in before.keys() & after.keys()) / IDLE_SECONDS, 3)


def _measure_large(ways: Ways, chunks: int, pairs: int) -> dict[str, Any]:
    """A large course for each pair, found by the sensor once its ingestion is finished; then one chunk changes."""
    stage_one = ways.stage_one
    course_ids = [f"large-{number}" for number in range(pairs)]
    plain, ours = [], []
    for course_id in course_ids:
        stage_one.write_course(course_id, chunks)
        plain.append(ways.plain([course_id]))
        ours.append(ways.ours([course_id], partial(stage_one.finish_ingestion, course_id)))
    changed = ways.ours([course_ids[-1]], partial(stage_one.edit_a_chunk, course_ids[-1]))
    both = list(zip(ours, plain, strict=True))
    return {
        "chunks": chunks,
        "plain": [timing.figures() for timing in plain],
        "ours": [timing.figures() for timing in ours],
        "one_chunk_changed": changed.figures(),
        "ratio": _spread([one.launched_to_done / other.launched_to_done for one, other in both]),
        "work_ratio": _spread([one.work / other.work for one, other in both]),
        "changed_share": round(changed.launched_to_done / ours[-1].launched_to_done, 3),
    }


def _measure_small(ways: Ways, courses: int, chunks: int, single: int) -> dict[str, Any]:
    """Many small courses, launched by hand in the two ways Dagster has, and by the plain script in one go."""
    stage_one, ui = ways.stage_one, ways.ui
    alone = [f"alone-{number:03}" for number in range(single)]
    together = [f"together-{number:03}" for number in range(courses)]
    ui.stop_sensor()  # or it would launch them first
    for course_id in (*alone, *together):
        stage_one.write_course(course_id, chunks)
        stage_one.finish_ingestion(course_id)
        ui.add_partition(course_id)
    timings = {
        "a run each": ways.ours(alone, partial(ui.launch_runs, alone)),
        "one backfill": ways.ours(together, partial(ui.launch_backfill, together)),
        "plain script": ways.plain(together),
    }
    embedding = timings["plain script"].work / courses
    return {
        "chunks": chunks,
        **{way: timing.figures() for way, timing in timings.items()},
        "beyond_the_work": {
            way: round(timing.total / timing.courses - embedding, 3) for way, timing in timings.items()
        },
    }


def _use_model(model: Path | None, parser: argparse.ArgumentParser) -> None:
    path = model or demo_model_path()
    if path is None:
        parser.error("the demo's model is not installed: run `make install`, or name another with --model")
    name = {"EMBEDDING_MODEL_NAME": path.name} if model else {}
    os.environ.update(demo_model_settings(path.absolute()) | name)


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
    """What each process of the product has used so far, by its id."""
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
    tokens = large["plain"][0]["tokens"] / large["chunks"]
    table = _table(f"A course of {large['chunks']:,} chunks of {tokens:.0f} tokens, {figures['model']}", "run")
    for plain, ours in zip(large["plain"], large["ours"], strict=True):
        _add_row(table, "plain script", plain, plain["launched_to_done"])
        _add_row(table, "ours", ours, ours["launched_to_done"])
    changed = large["one_chunk_changed"]
    _add_row(table, f"ours again, {changed['texts']} embedded", changed, changed["launched_to_done"])
    console.print(table)
    for name, ratio in (("from launch to done", large["ratio"]), ("work", large["work_ratio"])):
        console.print(f"ours / plain, {name}: {ratio['median']:.2f} ({ratio['lowest']:.2f}-{ratio['highest']:.2f})")
    console.print(f"one chunk changed / the first time: {large['changed_share']:.2f}\n")
    table = _table(f"Many courses of {small['chunks']} chunks", "a course", "beyond")
    for way, beyond in small["beyond_the_work"].items():
        timing = small[way]
        _add_row(table, f"{way}, {timing['courses']}", timing, timing["total"] / timing["courses"], beyond)
    console.print(table)
    console.print(
        "notice: until a run is launched; start: queue and processes; prepare: libraries, model, state;\n"
        "work: read, embed, write; beyond: what a course takes beyond the plain script's work.\n"
        f"At rest the product keeps {figures['idle_cores']:.2f} cores busy, beside the plain script too.",
        soft_wrap=True,
    )


def _table(title: str, *columns: str) -> Table:
    table = Table("way", title=f"{title} (seconds)", box=SIMPLE_HEAD)
    for column in ("notice", "start", "prepare", "work", *columns):
        table.add_column(column, justify="right")
    return table


def _add_row(table: Table, way: str, timing: dict[str, Any], *more: float) -> None:
    seconds = [timing[name] for name in ("noticing", "starting", "preparing", "work")]
    table.add_row(way, *(f"{value:,.2f}" for value in (*seconds, *more)))


if __name__ == "__main__":
    main()

"""The product of the benchmark: all of its processes, the embedding server, and what they use of the machine."""

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, Self

import dagster as dg
import httpx
import psutil
from sqlalchemy import func, select, text

from benchmarks.pipeline_cost.dagster_ui import DagsterUI
from benchmarks.pipeline_cost.systems import Timing
from benchmarks.scale.courses import MadeUpCourses
from benchmarks.scale.embedding_server import MODEL
from benchmarks.serving import ROOT
from cli.commands.up import run_product
from cli.launcher_settings import LauncherSettings
from cli.processes import Supervisor, free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.files import DATABASE, vector_store_settings
from models.courses import get_course
from models.database import CatalogueSettings, Engine, create_catalogue_engine, transaction
from models.tables import EmbeddingStatus
from orchestration.partitions import JOB, PARTITIONS_NAME, partition_tags

MEGABYTE = 2**20
RUN_SECONDS = 3600.0
"""Longest wait for a run."""
LAUNCH_SECONDS = 180.0
"""After this time, an idle product has no run that could embed a course."""
REQUEST_SECONDS = 300.0
_PARTS = {
    "chroma": "chroma run",
    "search": "cli search-app",
    "daemon": "orchestration.daemon",
    "webserver": "dagster-webserver",
    "run": "multiprocessing.spawn",
}
"""Parts of the product, and what the command line of their process contains."""


@dataclass(frozen=True)
class ScaleProduct:
    """A running product with generated courses."""

    directory: Path
    courses: MadeUpCourses
    engine: Engine
    store: VectorStore
    instance: dg.DagsterInstance
    ui: DagsterUI
    search: httpx.Client

    def fill(self, course_ids: Sequence[str]) -> float:
        """Embed courses by the product's own run, in this process; returns the seconds per course."""
        from orchestration.definitions import defs  # reads the settings of the environment when it is imported

        self.courses.finish_ingestion(course_ids)
        self.instance.add_dynamic_partitions(PARTITIONS_NAME, list(course_ids))
        started = time.perf_counter()
        defs.resolve_job_def(JOB).execute_in_process(
            instance=self.instance,
            tags=partition_tags(course_ids),
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
        )
        return (time.perf_counter() - started) / len(course_ids)

    def run(self, course_ids: Sequence[str]) -> Timing:
        """Embed courses by a backfill, as an operator launches it: in a run of its own process."""
        self.courses.finish_ingestion(course_ids)
        self.instance.add_dynamic_partitions(PARTITIONS_NAME, list(course_ids))
        before = self._generations(course_ids)
        started = time.time()
        self.ui.launch_backfill(course_ids)
        deadline = time.monotonic() + RUN_SECONDS
        while not all(now > then for now, then in zip(self._generations(course_ids), before, strict=True)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{len(course_ids)} courses were not embedded within {RUN_SECONDS:.0f} s")
            if time.time() - started > LAUNCH_SECONDS and self.ui.is_idle():
                raise RuntimeError("The run ended without publishing the courses: is the machine too busy to start it?")
            time.sleep(0.5)
        while not self.ui.is_idle():
            time.sleep(0.2)
        embedded = self.ui.embedded_courses(course_ids, since=started)
        return Timing.from_events(started, embedded, self.ui.runs({course.run_id for course in embedded}))

    def _generations(self, course_ids: Sequence[str]) -> list[int]:
        """The published generation of each course.

        Raises:
            RuntimeError: A course failed.
        """
        with transaction(self.engine) as session:
            rows = [row for course_id in course_ids if (row := get_course(session, course_id))]
            for row in rows:
                if row.embedding_status == EmbeddingStatus.FAILED:
                    raise RuntimeError(f"Course {row.id} failed: {row.embedding_error}")
            return [row.embedding_generation for row in rows]

    def usage(self) -> dict[str, float]:
        """Memory and open files of the parts, and sizes on the disk, in MB."""
        figures: dict[str, float] = {}
        for name, process in self.processes():
            key = f"{name}_rss_mb"
            figures[key] = figures.get(key, 0.0) + process.memory_info().rss / MEGABYTE
            if name in ("chroma", "search"):
                figures[f"{name}_open_files"] = process.num_fds()
        chroma = self.directory / "chroma"
        figures |= {
            "chroma_disk_mb": size_of(chroma),
            "chroma_database_mb": (chroma / DATABASE).stat().st_size / MEGABYTE,
            "snapshots_mb": size_of(self.directory / "snapshots"),
            "catalogue_mb": self._catalogue_bytes() / MEGABYTE,
            "dagster_mb": size_of(self.directory / "dagster"),
        }
        return figures

    def processes(self) -> Iterator[tuple[str, psutil.Process]]:
        """The processes of the product, with the names of their parts."""
        for process in psutil.Process().children(recursive=True):
            try:
                command = " ".join(process.cmdline())
                # the Python process of `vector-store` is no part of Chroma
                name = next((name for name, mark in _PARTS.items() if mark in command), None)
            except psutil.Error:
                continue
            if name:
                yield name, process

    def _catalogue_bytes(self) -> int:
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                size = connection.execute(select(func.pg_database_size(func.current_database()))).scalar_one()
                return int(size)
            pages = connection.execute(text("PRAGMA page_count")).scalar_one()
            return int(pages) * int(connection.execute(text("PRAGMA page_size")).scalar_one())


class PeakMemory:
    """Samples the memory of the product's parts in a `with` block; `peaks` are in MB."""

    def __init__(self, product: ScaleProduct) -> None:
        self._product = product
        self._ended = Event()
        self.peaks: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._sampler = Thread(target=self._sample)
        self._sampler.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._sampler.join()

    def _sample(self) -> None:
        while not self._ended.wait(1.0):
            for name, process in self._product.processes():
                try:
                    memory = process.memory_info().rss / MEGABYTE
                except psutil.Error:
                    continue
                self.peaks[name] = max(self.peaks.get(name, 0.0), memory)


def size_of(directory: Path) -> float:
    """The space that a directory takes on the disk, in MB."""
    total = 0
    for root, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(root, name)).st_blocks * 512  # noqa: PTH118 - many files
            except FileNotFoundError:
                continue
    return total / MEGABYTE


@contextmanager
def running_product(database_url: str | None) -> Iterator[ScaleProduct]:
    """Start the product in a directory of its own, which is deleted at the end.

    Args:
        database_url: An empty PostgreSQL database for the catalogue and for Dagster; None uses SQLite.
    """
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="course-search-")))
        stack.enter_context(chdir(directory))
        port = free_port()
        settings = {
            "DATABASE_URL": database_url or f"sqlite:///{directory}/catalogue.db",
            "CHROMA_DB_DIR": str(directory / "chroma"),
            "CHROMA_MAX_MEMORY_MB": "1000000",  # its growth is measured
            "SNAPSHOT_DIR": str(directory / "snapshots"),
            "DAGSTER_HOME": str(directory / "dagster"),
            "EMBEDDING_SERVICE_URL": f"http://127.0.0.1:{port}",
            "EMBEDDING_MODEL_NAME": MODEL,
            "INTERNAL_TOKEN": "",
            "NO_PROXY": "127.0.0.1",
        }
        stack.enter_context(_environment(settings))
        service = stack.enter_context(Supervisor(directory / "logs", {**os.environ, "PYTHONPATH": str(ROOT)}))
        program = service.start("embedding", [sys.executable, "-m", "benchmarks.scale.embedding_server", str(port)])
        service.wait_ready(program, f"http://127.0.0.1:{port}/v1/models")
        launcher = LauncherSettings(dagster_home=directory / "dagster", dagster_postgres_url=database_url)
        product = stack.enter_context(run_product(launcher, os.environ, chroma_url=None, any_port=True))
        stack.enter_context(_environment({"CHROMA_URL": vector_store_settings().chroma_url}))
        engine = create_catalogue_engine(CatalogueSettings())
        stack.callback(engine.dispose)
        store = VectorStore(vector_store_settings(), patience_seconds=60)
        stack.callback(store.close)
        ui = DagsterUI(product.dagster_url)
        ui.stop_sensor()  # the benchmark launches the runs
        search = stack.enter_context(
            httpx.Client(base_url=product.search_url, trust_env=False, timeout=REQUEST_SECONDS)
        )
        instance = stack.enter_context(dg.DagsterInstance.get())
        yield ScaleProduct(directory, MadeUpCourses(engine), engine, store, instance, ui, search)


@contextmanager
def _environment(settings: Mapping[str, Any]) -> Iterator[None]:
    previous = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in previous.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

"""A running deployment that fault tests act on, and the statements that must hold whatever they did to it."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import dagster as dg
import psutil
import pytest
from sqlalchemy import Engine
from sqlmodel import Session, col, delete, select

from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from embedding.vector_store.indexing import EMBED_BATCH
from embedding.vector_store.server import VectorStoreSettings
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk, Course, EmbeddingStatus, Resource
from orchestration.partitions import PARTITIONS_NAME
from orchestration.runs import courses_of, unfinished_runs
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from tests.support.courses import read_course, write_course
from tests.support.dagster_ui import DagsterUI
from tests.support.parts import Parts
from tests.support.product import wait_until
from tests.support.published import ANY_GENERATION
from tests.support.servers.gated_embedding_service import Gate
from tests.support.servers.postgres import LocalPostgresServer

LIMIT_SECONDS = 240.0
"""Limit of every wait. Nothing takes longer than a minute on an idle machine."""
FEW, MANY = 3, 4 * EMBED_BATCH
"""Chunks of a course; `MANY` take several batches, so that a run can be stopped half way."""
SENSORS = ("stage_one_sensor", "course_status_sensor")
"""The sensors that launch runs and change rows. The third one, `deleted_course_sensor`, does neither."""

POSTGRES = pytest.param("postgres", marks=pytest.mark.postgres)
BACKENDS = ("sqlite", POSTGRES)
on_sqlite = pytest.mark.parametrize("deployment", ["sqlite"], indirect=True)
on_postgres = pytest.mark.parametrize("deployment", [POSTGRES], indirect=True)


@dataclass(frozen=True)
class Deployment:
    """The processes, the catalogue as stage one sees it, Dagster's instance, and the gate of the embedding service."""

    parts: Parts
    engine: Engine
    dagster: dg.DagsterInstance
    postgres: LocalPostgresServer | None
    gate: Gate

    @property
    def ui(self) -> DagsterUI:
        return DagsterUI(self.parts.dagster_url)

    # Stage one and its users

    def write(self, course_id: str, chunks: int = FEW, edition: str = "first", status: str = "succeeded") -> None:
        """Write a course as stage one does; chunks of an earlier edition are deleted."""
        write_course(self.engine, course_id, texts(course_id, chunks, edition), [status])

    def delete_course(self, course_id: str) -> None:
        """Delete a course with its chunks and resources."""
        with Session(self.engine) as session:
            for table, owner in ((Chunk, Chunk.course_id), (Resource, Resource.course_id), (Course, Course.id)):
                session.exec(delete(table).where(col(owner) == course_id))
            session.commit()

    def request(self, course_id: str) -> None:
        """POST /courses/{course_id}/embed."""
        response = self.parts.search.post(f"/courses/{course_id}/embed")
        assert response.json() == {"status": "embedding_started"}, response.text

    def rebuild(self, course_id: str) -> None:
        """`course-search rebuild COURSE`."""
        finished = self.parts.run("rebuild", course_id, "--yes")
        assert finished.returncode == 0, finished.stderr

    def add_partitions(self, *course_ids: str) -> None:
        """Add the partitions of courses that do not exist yet."""
        self.dagster.add_dynamic_partitions(PARTITIONS_NAME, list(course_ids))

    # Runs

    def launch(self, *course_ids: str, chunks: Mapping[str, int] | None = None) -> str:
        """Launch one run for new courses as an operator does; returns its id.

        The courses are written after the launch, so the sensor launches no run for them.
        """
        self.add_partitions(*course_ids)
        run_id = self.ui.materialize(course_ids[0], course_ids[-1] if len(course_ids) > 1 else None)
        for course_id in course_ids:
            self.write(course_id, (chunks or {}).get(course_id, MANY))
        return run_id

    def freeze_half_way(self, course_id: str, start: Callable[[], object]) -> psutil.Process:
        """Start a run and stop its worker (SIGSTOP) while it waits for the vectors of its third batch.

        Args:
            course_id: The course, with `MANY` chunks.
            start: Causes the run.
        """
        self.gate.close_after(2)
        start()
        wait_until(lambda: self.gate.holds, LIMIT_SECONDS, lambda: self.history(course_id))
        wait_until(lambda: self.row(course_id).embedding_progress > 0, LIMIT_SECONDS, lambda: self.history(course_id))
        worker = self.worker(self.row(course_id).embedding_run_id or "")
        assert worker is not None, self.history(course_id)
        worker.suspend()
        self.gate.open()
        row = self.row(course_id)
        assert (row.embedding_status, 0 < row.embedding_progress < 1) == (EmbeddingStatus.RUNNING, True), f"{row!r}"
        return worker

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.dagster.get_run_by_id(run_id)
        assert run is not None, f"no run {run_id}"
        return run

    def runs_of(self, course_id: str) -> list[dg.DagsterRun]:
        """All runs of the course, newest first."""
        launched = courses_of(self.dagster.get_runs(), self.dagster)
        return [each.run for each in launched if course_id in each.course_ids]

    def worker(self, run_id: str) -> psutil.Process | None:
        """The live process that executes a run."""
        for entry in self.dagster.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            if started := re.match(r"Started process for run \(pid: (\d+)\)", entry.message):
                with suppress(psutil.NoSuchProcess):
                    worker = psutil.Process(int(started[1]))
                    return worker if worker.status() != psutil.STATUS_ZOMBIE else None
        return None

    @contextmanager
    def settings(self, **values: str) -> Iterator[None]:
        """Change settings that are read again at every use, in the file `.env` of the running processes."""
        file = self.parts.directory / ".env"
        file.write_text("".join(f"{name}={value}\n" for name, value in values.items()))
        try:
            yield
        finally:
            file.unlink()

    # Waiting

    def wait_for(self, course_id: str, status: str, *, after: int = -1) -> Course:
        """The row once it has the status and a generation greater than `after`."""

        def reached() -> bool:
            row = self.row(course_id)
            return row.embedding_status == status and row.embedding_generation > after

        wait_until(reached, LIMIT_SECONDS, lambda: self.history(course_id))
        return self.row(course_id)

    def wait_for_stale_answer(self, course_id: str) -> None:
        """Wait until a search of the course answers by an older generation."""

        def answers() -> bool:
            body = {"query": "database index", "method": "keyword"}
            return self.parts.search.post(f"/courses/{course_id}/search", json=body).json().get("stale") is True

        wait_until(answers, LIMIT_SECONDS, lambda: self.history(course_id))

    def wait_for_end(self, run_id: str) -> dg.DagsterRunStatus:
        """The final status of a run."""
        wait_until(lambda: self.run(run_id).is_finished, LIMIT_SECONDS, lambda: f"{self.run(run_id)}")
        return self.run(run_id).status

    def wait_until_idle(self) -> None:
        """Wait until all runs have ended, also Dagster's automatic retries."""
        wait_until(lambda: not unfinished_runs(self.dagster), LIMIT_SECONDS, lambda: f"{unfinished_runs(self.dagster)}")

    def wait_for_log(self, run_id: str, pattern: str) -> None:
        """Wait until the stderr of a run's worker contains the pattern."""
        directory = self.parts.directory / "data" / "dagster" / "storage" / run_id

        def log() -> str:
            return "".join(path.read_text() for path in directory.rglob("*.err"))

        wait_until(lambda: re.search(pattern, log()) is not None, LIMIT_SECONDS, lambda: f"{pattern!r} not in {log()}")

    def wait_for_ticks(self) -> None:
        """Wait until both sensors have ticked twice. By then they have reacted to the current state."""
        for _ in range(2):
            self._wait_for_ticks_since(time.time())

    def _wait_for_ticks_since(self, moment: float) -> None:
        for sensor in SENSORS:
            ticked = partial(lambda name: self.ui.last_tick(name) >= moment, sensor)
            wait_until(ticked, LIMIT_SECONDS, partial("no tick of {}".format, sensor))

    # Faults

    def kill_everything(self) -> None:
        """`kill -9` of every process, also of the database server."""
        self.parts.kill_everything()
        if self.postgres is not None:
            postmaster = psutil.Process(self.postgres.pid)
            processes = [postmaster, *postmaster.children(recursive=True)]
            for process in processes:
                with suppress(psutil.NoSuchProcess):  # it ended with the postmaster
                    process.kill()
            psutil.wait_procs(processes)

    def start_everything(self) -> None:
        if self.postgres is not None:
            self.postgres.start()
        self.parts.start()

    # What is stored

    def row(self, course_id: str) -> Course:
        return read_course(self.engine, course_id)

    def assert_state(self, course_id: str, status: str, error: str | None = None) -> None:
        """The row has this status and error. If `done`, collection and snapshot hold exactly its chunks."""
        row = self.row(course_id)
        assert (row.embedding_status, row.embedding_error) == (status, error), self.history(course_id)
        if status == EmbeddingStatus.DONE:
            chunks = self.chunks(course_id)
            published = CourseFingerprint.parse(row.embedding_fingerprint)
            assert published is not None
            content = FingerprintBuilder(EmbeddingSettings().context).add_all([chunks])
            assert published == content.build(published.model), "other chunks"
            assert row.embedding_progress == 1.0
            assert self.documents(course_id) == {chunk.id: chunk.text for chunk in chunks}
            assert self.snapshot_chunk_ids(course_id, published) == sorted(chunk.id for chunk in chunks)
            assert self.parts.ask(course_id, "database index", top_k=1)[0]["text"] in {chunk.text for chunk in chunks}

    def assert_nothing_runs_unattended(self) -> None:
        """Every started run has a process, and every running or pending course has an unfinished run."""
        unfinished = {run.run_id: run for run in unfinished_runs(self.dagster)}
        for run in unfinished.values():
            if run.status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING):
                assert self.worker(run.run_id), f"{run} has no process"
        with Session(self.engine) as session:
            for course in session.exec(select(Course)):
                if course.embedding_status in (EmbeddingStatus.RUNNING, EmbeddingStatus.PENDING):
                    assert course.embedding_run_id in unfinished, self.history(course.id)

    def chunks(self, course_id: str) -> list[Chunk]:
        with Session(self.engine) as session:
            return list(session.exec(select(Chunk).where(Chunk.course_id == course_id).order_by(Chunk.id)))

    def documents(self, course_id: str) -> Mapping[str, str] | None:
        """Texts in the collection by chunk id; None if there is no collection."""
        settings = VectorStoreSettings(chroma_url=self.parts.env["CHROMA_URL"])
        with closing(VectorStore(settings)) as store:
            try:
                pages = list(store.open(course_id).contents())
            except CollectionNotFoundError:
                return None
        return {record.chunk_id: record.text for records, _ in pages for record in records}

    def snapshot_chunk_ids(self, course_id: str, published: CourseFingerprint) -> list[str]:
        """Ids of the chunks in the published snapshot."""
        store = SnapshotStore(SnapshotSettings(snapshot_dir=self.parts.directory / "data" / "snapshots"))
        return list(store.open(course_id, published, ANY_GENERATION).chunk_ids)

    def history(self, course_id: str) -> str:
        """The row and the last events of its runs, for the message of a failed test."""
        runs = [
            (run.run_id, run.status.value, [entry.message for entry in self.dagster.all_logs(run.run_id)][-3:])
            for run in self.runs_of(course_id)
        ]
        return f"{self.row(course_id)!r}\n{runs}"


def texts(course_id: str, chunks: int, edition: str) -> dict[str, str]:
    """The texts of a course by chunk id. Neither courses nor editions share a text, so each text must be embedded."""
    words = {
        "first": "copper thickness micrometer",
        "second": "gradient descent learning rate",
        "third": "plant cell sugar light",
    }[edition]
    return {
        f"{course_id}-{number:04}": f"{words} {number} of {course_id}. "
        + "The database keeps an index of every row. " * 3
        for number in range(chunks)
    }

"""A running product with a hand on everything it consists of, and what must be true of it whatever that hand did."""

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import dagster as dg
import psutil
import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import OperationalError
from sqlmodel import Session, col, delete, select

from embedding.vector_store.collection_names import collection_name
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk, Course, EmbeddingStatus, Resource
from orchestration.partitions import NAME
from orchestration.runs import courses_of
from retrieval.keywords.store import KeywordSettings, KeywordStore
from tests.support.courses import read_course, write_course
from tests.support.dagster_ui import DagsterUI
from tests.support.parts import Parts
from tests.support.postgres import LocalPostgresServer
from tests.support.product import wait_until

PATIENCE = 240.0
"""Within a minute of the parts being back every row says what is so; a busy machine may take longer."""
TICKS = 12.0
"""Every sensor has ticked twice, so what has not happened by itself will not."""
FEW, MANY = 3, 640
"""Chunks of a course at rest, and of one that is to be caught half way: ten pages."""

sqlite_only = pytest.mark.parametrize("world", ["sqlite"], indirect=True)
postgres_only = pytest.mark.parametrize("world", [pytest.param("postgres", marks=pytest.mark.postgres)], indirect=True)

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class World:
    """The parts, stage one's view of the catalogue, and Dagster's instance."""

    parts: Parts
    engine: Engine
    dagster: dg.DagsterInstance
    postgres: LocalPostgresServer | None

    @property
    def ui(self) -> DagsterUI:
        return DagsterUI(self.parts.dagster_url)

    def write(self, course_id: str, chunks: int = FEW, edition: str = "first", status: str = "succeeded") -> None:
        """Write a course as stage one does, or replace what it holds."""
        write_course(self.engine, course_id, texts(course_id, chunks, edition), [status])

    def remove(self, course_id: str) -> None:
        """Delete a course with all that stage one has of it."""
        with Session(self.engine) as session:
            for table, owner in ((Chunk, Chunk.course_id), (Resource, Resource.course_id), (Course, Course.id)):
                session.exec(delete(table).where(col(owner) == course_id))
            session.commit()

    def ask_for(self, course_id: str) -> None:
        """POST /embed."""
        response = self.parts.search.post(f"/courses/{course_id}/embed")
        assert response.json() == {"status": "embedding_started"}, response.text

    def row(self, course_id: str) -> Course:
        return read_course(self.engine, course_id)

    def add_partitions(self, *course_ids: str) -> None:
        """Partitions of courses that are yet to come."""
        self.dagster.add_dynamic_partitions(NAME, list(course_ids))

    def begin(self, *course_ids: str, chunks: Mapping[str, int] = MappingProxyType({})) -> str:
        """Launch one run of courses that did not exist until then, with much to embed in each; returns its id.

        The courses are written while the run waits or starts: the sensor leaves them to it.
        """
        self.add_partitions(*course_ids)
        run_id = self.ui.materialize(course_ids[0]) if len(course_ids) == 1 else self._backfill(*course_ids)
        for course_id in course_ids:
            self.write(course_id, chunks.get(course_id, MANY))
        return run_id

    def wait_for(self, course_id: str, status: str, seconds: float = PATIENCE, *, after: int = -1) -> Course:
        """The row, once it has the status and a later generation than `after`."""

        def is_so() -> bool:
            row = self.row(course_id)
            return row.embedding_status == status and row.embedding_generation > after

        wait_until(is_so, seconds, lambda: self.story(course_id))
        return self.row(course_id)

    def wait_for_end(self, run_id: str) -> dg.DagsterRunStatus:
        """How a run ended, once it has."""
        wait_until(lambda: self.run(run_id).is_finished, PATIENCE, lambda: f"{self.run(run_id)}")
        return self.run(run_id).status

    def run(self, run_id: str) -> dg.DagsterRun:
        run = self.dagster.get_run_by_id(run_id)
        assert run is not None, f"no run {run_id}"
        return run

    def runs_of(self, course_id: str) -> list[dg.DagsterRun]:
        """Every run of the course there has been, the latest first."""
        return [run for run, course_ids in courses_of(self.dagster.get_runs(), self.dagster) if course_id in course_ids]

    def unfinished_runs(self) -> dict[str, dg.DagsterRun]:
        return {run.run_id: run for run in self.dagster.get_runs(dg.RunsFilter(statuses=UNFINISHED))}

    def cut_power(self) -> None:
        """`kill -9` of every process, the database's too."""
        self.parts.kill_everything()
        if self.postgres is not None:
            postmaster = psutil.Process(self.postgres.pid)
            processes = [postmaster, *postmaster.children(recursive=True)]
            for process in processes:
                process.kill()
            psutil.wait_procs(processes)

    def restore_power(self) -> None:
        """Start every part again."""
        if self.postgres is not None:
            self.postgres.start()
        self.parts.start()

    def worker(self, run_id: str) -> psutil.Process | None:
        """The process that works on a run, if it lives."""
        for entry in self.dagster.all_logs(run_id, of_type=dg.DagsterEventType.ENGINE_EVENT):
            if started := re.match(r"Started process for run \(pid: (\d+)\)", entry.message):
                with suppress(psutil.NoSuchProcess):
                    worker = psutil.Process(int(started[1]))
                    return worker if worker.status() != psutil.STATUS_ZOMBIE else None
        return None

    def freeze(self, course_id: str) -> psutil.Process:
        """Stop the worker that embeds a course half way: some of its pages are written, some are not."""
        self.wait_for(course_id, EmbeddingStatus.RUNNING)  # it loads the model first, which leaves time to look it up
        worker = self.worker(self.row(course_id).embedding_run_id or "")
        assert worker is not None, self.story(course_id)
        wait_until(lambda: self._is_half_way(course_id), PATIENCE, lambda: self.story(course_id), every=0.02)
        worker.suspend()
        while self._is_in_a_transaction(worker, course_id):  # to be frozen in a transaction would be another fault
            worker.resume()
            time.sleep(0.02)
            worker.suspend()
        assert self._is_half_way(course_id), f"the worker was too quick: make MANY larger. {self.story(course_id)}"
        return worker

    def assert_true(self, course_id: str, status: str, error: str | None = None) -> None:
        """The row says so, and it is so: of a course that is `done`, the collection holds its chunks and no others."""
        row = self.row(course_id)
        assert (row.embedding_status, row.embedding_error) == (status, error), self.story(course_id)
        if status == EmbeddingStatus.DONE:
            chunks = self.chunks(course_id)
            published = CourseFingerprint.parse(row.embedding_fingerprint)
            assert published is not None
            assert published == FingerprintBuilder().add_all([chunks]).build(published.model), "other chunks"
            assert row.embedding_progress == 1.0
            assert self.documents(course_id) == {chunk.id: chunk.text for chunk in chunks}
            assert self.keywords(course_id, published) == sorted(chunk.id for chunk in chunks)
            assert self.parts.ask(course_id, "database index", top_k=1)[0]["text"] in {chunk.text for chunk in chunks}

    def assert_at_rest(self) -> None:
        """Nothing claims to be at work that is not: no run without a process, no course without a run."""
        unfinished = self.unfinished_runs()
        for run in unfinished.values():
            if run.status in (dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING):
                assert self.worker(run.run_id), f"{run} has no process"
        with Session(self.engine) as session:
            for course in session.exec(select(Course)):
                if course.embedding_status in (EmbeddingStatus.RUNNING, EmbeddingStatus.PENDING):
                    assert course.embedding_run_id in unfinished, self.story(course.id)

    def chunks(self, course_id: str) -> list[Chunk]:
        with Session(self.engine) as session:
            return list(session.exec(select(Chunk).where(Chunk.course_id == course_id).order_by(Chunk.id)))

    def documents(self, course_id: str) -> Mapping[str, str] | None:
        """What the collection holds, by chunk id; None where there is no collection."""
        import chromadb

        client = chromadb.HttpClient(port=self.parts.ports["chroma"])
        try:
            found = client.get_collection(collection_name(course_id), embedding_function=None).get(
                include=["documents"]
            )
        except chromadb.errors.NotFoundError:
            return None
        return dict(zip(found["ids"], found["documents"] or [], strict=True))

    def keywords(self, course_id: str, published: CourseFingerprint) -> list[str]:
        """Ids of the chunks in the keyword index of what was published."""
        store = KeywordStore(KeywordSettings(keyword_index_dir=self.parts.directory / "data" / "keywords"))
        return list(store.load(course_id, published.content).chunk_ids)

    def story(self, course_id: str) -> str:
        """All there is to say about a course, for the message of a failed test."""
        runs = [
            (run.run_id, run.status.value, [entry.message for entry in self.dagster.all_logs(run.run_id)][-3:])
            for run in self.runs_of(course_id)
        ]
        return f"{self.row(course_id)!r}\n{runs}"

    def _backfill(self, *course_ids: str) -> str:
        """Backfill neighbouring courses; returns the one run that makes."""
        tags = {"dagster/backfill": self.ui.backfill(*course_ids)}
        wait_until(
            lambda: bool(self.dagster.get_runs(dg.RunsFilter(tags=tags))), PATIENCE, lambda: "no run is launched"
        )
        (run,) = self.dagster.get_runs(dg.RunsFilter(tags=tags))
        assert [list(ids) for _, ids in courses_of([run], self.dagster)] == [list(course_ids)]
        return run.run_id

    def _is_half_way(self, course_id: str) -> bool:
        row = self.row(course_id)
        return row.embedding_status == EmbeddingStatus.RUNNING and 0 < row.embedding_progress < 1

    def _is_in_a_transaction(self, worker: psutil.Process, course_id: str) -> bool:
        if self.engine.dialect.name == "sqlite":  # the catalogue or Dagster's storage: both are files it has locked
            locks = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
            return any(lock[1:5] == ["POSIX", "ADVISORY", "WRITE", str(worker.pid)] for lock in locks)
        try:
            with self.engine.connect() as connection:
                connection.execute(text("SELECT 1 FROM course WHERE id = :id FOR UPDATE NOWAIT"), {"id": course_id})
        except OperationalError:
            return True
        return False


def texts(course_id: str, chunks: int, edition: str) -> dict[str, str]:
    """The texts of a course by chunk id. Every one names its edition, so another edition changes them all."""
    words = {
        "first": "copper thickness micrometer",
        "second": "gradient descent learning rate",
        "third": "plant cell sugar light",
    }[edition]
    return {
        f"{course_id}-{number:04}": f"{words} {number}. " + "The database keeps an index of every row. " * 3
        for number in range(chunks)
    }

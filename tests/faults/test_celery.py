"""Courses are embedded by Celery workers on two machines, with a DAGSTER_HOME each; one of them is killed."""

import os
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest.mock import patch

import dagster as dg
import pytest
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import pack_value
from sqlalchemy import Engine
from sqlmodel import Session, select

from cli.commands.up import COMMAND
from embedding.vector_store.indexing import EMBED_BATCH
from models.database import CatalogueSettings, create_catalogue_engine
from models.tables import Course
from orchestration.celery_app import create_app, queue_is_empty
from orchestration.partitions import COLLECTION
from tests.support.courses import read_course, write_course
from tests.support.parts import Parts, running_parts
from tests.support.product import wait_until
from tests.support.servers.gated_embedding_service import Gate, gated_embedding_service
from tests.support.servers.postgres import server
from tests.support.servers.redis import redis_server
from tests.support.tiny_models import make_tiny_qwen3

COURSES = [f"course-{number:02}" for number in range(50)]
LARGE = COURSES[5]
"""It takes four batches, and its worker is killed in the third one."""
LIMIT_SECONDS = 240.0

pytestmark = [pytest.mark.postgres, pytest.mark.e2e, pytest.mark.timeout(900)]


@dataclass(frozen=True)
class Machines:
    """The machine of the daemon and two of workers."""

    parts: Parts
    engine: Engine
    dagster: dg.DagsterInstance
    gate: Gate
    broker: str
    workers: dict[str, "subprocess.Popen[bytes]"]

    def state(self) -> str:
        """For the message of a failed test."""
        with Session(self.engine) as session:
            courses = [
                (row.id, row.embedding_status, row.embedding_run_id, row.embedding_error)
                for row in session.exec(select(Course))
                if row.embedding_status != "done"
            ]
        runs = [
            (run.run_id, run.status.value, [entry.message for entry in self.dagster.all_logs(run.run_id)][-3:])
            for run in self.dagster.get_runs()
        ]
        return f"{courses}\n{runs}\n{self.parts.logs()}"

    def statuses(self) -> Counter[str]:
        with Session(self.engine) as session:
            return Counter(course.embedding_status for course in session.exec(select(Course)))


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    postgres = server()
    with ExitStack() as stack:
        url, gate = stack.enter_context(gated_embedding_service(make_tiny_qwen3(tmp_path / "model")))
        broker = stack.enter_context(redis_server(tmp_path))
        settings = {"EMBEDDING_SERVICE_URL": url, "CELERY_BROKER_URL": broker}
        for name in ("DATABASE_URL", "DAGSTER_POSTGRES_URL"):
            settings[name] = postgres.create_database()
            stack.callback(postgres.drop_database, settings[name])
        parts = stack.enter_context(running_parts(tmp_path / "daemon", settings, ["chroma"]))
        with patch.dict(os.environ, parts.env):
            instance = stack.enter_context(dg.DagsterInstance.from_config(parts.env["DAGSTER_HOME"]))
        engine = create_catalogue_engine(CatalogueSettings(database_url=settings["DATABASE_URL"]))
        stack.callback(engine.dispose)
        workers = {name: start_worker(parts, tmp_path / name) for name in ("first", "second")}
        for process in workers.values():
            stack.callback(process.wait)
            stack.callback(process.kill)
        yield Machines(parts, engine, instance, gate, broker, dict(workers))


def start_worker(parts: Parts, directory: Path) -> "subprocess.Popen[bytes]":
    """`course-search worker` on a machine of its own: it shares no directory with the others."""
    directory.mkdir()
    env = {name: value for name, value in parts.env.items() if name != "DAGSTER_HOME"}
    with (parts.directory / "data" / "logs" / f"{directory.name}.log").open("wb") as log:
        return subprocess.Popen(
            [*COMMAND, "worker"], cwd=directory, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def test_a_killed_worker_costs_one_batch(machines: Machines) -> None:
    """Everything is published once, and the other worker continues where the killed one was."""
    for course_id in COURSES:
        chunks = 4 * EMBED_BATCH if course_id == LARGE else 2
        texts = {f"{course_id}-{number:03}": f"{course_id}. The database index {number}." for number in range(chunks)}
        write_course(machines.engine, course_id, texts)
    machines.gate.close_after(2, text=LARGE)
    machines.parts.start("daemon")
    wait_until(lambda: machines.gate.holds, LIMIT_SECONDS, machines.state)
    wait_until(lambda: read_course(machines.engine, LARGE).embedding_progress > 0, LIMIT_SECONDS, machines.state)
    killed = read_course(machines.engine, LARGE)
    victim = worker_of(machines, killed.embedding_run_id or "")
    os.killpg(machines.workers.pop(victim).pid, signal.SIGKILL)
    machines.gate.open()
    wait_until(lambda: machines.statuses() == {"done": len(COURSES)}, 2 * LIMIT_SECONDS, machines.state)
    wait_until(lambda: all(run.is_finished for run in machines.dagster.get_runs()), LIMIT_SECONDS, machines.state)

    reason = machines.dagster.all_logs(killed.embedding_run_id or "", of_type=dg.DagsterEventType.RUN_FAILURE)
    assert "no sign of life" in (reason[0].get_dagster_event().message or "")
    with Session(machines.engine) as session:
        assert {course.embedding_generation for course in session.exec(select(Course))} == {1}
    events = machines.dagster.fetch_materializations(COLLECTION, limit=1000).records
    assert sorted(event.partition_key or "" for event in events) == COURSES
    embedded = Counter(text for text in machines.gate.passed if "database" in text)  # and the titles of sections
    again = [text for text, times in embedded.items() if times > 1]
    assert len(embedded) == 4 * EMBED_BATCH + 2 * (len(COURSES) - 1)
    assert len(again) <= EMBED_BATCH
    assert all(LARGE in text for text in again)

    deliver_again(machines)
    [survivor] = machines.workers.values()
    survivor.terminate()
    assert survivor.wait(LIMIT_SECONDS) == 0, machines.parts.logs()
    assert "secret" not in machines.parts.logs()


def worker_of(machines: Machines, run_id: str) -> str:
    """The machine whose worker executes the run: it has the run's log."""
    root = machines.parts.directory.parent
    [name] = [name for name in machines.workers if any((root / name).rglob(run_id))]
    return name


def deliver_again(machines: Machines) -> None:
    """A message that is delivered a second time, as Redis does with those of a killed worker, executes nothing."""
    runs = machines.dagster.get_runs()
    before = [logged(machines, run) for run in runs]
    with create_app(machines.broker) as app:
        for run in runs:
            assert run.job_code_origin is not None
            arguments = ExecuteRunArgs(run.job_code_origin, run.run_id, machines.dagster.get_ref(), True)
            app.tasks["execute_job"].apply_async((pack_value(arguments),))
        wait_until(partial(queue_is_empty, app), LIMIT_SECONDS, machines.state)
    assert [logged(machines, run) for run in runs] == before


def logged(machines: Machines, run: dg.DagsterRun) -> list[str]:
    """What is logged of the run, without the end of its process, which may come after that of the run."""
    messages = [entry.message for entry in machines.dagster.all_logs(run.run_id)]
    return [message for message in messages if not message.startswith("Process for run exited")]

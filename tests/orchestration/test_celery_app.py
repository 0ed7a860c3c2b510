"""What a worker does with the message of a run; tests/faults/test_celery.py has the rest."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import pytest
from celery import Task
from celery.exceptions import Ignore
from celery.result import EagerResult
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import pack_value
from dagster_postgres.utils import DagsterPostgresException
from sqlalchemy.exc import OperationalError

from models.database import DatabaseUnavailableError
from orchestration import celery_app
from orchestration.celery_app import create_app
from tests.orchestration.ticks import create_run


@dg.job
def job() -> None:
    """What a message names."""


class Worker:
    """Takes the message of a run whose databases fail first."""

    def __init__(self, instance: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch) -> None:
        self.dagster_errors: list[Exception] = []
        self.catalogue_errors: list[Exception] = []
        self.run_error: Exception | None = None
        self.silent_after = 0
        """So often the run is claimed by another worker."""
        self.executed = 0
        self._instance = instance
        self._message = pack_value(ExecuteRunArgs(dg.reconstructable(job).get_python_origin(), run.run_id, None))
        self.task: Task = create_app("redis://127.0.0.1:1").tasks["execute_job"]
        monkeypatch.setattr(self.task, "run", self._execute)
        monkeypatch.setattr(dg.DagsterInstance, "get", self._open_instance)
        monkeypatch.setattr(celery_app, "claim_run", self._claim)
        monkeypatch.setattr(celery_app, "BEAT_SECONDS", 0)

    def take_message(self) -> Any:
        return self.task(self._message)

    def deliver(self) -> EagerResult:
        """As the broker does, also when the task asks for it again."""
        return self.task.apply((self._message,))

    @contextmanager
    def _open_instance(self) -> Iterator[dg.DagsterInstance]:
        if self.dagster_errors:
            raise self.dagster_errors.pop(0)
        yield self._instance

    def _claim(self, _: str) -> bool:
        if self.catalogue_errors:
            raise self.catalogue_errors.pop(0)
        self.silent_after -= 1
        return self.silent_after < 0

    def _execute(self, _: Any) -> str:
        self.executed += 1
        if self.run_error:
            raise self.run_error
        return "executed"


@pytest.fixture
def run(instance: dg.DagsterInstance) -> dg.DagsterRun:
    return create_run(instance, {}, dg.DagsterRunStatus.STARTING)


@pytest.fixture
def worker(instance: dg.DagsterInstance, run: dg.DagsterRun, monkeypatch: pytest.MonkeyPatch) -> Worker:
    return Worker(instance, run, monkeypatch)


def test_run_waits_with_its_worker_while_a_database_is_away(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    """A task that fails is acknowledged: its run would be lost, and the worker would take, and lose, the next one."""
    lost_connection = OperationalError("SELECT", {}, Exception("server closed the connection"))
    worker.dagster_errors = [DagsterPostgresException("too many retries for DB connection"), lost_connection]
    worker.catalogue_errors = [DatabaseUnavailableError("the catalogue is away")]
    assert worker.take_message() == "executed"
    assert worker.executed == 1
    assert caplog.text.count("waits for the database") == 3


def test_run_that_has_begun_is_not_begun_again(worker: Worker) -> None:
    worker.run_error = DatabaseUnavailableError("the catalogue is away")
    with pytest.raises(DatabaseUnavailableError):
        worker.take_message()
    assert worker.executed == 1


def test_run_that_ended_while_its_worker_waited_is_ignored(
    instance: dg.DagsterInstance, run: dg.DagsterRun, worker: Worker
) -> None:
    worker.dagster_errors = [DagsterPostgresException("too many retries for DB connection")]
    instance.report_run_failed(run)
    with pytest.raises(Ignore):
        worker.take_message()
    assert worker.executed == 0


def test_message_of_a_claimed_run_comes_again_until_its_worker_is_silent(worker: Worker) -> None:
    """By default Celery drops a message after it has come three times again, which takes less than `LOST_SECONDS`."""
    worker.silent_after = 7
    assert worker.deliver().get() == "executed"

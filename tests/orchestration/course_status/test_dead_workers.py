"""Runs whose worker process has died are ended; other runs are not."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from orchestration.course_status.dead_workers import WORKER_TAG, end_abandoned_runs, register_worker
from orchestration.definitions import defs
from orchestration.partitions import PARTITION_TAG

Status = dg.DagsterRunStatus
WORKER = """
import sys
import dagster as dg
from orchestration.course_status.dead_workers import register_worker
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    register_worker(instance, sys.argv[2])
    print("registered", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that another process can open."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}")
    with dg.DagsterInstance.from_config(str(tmp_path)) as on_disk:
        yield on_disk


def create_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus = Status.STARTED, worker: str = "") -> str:
    tags = {PARTITION_TAG: "1", **({WORKER_TAG: worker} if worker else {})}
    return instance.create_run_for_job(defs.resolve_job_def("embed_course"), tags=tags, status=status).run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@pytest.mark.parametrize(
    ("status", "expected"), [(Status.STARTED, Status.FAILURE), (Status.CANCELING, Status.CANCELED)]
)
def test_a_run_is_ended_after_its_worker_died(
    instance: dg.DagsterInstance, tmp_path: Path, status: dg.DagsterRunStatus, expected: dg.DagsterRunStatus
) -> None:
    run_id = create_run(instance, status)
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, tmp_path, run_id],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"registered\n"
        assert end_abandoned_runs(instance) == []
        worker.kill()
    [line] = end_abandoned_runs(instance)
    assert "The worker process of this run has died" in line
    assert status_of(instance, run_id) == expected
    assert end_abandoned_runs(instance) == []
    assert list((tmp_path / "workers").glob("[!.]*")) == [], "the lock file is deleted"


def test_a_run_with_a_lock_on_another_machine_is_not_ended(instance: dg.DagsterInstance) -> None:
    run_id = create_run(instance)
    instance.add_run_tags(run_id, {WORKER_TAG: f"another-directory/{run_id}"})
    assert end_abandoned_runs(instance) == []


def test_a_retry_is_not_ended_because_of_the_lock_of_its_parent(instance: dg.DagsterInstance) -> None:
    """Dagster copies the tags of the parent, including the worker tag."""
    first = create_run(instance)
    register_worker(instance, first)
    run = instance.get_run_by_id(first)
    assert run is not None
    instance.report_run_failed(run)
    retry = create_run(instance, worker=run.tags[WORKER_TAG].replace(first, f"{first}-dead"))
    assert end_abandoned_runs(instance) == []
    register_worker(instance, retry)
    assert end_abandoned_runs(instance) == []


@pytest.mark.parametrize("status", [Status.STARTED, Status.NOT_STARTED])
def test_a_run_without_a_worker_is_ended_after_the_start_timeout(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    run_id = create_run(instance, status)
    assert end_abandoned_runs(instance) == []
    monkeypatch.setattr("orchestration.course_status.dead_workers.START_TIMEOUT", timedelta(0))
    assert len(end_abandoned_runs(instance)) == 1
    assert status_of(instance, run_id) == Status.FAILURE


def test_runs_of_other_products_and_starting_runs_are_not_ended(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.course_status.dead_workers.START_TIMEOUT", timedelta(0))

    @dg.job
    def job_of_another_product() -> None: ...

    instance.create_run_for_job(job_of_another_product, status=Status.STARTED)
    create_run(instance, Status.STARTING)  # Dagster's run monitoring handles it
    assert end_abandoned_runs(instance) == []

"""Runs whose worker is gone are ended; those whose worker lives, or lives elsewhere, are left alone."""

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
from orchestration.prepared_instance import mark_prepared

Status = dg.DagsterRunStatus
WORKER = """
import sys
import dagster as dg
from orchestration.course_status.dead_workers import register_worker
with dg.DagsterInstance.from_config(sys.argv[1]) as instance:
    register_worker(instance, sys.argv[2])
    print("at work", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """One that another process can open."""
    (tmp_path / "dagster.yaml").write_text("telemetry: {enabled: false}")
    with dg.DagsterInstance.from_config(str(tmp_path)) as on_disk:
        mark_prepared(on_disk)
        yield on_disk


def create_run(instance: dg.DagsterInstance, status: dg.DagsterRunStatus = Status.STARTED, worker: str = "") -> str:
    tags = {PARTITION_TAG: "1", **({WORKER_TAG: worker} if worker else {})}
    return instance.create_run_for_job(defs.resolve_job_def("embed_course"), tags=tags, status=status).run_id


def status_of(instance: dg.DagsterInstance, run_id: str) -> dg.DagsterRunStatus:
    run = instance.get_run_by_id(run_id)
    assert run is not None
    return run.status


@pytest.mark.parametrize(("claimed", "ended"), [(Status.STARTED, Status.FAILURE), (Status.CANCELING, Status.CANCELED)])
def test_a_run_ends_with_the_process_that_works_on_it(
    instance: dg.DagsterInstance, tmp_path: Path, claimed: dg.DagsterRunStatus, ended: dg.DagsterRunStatus
) -> None:
    run_id = create_run(instance, claimed)
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, tmp_path, run_id],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == b"at work\n"
        assert end_abandoned_runs(instance) == []
        worker.kill()
    [line] = end_abandoned_runs(instance)
    assert "The process that worked on this run is gone" in line
    assert status_of(instance, run_id) == ended
    assert end_abandoned_runs(instance) == []
    assert list((tmp_path / "workers").glob("[!.]*")) == [], "its file goes with it"


def test_a_worker_whose_lock_is_elsewhere_is_not_judged(instance: dg.DagsterInstance) -> None:
    run_id = create_run(instance)
    instance.add_run_tags(run_id, {WORKER_TAG: f"another-home/{run_id}"})
    assert end_abandoned_runs(instance) == []


def test_the_retry_of_a_run_is_not_judged_by_the_lock_of_the_first(instance: dg.DagsterInstance) -> None:
    """Dagster copies the tags."""
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
def test_a_run_that_never_begins_its_work_is_ended_after_a_while(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, status: dg.DagsterRunStatus
) -> None:
    run_id = create_run(instance, status)
    assert end_abandoned_runs(instance) == []
    monkeypatch.setattr("orchestration.course_status.dead_workers.START_TIMEOUT", timedelta(0))
    assert len(end_abandoned_runs(instance)) == 1
    assert status_of(instance, run_id) == Status.FAILURE


def test_runs_of_others_and_those_that_dagster_watches_are_not_judged(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.course_status.dead_workers.START_TIMEOUT", timedelta(0))

    @dg.job
    def somebody_elses() -> None: ...

    instance.create_run_for_job(somebody_elses, status=Status.STARTED)
    create_run(instance, Status.STARTING)
    assert end_abandoned_runs(instance) == []

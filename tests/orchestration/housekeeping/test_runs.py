"""The runs of the housekeeping: they are off by default, stay out of the way of courses, and never stay unfinished."""

from collections.abc import Iterator

import dagster as dg
import pytest

from orchestration.definitions import defs
from orchestration.instance.run_launcher import CourseRunLauncher
from orchestration.partitions import HOUSEKEEPING_TAG, JOB
from orchestration.runs import unfinished_runs
from orchestration.workers import register_worker

REPOSITORY = defs.get_repository_def()
JOBS = ["backup", "check", "prune_runs", "refresh_questions"]
every_job = pytest.mark.parametrize("name", JOBS)


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance with our launcher."""
    launcher = {"module": "orchestration.instance.run_launcher", "class": "CourseRunLauncher"}
    with dg.DagsterInstance.local_temp(overrides={"run_launcher": launcher}) as local:
        yield local


def started_run(instance: dg.DagsterInstance, name: str) -> dg.DagsterRun:
    return instance.create_run_for_job(defs.resolve_job_def(name), status=dg.DagsterRunStatus.STARTED)


def test_every_schedule_is_off_and_described() -> None:
    assert {schedule.job_name for schedule in REPOSITORY.schedule_defs} == set(JOBS)
    for schedule in REPOSITORY.schedule_defs:
        assert schedule.default_status == dg.DefaultScheduleStatus.STOPPED
        assert schedule.description
        assert schedule.owners


@every_job
def test_a_job_is_described_and_needs_no_gpu(name: str) -> None:
    job = defs.resolve_job_def(name)
    assert job.description
    assert job.owners
    assert job.tags[HOUSEKEEPING_TAG] == name
    [op] = job.nodes
    assert isinstance(op.definition, dg.OpDefinition)
    assert op.definition.pool is None


@every_job
def test_the_sensors_do_not_take_a_run_for_one_of_a_course(instance: dg.DagsterInstance, name: str) -> None:
    started_run(instance, name)
    course_run = started_run(instance, JOB)
    assert [run.run_id for run in unfinished_runs(instance)] == [course_run.run_id]


def test_a_run_ends_if_its_worker_died_but_not_if_it_takes_long(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every crash of the machine would leave a run that keeps one of the slots."""
    monkeypatch.setenv("WORKER_STALL_SECONDS", "1e-9")
    run_id = started_run(instance, "backup").run_id
    worker = register_worker(instance, run_id)
    launcher = instance.run_launcher
    assert isinstance(launcher, CourseRunLauncher)

    def check_health() -> dg.DagsterRunStatus:
        run = instance.get_run_by_id(run_id)
        assert run is not None
        launcher.check_run_worker_health(run)
        run = instance.get_run_by_id(run_id)
        assert run is not None
        return run.status

    assert [check_health(), check_health()] == [dg.DagsterRunStatus.STARTED] * 2
    worker.path.unlink()
    assert check_health() == dg.DagsterRunStatus.FAILURE

"""The run launcher ends runs whose worker died or makes no progress, and reports all other runs as running."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from signal import SIGKILL

import dagster as dg
import pytest

from models.database import DatabaseUnavailableError
from models.run_workers import Beat
from orchestration.instance.run_launcher import CourseRunLauncher
from orchestration.partitions import COLLECTION, FILES_JOB, SNAPSHOT
from orchestration.ui_metadata import CHECK_SPECS
from orchestration.workers import WORKER_TAG
from tests.orchestration.ticks import create_asset_run, create_run
from tests.orchestration.uploaded_files.uploads import create_run as create_files_run
from tests.orchestration.worker_processes import instance_on_disk, worker_process

Status = dg.DagsterRunStatus


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_on_disk(tmp_path) as on_disk:
        yield on_disk


@pytest.fixture
def _no_start_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has not registered is late at once."""
    monkeypatch.setattr("orchestration.instance.run_launcher.START_SECONDS", -1)


class Clock:
    """The clock of the run launcher."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    monkeypatch.setenv("WORKER_STALL_SECONDS", "10")
    clock = Clock()
    monkeypatch.setattr("orchestration.heartbeats.time", clock)
    return clock


def start(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    """Report that the process of the run has started."""
    instance.report_dagster_event(dg.DagsterEvent(dg.DagsterEventType.RUN_START.value, run.job_name), run.run_id)
    return reload(instance, run)


def started(instance: dg.DagsterInstance, **tags: str) -> dg.DagsterRun:
    """A run of our job whose process has started."""
    return start(instance, create_run(instance, tags, Status.STARTING))


def reload(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    reloaded = instance.get_run_by_id(run.run_id)
    assert reloaded is not None
    return reloaded


def check_health(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    """Check the worker as Dagster's run monitoring does; returns the run afterwards."""
    launcher = instance.run_launcher
    assert isinstance(launcher, CourseRunLauncher)
    assert launcher.supports_check_run_worker_health
    health = launcher.check_run_worker_health(reload(instance, run))
    assert health.status.value == "RUNNING", "Dagster would add its own words to the reason of any other answer"
    return reload(instance, run)


def failure_of(instance: dg.DagsterInstance, run: dg.DagsterRun) -> str:
    [event] = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    return event.get_dagster_event().message or ""


def test_a_living_worker_is_running(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started(instance)
    with worker_process(tmp_path, run.run_id):
        for _ in range(2):
            assert check_health(instance, run).status == Status.STARTED


def test_the_run_of_a_dead_worker_is_failed_with_the_reason(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = started(instance)
    with worker_process(tmp_path, run.run_id) as worker:
        worker.kill()
    assert check_health(instance, run).status == Status.FAILURE
    assert failure_of(instance, run).startswith("The worker process of this run has died, for example because")
    check_health(instance, run)
    assert failure_of(instance, run), "a run that has ended is not ended again"


def test_a_worker_that_finishes_no_batch_is_killed_after_the_limit(
    instance: dg.DagsterInstance, tmp_path: Path, clock: Clock
) -> None:
    run = started(instance)
    with worker_process(tmp_path, run.run_id) as worker:
        check_health(instance, run)
        for _ in range(2):
            clock.now += 9
            worker.beat()
            assert check_health(instance, run).status == Status.STARTED, "every batch starts the limit again"
        worker.suspend()
        clock.now += 10
        assert check_health(instance, run).status == Status.STARTED
        clock.now += 1
        assert check_health(instance, run).status == Status.FAILURE
        assert worker.exit_code() == -SIGKILL
    assert "finished no batch for 10 s (WORKER_STALL_SECONDS), so it was killed" in failure_of(instance, run)


@pytest.mark.usefixtures("_no_start_timeout")
def test_a_run_on_another_machine_is_left_to_it(instance: dg.DagsterInstance) -> None:
    run = started(instance)
    instance.add_run_tags(run.run_id, {WORKER_TAG: f"another-directory/{run.run_id}"})
    assert check_health(instance, run).status == Status.STARTED


def elsewhere(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, beats: list[Beat | None]) -> dg.DagsterRun:
    """A run whose worker is on another machine; its heartbeats are the first of `beats`, and None is an outage."""

    def last_beat(_launcher: CourseRunLauncher, _run: dg.DagsterRun) -> Beat:
        if beats[0] is None:
            raise DatabaseUnavailableError
        return beats[0]

    monkeypatch.setattr(CourseRunLauncher, "_last_beat", last_beat)
    run = started(instance)
    instance.add_run_tags(run.run_id, {WORKER_TAG: f"another-directory/{run.run_id}"})
    return run


NOW = datetime.now(UTC)


def test_a_worker_on_another_machine_is_lost_if_it_gives_no_sign_of_life(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    """An outage of the database, and of the daemon itself, is not counted."""
    monkeypatch.setenv("WORKER_STALL_SECONDS", "1000")
    beats: list[Beat | None] = [Beat(NOW, 1)]
    run = elsewhere(instance, monkeypatch, beats)
    check_health(instance, run)
    clock.now += 10
    beats[0] = Beat(NOW + timedelta(seconds=10), 1)
    check_health(instance, run)
    beats.insert(0, None)
    for _ in range(20):
        clock.now += 5
        assert check_health(instance, run).status == Status.STARTED
    del beats[0]
    clock.now += 900
    for _ in range(4):
        assert check_health(instance, run).status == Status.STARTED
        clock.now += 5
    assert check_health(instance, run).status == Status.FAILURE
    assert "no sign of life for 30 s" in failure_of(instance, run)


def test_a_worker_on_another_machine_that_lives_but_finishes_no_batch_is_ended(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    beats: list[Beat | None] = [Beat(NOW, 1)]
    run = elsewhere(instance, monkeypatch, beats)
    check_health(instance, run)
    for second in (5, 10):
        clock.now += 5
        beats[0] = Beat(NOW + timedelta(seconds=second), 1)
        assert check_health(instance, run).status == Status.STARTED
    clock.now += 1
    assert check_health(instance, run).status == Status.FAILURE
    assert "WORKER_STALL_SECONDS" in failure_of(instance, run)


@pytest.mark.usefixtures("_no_start_timeout")
def test_a_run_of_another_job_is_always_running(instance: dg.DagsterInstance) -> None:
    @dg.job
    def job_of_another_program() -> None: ...

    job = instance.create_run_for_job(job_of_another_program, tags={"dagster/partition": "1"}, status=Status.STARTING)
    assets = create_asset_run(instance, {}, Status.STARTING, assets=[dg.AssetKey("asset_of_another_program")])
    for run in (job, assets):
        assert check_health(instance, start(instance, run)).status == Status.STARTED


@pytest.mark.parametrize(
    "create",
    [
        pytest.param(create_run, id="job"),
        pytest.param(partial(create_asset_run, assets=[SNAPSHOT]), id="snapshot"),
        pytest.param(partial(create_asset_run, assets=[COLLECTION, SNAPSHOT]), id="both assets"),
        pytest.param(partial(create_asset_run, checks=[CHECK_SPECS[0].key]), id="a check"),
    ],
)
def test_a_run_that_does_not_reach_its_first_step_is_failed(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, create: Callable[..., dg.DagsterRun]
) -> None:
    run = start(instance, create(instance, {}, Status.STARTING))
    assert check_health(instance, run).status == Status.STARTED
    monkeypatch.setattr("orchestration.instance.run_launcher.START_SECONDS", -1)
    assert check_health(instance, run).status == Status.FAILURE
    assert "did not reach its first step in time" in failure_of(instance, run)


def test_a_re_executed_run_is_not_taken_for_the_run_whose_tags_it_has(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    parent = started(instance)
    with worker_process(tmp_path, parent.run_id) as worker:
        worker.kill()
    again = started(instance, **reload(instance, parent).tags)
    assert check_health(instance, again).status == Status.STARTED


def test_a_suspended_worker_of_a_terminated_run_is_killed(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """It heeds no signal but SIGKILL, and would keep the device and the run's place in the queue."""
    run = started(instance)
    with worker_process(tmp_path, run.run_id) as worker:
        worker.suspend()
        assert instance.run_launcher.terminate(run.run_id)
        assert worker.exit_code() == -SIGKILL
    assert reload(instance, run).status == Status.CANCELED


def test_a_worker_that_is_not_suspended_is_left_to_dagster_to_terminate(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = started(instance)
    with worker_process(tmp_path, run.run_id) as worker:
        assert not instance.run_launcher.terminate(run.run_id), "this test has no code server to ask"
        worker.beat()
    assert reload(instance, run).status == Status.CANCELING


def test_a_run_without_worker_and_a_finished_run_can_be_terminated(instance: dg.DagsterInstance) -> None:
    run = started(instance)
    assert not instance.run_launcher.terminate(run.run_id)
    instance.report_run_canceled(reload(instance, run))
    assert not instance.run_launcher.terminate(run.run_id)
    assert not instance.run_launcher.terminate("a run that was deleted")


@dg.job(name=FILES_JOB)
def job_of_stage_one() -> None:
    """Stage one's job with the name of ours, in another code location of the same instance."""


@pytest.mark.usefixtures("_no_start_timeout")
def test_runs_that_read_files_are_supervised_but_not_those_of_stage_one(
    instance: dg.DagsterInstance, tmp_path: Path, clock: Clock
) -> None:
    ours, late = (start(instance, create_files_run(instance, {}, {}, Status.STARTING)) for _ in range(2))
    foreign = start(instance, instance.create_run_for_job(job_of_stage_one, status=Status.STARTING))
    assert check_health(instance, foreign).status == Status.STARTED
    assert check_health(instance, late).status == Status.FAILURE
    with worker_process(tmp_path, ours.run_id) as worker:
        assert check_health(instance, ours).status == Status.STARTED
        clock.now += 11
        assert check_health(instance, ours).status == Status.FAILURE
        assert worker.exit_code() == -SIGKILL
    assert "WORKER_STALL_SECONDS" in failure_of(instance, ours)

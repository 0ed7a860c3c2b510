"""The file that a worker locks: it shows whether the process lives and when it last finished a batch."""

import fcntl
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from orchestration.workers import WORKER_TAG, Worker, has_worker, register_worker, worker_of
from tests.orchestration.ticks import create_run
from tests.orchestration.worker_processes import instance_on_disk, worker_process


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    with instance_on_disk(tmp_path) as on_disk:
        yield on_disk


def reload(instance: dg.DagsterInstance, run: dg.DagsterRun) -> dg.DagsterRun:
    reloaded = instance.get_run_by_id(run.run_id)
    assert reloaded is not None
    return reloaded


def known_worker(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Worker:
    worker = worker_of(instance, reload(instance, run))
    assert worker is not None
    return worker


def lock_files(directory: Path) -> list[str]:
    return [path.name for path in (directory / "workers").glob("[!.]*")]


def test_a_worker_lives_until_its_process_ends(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    run = create_run(instance, {})
    assert not has_worker(run)
    assert worker_of(instance, run) is None
    with worker_process(tmp_path, run.run_id) as process:
        worker = known_worker(instance, run)
        assert worker.process_id() == process.pid
        assert worker.process_id() == process.pid, "asking does not take the lock"
        before = worker.last_beat()
        process.beat()
        after = worker.last_beat()
        assert before is not None
        assert after is not None
        assert after > before
        process.kill()
        assert (worker.process_id(), worker.last_beat()) == (None, None)


def test_two_processes_can_ask_for_a_dead_worker_at_the_same_time(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    """The daemon checks the workers while the webserver terminates a run."""
    path = tmp_path / "dead"
    path.write_text("1")
    with path.open() as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert Worker(path).process_id() is None


def test_the_tag_of_another_run_or_machine_names_no_worker(instance: dg.DagsterInstance) -> None:
    run = create_run(instance, {})
    register_worker(instance, run.run_id)
    tag = reload(instance, run).tags[WORKER_TAG]
    copied = create_run(instance, {WORKER_TAG: tag})
    assert not has_worker(copied), "Dagster copies the tags to a run that is executed again"
    assert worker_of(instance, copied) is None
    elsewhere = create_run(instance, {})
    instance.add_run_tags(elsewhere.run_id, {WORKER_TAG: f"another-directory/{elsewhere.run_id}"})
    elsewhere = reload(instance, elsewhere)
    assert has_worker(elsewhere)
    assert worker_of(instance, elsewhere) is None


def test_a_run_that_is_executed_again_registers_its_own_worker(instance: dg.DagsterInstance) -> None:
    parent = create_run(instance, {})
    register_worker(instance, parent.run_id)
    again = create_run(instance, reload(instance, parent).tags)
    register_worker(instance, again.run_id)
    assert has_worker(reload(instance, again))


def test_files_of_finished_runs_are_deleted_by_the_next_worker(instance: dg.DagsterInstance, tmp_path: Path) -> None:
    runs = [create_run(instance, {}) for _ in range(3)]
    for run in runs[:2]:
        with worker_process(tmp_path, run.run_id):
            pass
    assert sorted(lock_files(tmp_path)) == sorted(run.run_id for run in runs[:2]), "their runs are not finished"
    instance.report_run_failed(runs[0])
    instance.delete_run(runs[1].run_id)
    register_worker(instance, runs[2].run_id)
    assert lock_files(tmp_path) == [runs[2].run_id]


def test_the_file_of_a_living_worker_is_kept_although_its_run_was_marked_as_failed(
    instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    run = create_run(instance, {})
    with worker_process(tmp_path, run.run_id) as process:
        instance.report_run_failed(run)
        register_worker(instance, create_run(instance, {}).run_id)
        process.beat()

"""The job `prune_runs`: which runs it deletes, and that the Dagster UI shows the same of every course."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from orchestration.assets import course_chunks, course_collection
from orchestration.housekeeping import prune_runs as module
from orchestration.housekeeping.prune_runs import prune, prune_runs
from orchestration.instance.prepared import mark_prepared
from orchestration.jobs import embed_course
from orchestration.partitions import FILES_JOB, JOB, PARTITIONS_NAME
from tests.orchestration.ticks import Resources, create_run
from tests.orchestration.uploaded_files.uploads import create_run as create_files_run
from tests.support.courses import write_course

pytestmark = pytest.mark.integration


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with files, as a deployment has."""
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as local:
        mark_prepared(local)
        yield local


@dg.job
def foreign_job() -> None:
    """A job of another program in the same instance."""


def later() -> datetime:
    """A time after the end of every run."""
    return datetime.now(UTC) + timedelta(days=1)


def run_ids(instance: dg.DagsterInstance) -> set[str]:
    return {run.run_id for run in instance.get_runs()}


def shown(instance: dg.DagsterInstance, course_ids: list[str]) -> list[object]:
    """What the UI shows of the courses: the latest materializations and check results, with their runs."""
    storage = instance.event_log_storage
    latest = [
        instance.fetch_materializations(dg.AssetRecordsFilter(asset, asset_partitions=[course_id]), limit=1).records
        for asset in course_collection.keys
        for course_id in course_ids
    ]
    checks = storage.get_asset_check_partition_info(list(course_collection.check_keys))
    attempts = [
        storage.get_latest_asset_partition_materialization_attempts_without_materializations(asset)
        for asset in course_collection.keys
    ]
    return [latest, sorted(checks, key=str), attempts]


def test_what_the_ui_shows_of_a_course_is_unchanged(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAGE", 1)
    rare, failing = f"rare-{course_id}", f"failing-{course_id}"
    instance.add_dynamic_partitions(PARTITIONS_NAME, [rare, failing])
    course_ids = [course_id, rare, failing]
    for written in course_ids:
        write_course(catalogue, written, {f"{written}/a": "Copper"})
    definitions = dg.Definitions([course_chunks, course_collection], jobs=[embed_course], resources=resources)
    job = definitions.resolve_job_def(JOB)

    def embed(embedded: str) -> dg.ExecuteInProcessResult:
        return job.execute_in_process(instance=instance, partition_key=embedded, raise_on_error=False)

    needed = [embed(rare)]
    superseded = [embed(course_id)]
    needed += [embed(course_id)]
    write_course(catalogue, failing, {}, statuses=["processing"])
    superseded += [embed(failing)]
    needed += [embed(failing)]
    assert not needed[-1].success
    before = shown(instance, course_ids)
    assert prune(instance, later()) == (2, 3)
    assert run_ids(instance) == {result.run_id for result in needed}
    assert shown(instance, course_ids) == before
    home = Path(instance.root_directory)
    for result in superseded:
        assert list(home.rglob(f"*{result.run_id}*")) == [home / "workers" / result.run_id]


def test_recent_unfinished_and_foreign_runs_are_kept(instance: dg.DagsterInstance) -> None:
    create_run(instance, {}, dg.DagsterRunStatus.CANCELED)
    unfinished = create_run(instance, {}, dg.DagsterRunStatus.STARTED)
    foreign = foreign_job.execute_in_process(instance=instance)
    assert prune(instance, datetime.now(UTC) - timedelta(days=1)) == (0, 0)
    assert prune(instance, later()) == (1, 0)
    assert run_ids(instance) == {unfinished.run_id, foreign.run_id}


@dg.job(name=FILES_JOB)
def job_of_stage_one() -> None:
    """Stage one's job with the name of ours, in another code location of the same instance."""


def test_runs_that_read_files_are_deleted_but_not_those_of_stage_one(instance: dg.DagsterInstance) -> None:
    create_files_run(instance, {}, {}, dg.DagsterRunStatus.CANCELED)
    foreign = job_of_stage_one.execute_in_process(instance=instance)
    assert prune(instance, later()) == (1, 0)
    assert run_ids(instance) == {foreign.run_id}


def test_runs_of_the_housekeeping_are_deleted_too_but_not_by_themselves(instance: dg.DagsterInstance) -> None:
    first = prune_runs.execute_in_process(instance=instance)
    assert run_ids(instance) == {first.run_id}
    assert prune(instance, later()) == (1, 0)
    assert run_ids(instance) == set()

"""`resource_sensor` with a real catalogue and Dagster instance."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine, text

from documents.settings import DocumentSettings
from models.database import transaction
from models.resources import claim
from models.tables import UploadedResource
from orchestration.instance.prepared import mark_prepared
from orchestration.partitions import FILES_JOB, FILES_TAG
from orchestration.uploaded_files import sensor
from orchestration.uploaded_files.file_run import CANCELLED
from orchestration.uploaded_files.run_config import resource_ids_of
from tests.orchestration.ticks import fail_unfinished_runs
from tests.orchestration.uploaded_files.uploads import chunks, files, launched, read, resource_tick, upload
from tests.support.courses import write_course

pytestmark = pytest.mark.integration
Status = dg.DagsterRunStatus


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with files: it keeps the times of runs, as a deployment does."""
    home = tmp_path / "home"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as local:
        mark_prepared(local)
        yield local


def claimed_by(catalogue: Engine, resource: UploadedResource, run_id: str) -> None:
    with transaction(catalogue) as session:
        assert claim(session, resource.resource_id, run_id, datetime.now(UTC))


def test_files_that_wait_are_launched_once(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    assert resource_tick(instance).skip_message == "No uploaded file waits"
    one, two = upload(catalogue, "1.txt"), upload(catalogue, "2.txt")
    first = resource_tick(instance)
    assert launched(first) == [[one.resource_id, two.resource_id]]
    second = resource_tick(instance, first.cursor)
    assert second.skip_message == "2 uploaded files being read or waiting"
    [run] = instance.get_runs()
    assert (run.job_name, resource_ids_of(run)) == (FILES_JOB, launched(first)[0])
    assert (run.tags[FILES_TAG], run.tags["course_search/course"]) == ("2", "c")
    assert "1.txt" not in str(run)


def test_the_run_of_the_sensor_reads_the_files(
    catalogue: Engine, instance: dg.DagsterInstance, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
    upload(catalogue)
    [resource_ids] = launched(resource_tick(instance))
    fail_unfinished_runs(instance)
    assert read(instance, *resource_ids).success
    assert files(catalogue)["notes.txt"].status == "succeeded"
    assert resource_tick(instance).skip_message == "No uploaded file waits"


def test_a_file_whose_worker_died_is_tried_again_and_the_others_at_once(
    catalogue: Engine, instance: dg.DagsterInstance
) -> None:
    one, two = upload(catalogue, "1.txt"), upload(catalogue, "2.txt")
    cursor = resource_tick(instance).cursor
    [run] = instance.get_runs()
    claimed_by(catalogue, one, run.run_id)
    instance.report_run_failed(run, "The worker process of this run has died.")
    tick = resource_tick(instance, cursor)
    assert launched(tick) == [[two.resource_id]]
    row = files(catalogue)["1.txt"]
    assert (row.status, row.attempts, row.error) == ("pending", 1, "The worker process of this run has died.")


def test_a_run_that_never_begins_is_not_launched_without_end(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    upload(catalogue)
    cursor = resource_tick(instance).cursor
    fail_unfinished_runs(instance)
    tick = resource_tick(instance, cursor)
    assert launched(tick) == []
    assert "1 file left by a run" in tick.skip_message
    row = files(catalogue)["notes.txt"]
    assert (row.status, row.attempts) == ("pending", 1)
    assert launched(resource_tick(instance, tick.cursor)) == [], "the next attempt follows after a pause"
    assert files(catalogue)["notes.txt"].attempts == 1, "the run counts once"


def test_a_cancelled_run_is_not_repeated(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    upload(catalogue)
    cursor = resource_tick(instance, status=Status.CANCELED).cursor
    resource_tick(instance, cursor)
    row = files(catalogue)["notes.txt"]
    assert (row.status, row.error) == ("failed", CANCELLED)
    upload(catalogue)
    assert len(launched(resource_tick(instance, cursor))) == 1, "a new upload is a new wish"


def test_a_file_whose_run_was_deleted_is_tried_again(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    resource = upload(catalogue)
    claimed_by(catalogue, resource, "deleted")
    resource_tick(instance)
    row = files(catalogue)["notes.txt"]
    assert (row.status, row.attempts) == ("pending", 1)
    assert row.error is not None
    assert "deleted from Dagster" in row.error


@dg.job(name=FILES_JOB)
def job_of_stage_one() -> None:
    """Stage one's job with the name of ours, in another code location of the same instance."""


def test_runs_of_stage_one_are_left_alone(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    """They occupy none of the slots, and have read none of our files."""
    for _ in range(5):
        instance.create_run_for_job(job_of_stage_one, status=Status.STARTED)
    upload(catalogue)
    assert len(launched(resource_tick(instance))) == 1


class TestDeletedCourses:
    """Their files are deleted after two looks that are far enough apart."""

    @pytest.fixture(autouse=True)
    def _is_time_to_look(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sensor, "LOOK_SECONDS", 0.0)

    def delete(self, catalogue: Engine, course_id: str = "c") -> None:
        with catalogue.begin() as connection:
            connection.execute(text("DELETE FROM course WHERE id = :id"), {"id": course_id})

    def directory(self) -> list[Path]:
        return [path for path in DocumentSettings().upload_dir.iterdir() if path.is_file()]

    def test_rows_and_files_are_deleted(self, catalogue: Engine, instance: dg.DagsterInstance) -> None:
        upload(catalogue)
        upload(catalogue, course_id="kept")
        self.delete(catalogue)
        cursor = resource_tick(instance).cursor
        assert len(files(catalogue)) == 1
        resource_tick(instance, cursor)
        assert (files(catalogue), list(chunks(catalogue))) == ({}, [])
        [kept] = files(catalogue, "kept").values()
        assert [path.name for path in self.directory()] == [f"{kept.resource_id}-{kept.sha256}"]

    def test_a_course_that_comes_back_keeps_them(self, catalogue: Engine, instance: dg.DagsterInstance) -> None:
        """Stage one may replace its rows in two transactions."""
        upload(catalogue)
        write_course(catalogue, "other", {})
        self.delete(catalogue)
        cursor = resource_tick(instance).cursor
        write_course(catalogue, "c", {})
        cursor = resource_tick(instance, cursor).cursor
        self.delete(catalogue)
        resource_tick(instance, cursor)
        assert len(files(catalogue)) == len(self.directory()) == 1

    def test_nothing_is_deleted_if_there_is_no_course_at_all(
        self, catalogue: Engine, instance: dg.DagsterInstance
    ) -> None:
        upload(catalogue)
        self.delete(catalogue)
        cursor = None
        for _ in range(3):
            cursor = resource_tick(instance, cursor).cursor
        assert len(files(catalogue)) == len(self.directory()) == 1

    def test_looks_have_a_distance(
        self, catalogue: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sensor, "LOOK_SECONDS", timedelta(days=1).total_seconds())
        cursor = resource_tick(instance).cursor
        upload(catalogue)
        write_course(catalogue, "other", {})
        self.delete(catalogue)
        for _ in range(3):
            cursor = resource_tick(instance, cursor).cursor
        assert len(files(catalogue)) == 1

"""Runs of `process_resource` with real files: what becomes of the rows, the chunks and Dagster's history."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine

from documents import chunking, reading
from documents.settings import DocumentSettings
from documents.uploads import Uploads
from models.database import DatabaseUnavailableError, transaction
from models.ingestion import ingestion_of_course
from models.resources import claim, delete_resource
from models.tables import UploadedResource
from orchestration.uploaded_files import file_run
from orchestration.uploaded_files.file_run import CANCELLED, MISSING
from tests.orchestration.uploaded_files.uploads import TEXT, chunks, create_run, files, read, upload

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("resources")]


@pytest.fixture
def resources(catalogue: Engine, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    [event] = [e for e in result.all_events if e.event_type is dg.DagsterEventType.STEP_OUTPUT]
    return {name: value.value for name, value in event.step_output_data.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> Any:
    [event] = [event for event in result.all_events if event.is_step_failure]
    return event.step_failure_data.user_failure_data


def before_reading(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something once, after the first file was claimed and before it is read."""
    original, actions = reading.read_document, [action]

    def act_and_read(*args: Any, **options: Any) -> object:
        if actions:
            actions.pop()()
        return original(*args, **options)

    monkeypatch.setattr(file_run, "read_document", act_and_read)


def test_a_file_becomes_chunks_of_an_ingested_course(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    resource = upload(catalogue)
    result = read(instance, resource.resource_id)
    assert result.success
    row = files(catalogue)["notes.txt"]
    assert (row.status, row.progress, row.error, row.source_type) == ("succeeded", 1.0, None, "text")
    stored = chunks(catalogue)
    assert row.chunks == len(stored) > 1
    assert "".join("".join(chunk.text for chunk in stored).split()) != ""
    for chunk in stored:
        assert chunk.extra is not None
        assert chunk.extra["file"] == "notes.txt"
        assert chunk.lecture_id == f"{resource.resource_id}-1"
    with transaction(catalogue) as session:
        assert ingestion_of_course(session, "c").finished
    metadata = metadata_of(result)
    assert (metadata["files"], metadata["succeeded"], metadata["chunks"]) == (1, 1, len(stored))


def test_history_contains_no_name_and_no_text(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    """File names and contents may be private, and Dagster's history outlives both."""
    good, bad = upload(catalogue, "salaries.txt"), upload(catalogue, "secret.pdf", "no PDF")
    result = read(instance, good.resource_id, bad.resource_id)
    history = str(instance.all_logs(result.run_id))
    assert good.resource_id in history
    for private in ("salaries", "secret.pdf", "Copper"):
        assert private not in history


def test_one_unreadable_file_does_not_stop_the_others(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    upload(catalogue, "1.pdf", "no PDF")
    upload(catalogue, "2.md", "# Copper\n\n" + TEXT)
    result = read(instance)
    assert result.success, "its owner must do something, and no operator"
    rows = files(catalogue)
    assert (rows["1.pdf"].status, rows["2.md"].status) == ("failed", "succeeded")
    assert rows["1.pdf"].attempts == 0
    assert rows["1.pdf"].error
    assert {name: metadata_of(result)[name] for name in ("files", "succeeded", "unreadable")} == {
        "files": 2,
        "succeeded": 1,
        "unreadable": 1,
    }


def test_a_file_without_text_fails(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    upload(catalogue, content="\n \n")
    read(instance)
    row = files(catalogue)["notes.txt"]
    assert row.status == "failed"
    assert row.error


def test_a_missing_file_is_tried_again(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    """UPLOAD_DIR may be on a share that is not mounted."""
    resource = upload(catalogue)
    Uploads(DocumentSettings().upload_dir).remove(resource.resource_id, resource.sha256)
    result = read(instance)
    assert "1 of 1 file could not be read now" in failure_of(result).description
    assert failure_of(result).metadata["postponed"].value == 1
    row = files(catalogue)["notes.txt"]
    assert (row.status, row.attempts, row.error) == ("pending", 1, MISSING)


def test_an_unexpected_error_fails_the_file_without_its_message(
    catalogue: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError(TEXT)

    upload(catalogue)
    monkeypatch.setattr(file_run, "divide", fail)
    result = read(instance)
    row = files(catalogue)["notes.txt"]
    assert (row.status, row.error) == ("failed", "Unexpected RuntimeError; the log of the run shows where.")
    assert "Copper" not in str(instance.all_logs(result.run_id))


def test_files_of_a_finished_or_another_run(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    """The run takes a file over from a run that has ended, and leaves that of an unfinished one."""
    dead = create_run(instance, {}, {}, dg.DagsterRunStatus.FAILURE)
    living = create_run(instance, {}, {}, dg.DagsterRunStatus.STARTED)
    for name, owner in (("dead.txt", dead.run_id), ("deleted.txt", "deleted"), ("living.txt", living.run_id)):
        resource = upload(catalogue, name)
        with transaction(catalogue) as session:
            assert claim(session, resource.resource_id, owner, datetime.now(UTC))
    result = read(instance, *(row.resource_id for row in files(catalogue).values()), "unknown")
    assert {name: row.status for name, row in files(catalogue).items()} == {
        "dead.txt": "succeeded",
        "deleted.txt": "succeeded",
        "living.txt": "running",
    }
    assert metadata_of(result)["left"] == 2


def test_an_operator_may_have_a_file_read_again(catalogue: Engine, instance: dg.DagsterInstance) -> None:
    resource = upload(catalogue)
    assert read(instance).success
    before = [chunk.model_dump() for chunk in chunks(catalogue)]
    result = read(instance, resource.resource_id)
    assert metadata_of(result)["succeeded"] == 1
    assert [chunk.model_dump() for chunk in chunks(catalogue)] == before


def test_a_file_that_another_run_has_read_meanwhile_is_left(
    catalogue: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs may have been launched for it."""
    first, second = upload(catalogue, "1.txt"), upload(catalogue, "2.txt")
    before_reading(monkeypatch, lambda: read(instance, second.resource_id))
    result = read(instance, first.resource_id, second.resource_id)
    assert (metadata_of(result)["succeeded"], metadata_of(result)["left"]) == (1, 1)


@pytest.mark.parametrize("change", ["deleted", "uploaded again"])
def test_a_file_that_changes_while_it_is_read(
    catalogue: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """The run writes nothing of the old content, and goes on with the other files."""
    resource = upload(catalogue)
    upload(catalogue, "other.txt")

    def act() -> None:
        if change == "deleted":
            with transaction(catalogue) as session:
                delete_resource(session, resource.resource_id)
        else:
            upload(catalogue, content="# New\n" + TEXT)

    before_reading(monkeypatch, act)
    result = read(instance)
    rows = files(catalogue)
    assert rows["other.txt"].status == "succeeded"
    assert "notes.txt" not in rows or rows["notes.txt"].status == "pending"
    assert {(chunk.extra or {})["file"] for chunk in chunks(catalogue)} == {"other.txt"}
    assert metadata_of(result)["left"] == 1


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_an_interrupted_run(
    catalogue: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, is_cancelled: bool
) -> None:
    """After a shutdown, the next run reads the file; a cancelled one is not tried again by itself."""
    upload(catalogue)

    def interrupt() -> None:
        [run] = instance.get_runs()
        if is_cancelled:
            instance.report_run_canceling(run)
        raise dg.DagsterExecutionInterruptedError

    before_reading(monkeypatch, interrupt)
    assert not read(instance).success
    row = files(catalogue)["notes.txt"]
    assert (row.status, row.attempts) == ("failed" if is_cancelled else "pending", 0)
    assert row.error == (CANCELLED if is_cancelled else None)


def test_a_run_ends_while_the_catalogue_is_away(
    catalogue: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could record nothing of the other files either. The sensor finds what it has left."""
    upload(catalogue, "1.txt")
    upload(catalogue, "2.txt")

    def away() -> None:
        raise DatabaseUnavailableError("The database is away.")

    before_reading(monkeypatch, away)
    assert not read(instance).success
    assert [row.status for row in files(catalogue).values()] == ["running", "pending"]


def test_a_run_that_was_ended_in_dagster_reads_no_other_file(
    catalogue: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(catalogue, "1.txt")
    upload(catalogue, "2.txt")

    def end() -> None:
        [run] = instance.get_runs()
        instance.report_run_failed(run)

    before_reading(monkeypatch, end)
    read(instance)
    assert [row.status for row in files(catalogue).values()] == ["succeeded", "pending"]


def test_progress_is_reported_and_stops_a_run_that_lost_the_file(
    catalogue: Engine, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[UploadedResource] = []
    monkeypatch.setattr(file_run, "REPORT_SECONDS", 0.0)
    original = chunking.divide

    def divide(*args: Any, **options: Any) -> Any:
        for passage in original(*args, **options):
            yield passage
            seen.append(files(catalogue)["notes.txt"])

    monkeypatch.setattr(file_run, "divide", divide)
    upload(catalogue)
    assert read(instance).success
    assert seen[-1].status == "running"
    assert file_run.READING < seen[-1].progress <= file_run.DIVIDED

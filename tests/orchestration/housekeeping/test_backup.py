"""The job `backup`: what it writes, what it deletes, and when it fails."""

from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from embedding.vector_store.archive import open_archive
from embedding.vector_store.collections import VectorStore
from orchestration.housekeeping.backup import backup, delete_old
from tests.orchestration.ticks import all_resources
from tests.support.published import add_courses, publish, publish_row

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKUP_DIR", str(tmp_path / "backups"))
    monkeypatch.setenv("BACKUP_KEEP", "1")


def run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return backup.execute_in_process(instance=instance, resources=all_resources(), raise_on_error=False)


def archives(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "backups").glob("*.zip"))


def test_it_saves_every_course_and_replaces_the_older_backup(
    instance: dg.DagsterInstance, catalogue: Engine, vector_store: VectorStore, course_id: str, tmp_path: Path
) -> None:
    add_courses(catalogue, course_id)
    publish(catalogue, vector_store, course_id, ["copper", "solder"])
    (tmp_path / "backups").mkdir()
    (tmp_path / "backups" / "course-search-scheduled-20200101T010000Z.zip").touch()
    assert run(instance).success
    [path] = archives(tmp_path)
    with open_archive(path) as archive:
        assert [(course.course_id, course.chunks) for course in archive.manifest.courses] == [(course_id, 2)]


def test_nothing_is_deleted_if_a_course_is_damaged_and_the_run_fails(
    instance: dg.DagsterInstance, catalogue: Engine, vector_store: VectorStore, course_id: str, tmp_path: Path
) -> None:
    add_courses(catalogue, course_id, "damaged")
    publish(catalogue, vector_store, course_id, ["copper"])
    publish_row(catalogue, "damaged")
    (tmp_path / "backups").mkdir()
    older = tmp_path / "backups" / "course-search-scheduled-20200101T010000Z.zip"
    older.touch()
    result = run(instance)
    assert not result.success
    assert len(archives(tmp_path)) == 2
    assert older.exists()
    [failure] = [event for event in result.all_events if event.is_step_failure]
    declared = failure.step_failure_data.user_failure_data
    assert declared is not None
    assert "doctor --repair" in (declared.description or "")
    damaged = declared.metadata["damaged"].value
    assert isinstance(damaged, dict)
    assert list(damaged) == ["damaged"]


def test_nothing_is_deleted_if_no_backup_was_written(
    instance: dg.DagsterInstance, catalogue: Engine, tmp_path: Path
) -> None:
    """The catalogue has no courses, as after a mistake in DATABASE_URL."""
    (tmp_path / "backups").mkdir()
    older = tmp_path / "backups" / "course-search-scheduled-20200101T010000Z.zip"
    older.touch()
    assert not run(instance).success
    assert archives(tmp_path) == [older]


@pytest.mark.parametrize(("keep", "remaining"), [(1, []), (2, ["03"]), (3, ["02", "03"]), (9, ["01", "02", "03"])])
def test_only_the_oldest_scheduled_backups_are_deleted(tmp_path: Path, keep: int, remaining: list[str]) -> None:
    """Also if the clock was wrong: the new backup, which was verified, has the oldest name."""
    for day in ("01", "02", "03"):
        (tmp_path / f"course-search-scheduled-202511{day}T010000Z.zip").touch()
    newest = tmp_path / "course-search-scheduled-20200101T010000Z.zip"
    foreign = [
        tmp_path / name
        for name in ("course-search-20200101T010000Z.zip", "course-search-scheduled-my-own.zip", "notes.txt")
    ]
    for path in (newest, *foreign):
        path.touch()
    delete_old(newest, keep)
    assert {path.name for path in tmp_path.iterdir()} - {newest.name, *(path.name for path in foreign)} == {
        f"course-search-scheduled-202511{day}T010000Z.zip" for day in remaining
    }
    assert all(path.exists() for path in (newest, *foreign))

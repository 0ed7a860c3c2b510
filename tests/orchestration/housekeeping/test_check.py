"""The job `check` reports what `course-search doctor` finds, and repairs nothing."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine

from embedding.vector_store.collections import VectorStore
from models.database import CatalogueSettings, create_catalogue_engine
from orchestration.housekeeping.check import check
from tests.orchestration.ticks import Resources, materialize
from tests.support.catalogue import migrate
from tests.support.courses import read_course, write_course

pytestmark = pytest.mark.integration


@pytest.fixture
def catalogue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """A migrated catalogue: the doctor checks its revision."""
    url = f"sqlite:///{tmp_path}/catalogue.db"
    monkeypatch.setenv("DATABASE_URL", url)
    migrate(url)
    engine = create_catalogue_engine(CatalogueSettings())
    yield engine
    engine.dispose()


@pytest.fixture
def _course(instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str) -> None:
    """Embed a course."""
    write_course(catalogue, course_id, {f"{course_id}/a": "Copper", f"{course_id}/b": "Solder"})
    assert materialize(instance, resources, course_id).success


@pytest.fixture(autouse=True)
def _no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("maintenance.checks.all_checks.open_embedder", load)


def run(instance: dg.DagsterInstance) -> dg.ExecuteInProcessResult:
    return check.execute_in_process(instance=instance, raise_on_error=False)


def findings(metadata: Any) -> list[Any]:
    """The records of the metadata's table."""
    return [record.data for record in metadata["findings"].records]


@pytest.mark.usefixtures("_course")
def test_it_reports_every_finding(instance: dg.DagsterInstance) -> None:
    result = run(instance)
    assert result.success
    [output] = [event.step_output_data for event in result.all_events if event.is_successful_output]
    found = findings(output.metadata)
    assert {finding["check"] for finding in found} >= {"catalogue", "chroma", "model", "courses", "snapshots", "states"}
    assert "error" not in {finding["level"] for finding in found}
    logged = [entry.user_message for entry in instance.all_logs(result.run_id) if entry.dagster_event is None]
    assert len(logged) == len(found)


@pytest.mark.usefixtures("_course")
def test_it_fails_for_a_collection_with_other_chunks_and_changes_nothing(
    instance: dg.DagsterInstance, catalogue: Engine, vector_store: VectorStore, course_id: str
) -> None:
    """The number of documents and the model are right; neither vectors nor the model are needed to find it."""
    collection = vector_store.connect().get_collection(vector_store.open(course_id).name, embedding_function=None)
    collection.update([f"{course_id}/a"], metadatas=[{"content_hash": "another"}])
    before = read_course(catalogue, course_id)
    result = run(instance)
    assert not result.success
    [failure] = [event for event in result.all_events if event.is_step_failure]
    declared = failure.step_failure_data.user_failure_data
    assert declared is not None
    assert f"with other chunks or texts than published: {course_id}" in (declared.description or "")
    assert [finding["check"] for finding in findings(declared.metadata) if finding["level"] == "error"] == ["courses"]
    assert read_course(catalogue, course_id) == before
    assert vector_store.open(course_id).count() == 2

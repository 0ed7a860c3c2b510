"""The asset `course_questions`: counts of every course, and no text of a question in Dagster's storage."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine

from orchestration.housekeeping import questions as module
from orchestration.housekeeping.prune_runs import prune
from orchestration.housekeeping.questions import course_questions, refresh_questions
from orchestration.instance.prepared import mark_prepared
from orchestration.partitions import HOUSEKEEPING_TAG, QUESTIONS
from tests.orchestration.ticks import Resources
from tests.support.questions import ask, judge

MARKER = "ZQXJVKWQ"


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """An instance with all of its storage, and the output of its runs, in files."""
    (tmp_path / "dagster").mkdir()
    with dg.instance_for_test(temp_dir=str(tmp_path / "dagster")) as instance:
        mark_prepared(instance)
        yield instance


def count(instance: dg.DagsterInstance, resources: Resources) -> dict[str, Any]:
    """Run the job, and return the metadata of the asset."""
    definitions = dg.Definitions([course_questions], jobs=[refresh_questions], resources=resources)
    job = definitions.resolve_job_def("refresh_questions")
    assert job.execute_in_process(instance=instance).success
    event = instance.get_latest_materialization_event(QUESTIONS)
    assert event is not None
    assert event.asset_materialization is not None
    return dict(event.asset_materialization.metadata)


def table(metadata: dict[str, Any]) -> list[Any]:
    [found] = [value for name, value in metadata.items() if name.startswith("most gaps")]
    return [record.data for record in found.records]


def test_counts_without_texts(
    tmp_path: Path, instance: dg.DagsterInstance, resources: Resources, catalogue: Engine
) -> None:
    ask(catalogue, "answered", *(f"{MARKER} {number}" for number in range(3)))
    ask(catalogue, "with-gaps", f"another {MARKER}", answerable=False, unknown_terms=(MARKER,))
    judge(catalogue, "with-gaps", MARKER, MARKER, helpful=False)
    ask(catalogue, "asked-last-year", MARKER, days_ago=365)
    metadata = count(instance, resources)
    names = ("courses", "asked", "found_nothing", "helpful", "not_helpful")
    assert [metadata[name].value for name in names] == [2, 4, 1, 0, 1]
    assert table(metadata) == [
        {"course_id": "with-gaps", "asked": 1, "found_nothing": 1, "helpful": 0, "not_helpful": 1},
        {"course_id": "answered", "asked": 3, "found_nothing": 0, "helpful": 0, "not_helpful": 0},
    ]
    files = [path for path in (tmp_path / "dagster").rglob("*") if path.is_file()]
    assert any(b"with-gaps" in path.read_bytes() for path in files), "nothing was stored"
    assert [path.name for path in files if MARKER.encode() in path.read_bytes()] == []


def test_the_table_is_limited(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_COURSES", 2)
    for course_id in ("a", "b", "c"):
        ask(catalogue, course_id, "What is copper?")
    metadata = count(instance, resources)
    assert (metadata["courses"].value, [row["course_id"] for row in table(metadata)]) == (3, ["a", "b"])


def test_the_latest_counts_are_kept_and_older_runs_deleted(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine
) -> None:
    """Also those of a run that was launched in the UI, without the tags of the job."""
    assert count(instance, resources)["courses"].value == 0
    assert dg.materialize([course_questions], instance=instance, resources=resources).success
    assert all(HOUSEKEEPING_TAG in run.tags for run in instance.get_runs())
    assert prune(instance, datetime.now(UTC) + timedelta(days=1)) == (1, 1)
    assert instance.get_latest_materialization_event(QUESTIONS) is not None

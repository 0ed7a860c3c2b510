"""One trace from the decision of a sensor through its run."""

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from orchestration.partitions import PARTITION_TAG
from orchestration.run_config import PARENT_TAG
from orchestration.traces import TRACE_TAG
from search_api.app import create_embedding_app
from search_api.app_settings import SearchSettings
from telemetry import traces
from tests.orchestration.ticks import Resources, all_resources, materialize, stage_one_tick
from tests.orchestration.uploaded_files.uploads import read, resource_tick, upload
from tests.support.courses import numbered_texts, write_course
from tests.support.servers.asgi import serving
from tests.telemetry.collector import Collector, collecting

pytestmark = pytest.mark.integration

EMBEDDING = "POST /v1/embeddings"
CALL = "POST embedding service"
STEPS = ("claim", "load model", "fingerprint", "index", "snapshot", "examine", "publish")


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running
        traces.stop_tracing()


def launch(instance: dg.DagsterInstance) -> tuple[dict[str, str], object]:
    """The tags and the configuration of the run that a tick launches."""
    [request] = stage_one_tick(instance).requests
    return {**request.tags}, request.run_config


def test_a_run_continues_the_trace_of_its_launch(
    instance: dg.DagsterInstance,
    catalogue: Engine,
    resources: Resources,
    collector: Collector,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = numbered_texts(course_id)
    with serving(create_embedding_app(SearchSettings())) as url:
        monkeypatch.setenv("EMBEDDING_SERVICE_URL", url)
        stage_one_tick(instance)  # nothing is due
        write_course(catalogue, course_id, texts)
        tags, run_config = launch(instance)
        stage_one_tick(instance)  # the run is queued
        key = tags.pop(PARTITION_TAG)
        result = materialize(instance, all_resources(), key, tags=tags, run_config=run_config)  # type: ignore[arg-type]
        assert result.success
        collector.wait_for("course", EMBEDDING)
    [trace_id] = {span.trace_id for span in collector.spans}
    assert trace_id in tags[TRACE_TAG]
    paths = set(collector.paths())
    course = ("stage_one_sensor", result.job_def.name, "course")
    assert paths >= {
        *(
            (*course, part)
            for part in ("claim", "load model", "fingerprint", "index", "snapshot", "examine", "publish")
        ),
        (*course, "index", "batch", CALL, EMBEDDING, "batch"),
        (*course, "snapshot", "POST Chroma"),
    }
    launched = collector.named("stage_one_sensor").attributes
    assert (launched["reason"], launched["first"], launched["courses"]) == ("change", course_id, 1)
    assert collector.named("course").attributes == {"course_id": course_id}
    sent = repr(collector.spans)
    assert not any(text in sent for text in texts.values())


def test_the_reason_of_a_failure_is_in_the_trace(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, collector: Collector, course_id: str
) -> None:
    write_course(catalogue, course_id, {f"{course_id}/a": "Copper"}, statuses=["processing"])
    assert not materialize(instance, resources, course_id).success
    collector.wait_for("course")
    assert f"{course_id} is not ingested yet" in (collector.named("course").error or "")
    assert collector.named("claim").attributes["error.type"].endswith(".NotIngestedError")


def test_a_run_that_is_executed_again_begins_a_trace(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, collector: Collector, course_id: str
) -> None:
    write_course(catalogue, course_id, {f"{course_id}/a": "Copper"})
    tags, _ = launch(instance)
    del tags[PARTITION_TAG]
    assert materialize(instance, resources, course_id, tags={**tags, PARENT_TAG: "first"}).success
    collector.wait_for("course")
    assert collector.named("course").trace_id not in tags[TRACE_TAG]


def test_without_tracing_runs_have_no_tag(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, tmp_path: Path
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    tags, _ = launch(instance)
    assert TRACE_TAG not in tags


def test_files_are_read_in_a_trace(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, collector: Collector
) -> None:
    uploaded = upload(catalogue)
    resource_tick(instance)
    [run] = instance.get_runs()
    assert read(instance, uploaded.resource_id).success
    collector.wait_for("resource_sensor", "file")
    assert run.tags[TRACE_TAG].split("-")[1] == collector.named("resource_sensor").trace_id
    assert collector.named("file").attributes == {"resource_id": uploaded.resource_id}
    assert "notes.txt" not in repr(collector.spans)

"""`stage_one_sensor` with a real catalogue, Chroma server and Dagster instance."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine, text

from cli.processes import free_port
from models.tables import EmbeddingStatus
from orchestration.assets import course_chunks
from orchestration.launching.courses_per_run import COURSES_PER_RUN
from orchestration.partitions import PARTITIONS_NAME, RANGE_END_TAG, RANGE_START_TAG
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from tests.orchestration.ticks import (
    Resources,
    all_resources,
    course_status_tick,
    create_run,
    fail_unfinished_runs,
    materialize,
    request_embedding,
    stage_one_tick,
)
from tests.support.courses import change_course, read_course, write_course


def write_courses(catalogue: Engine, *course_ids: str) -> None:
    for course_id in course_ids:
        write_course(catalogue, course_id, {f"{course_id}/a": "Copper"})


def test_an_ingested_course_is_launched_once(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Solder"}, statuses=["succeeded", "processing"])
    tick = stage_one_tick(instance)
    assert tick.launched == [["1"]]
    assert isinstance(tick.result, dg.SensorResult)
    [observation] = tick.result.asset_events
    assert observation.asset_key == course_chunks.key
    assert stage_one_tick(instance).launched == [], "the run is queued"


@pytest.mark.parametrize("end", [dg.DagsterInstance.report_run_failed, dg.DagsterInstance.report_run_canceled])
def test_a_course_is_not_launched_before_the_end_of_its_run_is_recorded(
    instance: dg.DagsterInstance,
    catalogue: Engine,
    monkeypatch: pytest.MonkeyPatch,
    end: Callable[[dg.DagsterInstance, dg.DagsterRun], None],
) -> None:
    monkeypatch.setattr("orchestration.runs.SETTLING", timedelta(days=1))
    write_course(catalogue, "1", {"a": "Copper"})
    stage_one_tick(instance)
    [run] = instance.get_runs()
    end(instance, run)
    assert stage_one_tick(instance).launched == []
    monkeypatch.setattr("orchestration.runs.SETTLING", timedelta(0))
    assert stage_one_tick(instance).launched == [["1"]], "a status sensor that is off blocks no course"


def test_the_time_since_a_course_is_due_is_recorded_once_and_cleared(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})
    stage_one_tick(instance)
    due_since = read_course(catalogue, course_id).embedding_due_since
    assert due_since is not None
    fail_unfinished_runs(instance)
    stage_one_tick(instance)
    assert read_course(catalogue, course_id).embedding_due_since == due_since
    assert materialize(instance, resources, course_id).success
    assert read_course(catalogue, course_id).embedding_due_since is None
    fail_unfinished_runs(instance)
    write_course(catalogue, course_id, {"a": "Copper is old."})
    stage_one_tick(instance)
    assert read_course(catalogue, course_id).embedding_due_since is not None
    fail_unfinished_runs(instance)
    write_course(catalogue, course_id, {"a": "Copper is red."})
    stage_one_tick(instance)
    assert read_course(catalogue, course_id).embedding_due_since is None, "its content is the published one again"


def test_an_edit_with_equal_chunk_count_and_length_is_launched(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})
    assert materialize(instance, resources, course_id).success
    assert stage_one_tick(instance).launched == []
    write_course(catalogue, course_id, {"a": "Copper is old."})
    assert stage_one_tick(instance).launched == [[course_id]]


def test_other_context_fields_are_launched_once(
    instance: dg.DagsterInstance,
    catalogue: Engine,
    resources: Resources,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The sensor's code location may be older than the setting, and runs read the setting anew."""
    write_course(catalogue, course_id, {"a": "Copper is red."})
    assert materialize(instance, resources, course_id).success
    monkeypatch.setenv("CONTEXT_FIELDS", "section_title")
    assert stage_one_tick(instance).launched == [[course_id]]
    fail_unfinished_runs(instance)
    assert materialize(instance, all_resources(), course_id).success
    assert stage_one_tick(instance).launched == []


def test_a_missing_snapshot_is_not_a_launch_reason(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})
    assert materialize(instance, resources, course_id).success
    SnapshotStore(SnapshotSettings()).delete(course_id)
    assert stage_one_tick(instance).launched == []


def test_a_request_is_launched_once(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"}, statuses=["processing"])
    assert stage_one_tick(instance).launched == []
    request_embedding(catalogue, "1")
    assert stage_one_tick(instance).launched == [["1"]]
    assert stage_one_tick(instance).launched == []
    fail_unfinished_runs(instance)
    assert stage_one_tick(instance).launched == [["1"]]


def test_courses_with_consecutive_partitions_share_runs(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    course_ids = [f"{number:02}" for number in range(COURSES_PER_RUN + 2)]
    write_courses(catalogue, *course_ids)
    assert stage_one_tick(instance).launched == [course_ids[:COURSES_PER_RUN], course_ids[COURSES_PER_RUN:]]
    [run] = (run for run in instance.get_runs() if run.tags.get(RANGE_START_TAG) == "00")
    assert run.tags[RANGE_END_TAG] == course_ids[COURSES_PER_RUN - 1]
    assert stage_one_tick(instance).launched == []


def test_the_number_of_runs_per_tick_is_limited(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.launching.sensor.MAX_RUNS_PER_TICK", 1)
    course_ids = [f"{number:02}" for number in range(COURSES_PER_RUN + 3)]
    write_courses(catalogue, *course_ids)
    assert stage_one_tick(instance).launched == [course_ids[:COURSES_PER_RUN]]
    assert stage_one_tick(instance).launched == [course_ids[COURSES_PER_RUN:]]


def test_courses_of_another_model_are_launched_once_in_bounded_runs_and_stay_published(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.launching.sensor.MAX_RUNS_PER_TICK", 1)
    course_ids = [f"{number:02}" for number in range(COURSES_PER_RUN + 3)]
    write_courses(catalogue, *course_ids)
    published = {"embedding_generation": 1, "embedding_fingerprint": f"v1:1:6:{'0' * 64}:another"}
    for course_id in course_ids:
        change_course(catalogue, course_id, embedding_status="done", **published)
    launched = [stage_one_tick(instance).launched for _ in range(3)]
    assert launched == [[course_ids[:COURSES_PER_RUN]], [course_ids[COURSES_PER_RUN:]], []]
    for course_id in course_ids:
        course = read_course(catalogue, course_id)
        assert (course.embedding_status, course.embedding_generation) == ("done", 1), "it answers until its run ends"
        assert course.embedding_due_since is not None, "the metrics and the doctor count it"


def test_a_tick_that_reached_the_reading_limit_is_continued_by_the_next(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.launching.contents.READING_SECONDS", -1.0)
    write_courses(catalogue, "1", "2")
    first = stage_one_tick(instance)
    second = stage_one_tick(instance, first.cursor)
    assert (first.launched, second.launched) == ([["1"]], [["2"]])


def retry(catalogue: Engine, course_id: str, attempts: int) -> None:
    """Let a course be failed, with a retry that is due."""
    change_course(
        catalogue,
        course_id,
        embedding_status="failed",
        embedding_error="Chroma did not answer.",
        embedding_attempts=attempts,
        embedding_retry_at=datetime.now(UTC) - timedelta(seconds=1),
    )


def test_requested_courses_are_launched_first_and_retries_last(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_courses(catalogue, "1", "2", "3", "4", "5")
    retry(catalogue, "1", 1)
    retry(catalogue, "3", 0)  # interrupted: nothing is wrong with it
    change_course(catalogue, "4", embedding_status="failed", embedding_attempts=5)  # new content after the last retry
    request_embedding(catalogue, "5")
    tick = stage_one_tick(instance)
    assert tick.launched == [["5"], ["2", "3", "4"], ["1"]]
    assert [request.tags["dagster/priority"] for request in tick.requests] == ["1", "0", "-1"]


def test_a_course_waits_for_its_retry(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_courses(catalogue, "1")
    change_course(catalogue, "1", embedding_retry_at=datetime.now(UTC) + timedelta(minutes=5))
    assert stage_one_tick(instance).launched == []
    change_course(catalogue, "1", embedding_retry_at=datetime.now(UTC) + timedelta(days=1))
    assert stage_one_tick(instance).launched == [["1"]], "the clock was set back, because no pause is as long"


def test_courses_to_rebuild_have_their_own_runs(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """Whether they were requested, or the run of an earlier request was killed."""
    write_courses(catalogue, "1", "2", "3", "4", "5")
    for course_id in ("1", "2"):
        request_embedding(catalogue, course_id, rebuild=True)
    request_embedding(catalogue, "3")
    retry(catalogue, "4", 1)
    change_course(catalogue, "4", embedding_rebuild=True)
    retry(catalogue, "5", 1)
    tick = stage_one_tick(instance)
    assert tick.launched == [["1", "2"], ["3"], ["4"], ["5"]]
    assert [tick.config(request)["rebuild"] for request in tick.requests] == [True, False, True, False]


def test_a_course_of_an_unfinished_backfill_is_not_launched(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_courses(catalogue, "1", "2", "3")
    instance.add_dynamic_partitions(PARTITIONS_NAME, ["1", "2", "3"])
    create_run(instance, {RANGE_START_TAG: "1", RANGE_END_TAG: "2"})
    assert stage_one_tick(instance).launched == [["3"]]


def test_due_courses_are_launched_after_the_vector_store_is_reachable_again(
    instance: dg.DagsterInstance, catalogue: Engine, chroma_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    assert "The vector store is unreachable" in stage_one_tick(instance).skip_message
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    assert stage_one_tick(instance).launched == [["1"]]


@pytest.mark.usefixtures("resources")
def test_nothing_is_launched_while_the_embedding_service_is_unreachable(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_courses(catalogue, "1")
    url = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("EMBEDDING_SERVICE_URL", url)
    message = stage_one_tick(instance).skip_message
    assert f"1 courses are due, but no run is launched. The embedding service at {url} cannot be reached" in message
    assert instance.get_runs() == []
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.NOT_STARTED
    monkeypatch.delenv("EMBEDDING_SERVICE_URL")
    assert stage_one_tick(instance).launched == [["1"]]


def test_a_course_is_failed_with_the_reason_if_the_local_model_is_missing(
    instance: dg.DagsterInstance, catalogue: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It will not appear by itself, so someone must see the reason."""
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "missing"))
    write_courses(catalogue, "1")
    [request] = stage_one_tick(instance).requests
    fail_unfinished_runs(instance)
    assert not materialize(instance, all_resources(), "1", run_config=request.run_config).success
    course = read_course(catalogue, "1")
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "no usable embedding model in" in (course.embedding_error or "")
    assert course.embedding_retry_at is None
    assert stage_one_tick(instance).launched == [], "until there is a model"


def test_a_chunk_without_text_does_not_prevent_a_launch(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """The column of stage one's table may be nullable."""
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Copper"})
    with catalogue.begin() as connection:
        connection.execute(text("CREATE TABLE nullable AS SELECT * FROM chunk"))
        connection.execute(text("DROP TABLE chunk"))
        connection.execute(text("ALTER TABLE nullable RENAME TO chunk"))
        connection.execute(text("UPDATE chunk SET text = NULL WHERE id = 'a'"))
    assert stage_one_tick(instance).launched == [["1", "2"]]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x'ff00ff'", id="blob"),
        pytest.param("CAST(x'68656c6c6fEDA080' AS TEXT)", id="invalid UTF-8"),
    ],
)
def test_an_unreadable_course_is_failed_and_the_others_are_launched(
    instance: dg.DagsterInstance, catalogue: Engine, value: str
) -> None:
    """SQLite stores any bytes in a text column."""
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Copper"})
    request_embedding(catalogue, "1")
    with catalogue.begin() as connection:
        connection.execute(text(f"UPDATE chunk SET text = {value} WHERE id = 'a'"))
    assert stage_one_tick(instance).launched == [["2"]]
    course = read_course(catalogue, "1")
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "A chunk of the course cannot be read" in (course.embedding_error or "")
    assert course.embedding_requested_at is None
    write_course(catalogue, "1", {"a": "Copper"})
    assert stage_one_tick(instance).launched == [["1"]]


def test_a_chunk_with_an_undecodable_course_id_stops_no_course(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper", "b": "Solder"})
    with catalogue.begin() as connection:
        connection.execute(text("UPDATE chunk SET course_id = CAST(X'636166e9' AS TEXT) WHERE id = 'b'"))
    assert stage_one_tick(instance).launched == [["1"]]


def test_an_undecodable_course_row_is_reported(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    with catalogue.begin() as connection:
        connection.execute(text("INSERT INTO course (id) VALUES (CAST(X'636166e9' AS TEXT))"))
    assert "text that cannot be decoded" in stage_one_tick(instance).skip_message


def test_an_ingested_course_without_chunks_is_reported(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {})
    assert "ingested but have no chunks: 1" in stage_one_tick(instance).skip_message


def test_a_course_whose_row_was_deleted_and_created_again_is_launched_again(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    """The cancelled run was launched for another row."""
    write_course(catalogue, "1", {"a": "Copper"})
    cursor = course_status_tick(instance)
    assert stage_one_tick(instance).launched == [["1"]]
    [run] = instance.get_runs()
    instance.report_run_canceled(run)
    with catalogue.begin() as connection:
        connection.execute(text("DELETE FROM course"))
    cursor = course_status_tick(instance, cursor)
    write_course(catalogue, "1", {"a": "Copper"})
    course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.NOT_STARTED
    assert stage_one_tick(instance).launched == [["1"]]


def test_a_course_that_was_not_ingested_when_its_run_started_is_launched_after_ingestion(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    [request] = stage_one_tick(instance).requests
    fail_unfinished_runs(instance)
    write_course(catalogue, "1", {"a": "Copper"}, statuses=["succeeded", "processing"])
    assert not materialize(instance, resources, "1", run_config=request.run_config).success
    assert "is not ingested" in (read_course(catalogue, "1").embedding_error or "")
    assert stage_one_tick(instance).launched == []
    write_course(catalogue, "1", {"a": "Copper"})
    assert stage_one_tick(instance).launched == [["1"]]

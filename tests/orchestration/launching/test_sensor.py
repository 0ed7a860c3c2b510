"""`stage_one_sensor` with a real catalogue, Chroma server and Dagster instance."""

from datetime import timedelta

import dagster as dg
import pytest
from sqlalchemy import Engine, text

from cli.processes import free_port
from models.tables import EmbeddingStatus
from orchestration.assets import course_chunks
from orchestration.launching.courses_per_run import COURSES_PER_RUN
from orchestration.partitions import PARTITIONS_NAME, RANGE_END_TAG, RANGE_START_TAG
from retrieval.keywords.store import KeywordSettings, KeywordStore
from tests.orchestration.ticks import (
    Resources,
    course_status_tick,
    create_run,
    fail_unfinished_runs,
    materialize,
    request_embedding,
    stage_one_tick,
)
from tests.support.courses import change_course, read_course, write_course


@pytest.fixture
def _no_recent_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Treat no run as recent, so that the sensor decides by the rows alone."""
    monkeypatch.setattr("orchestration.launching.sensor.RECENT", timedelta(0))


def write_courses(catalogue: Engine, *course_ids: str) -> None:
    for course_id in course_ids:
        write_course(catalogue, course_id, {f"{course_id}/a": "Copper"})


def test_an_ingested_course_is_launched_once(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = course_status_tick(instance)
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Solder"}, statuses=["succeeded", "processing"])
    tick = stage_one_tick(instance)
    assert tick.launched == [["1"]]
    assert isinstance(tick.result, dg.SensorResult)
    [observation] = tick.result.asset_events
    assert observation.asset_key == course_chunks.key
    assert stage_one_tick(instance).launched == [], "the run is queued"
    fail_unfinished_runs(instance)
    assert stage_one_tick(instance).launched == [], "the row does not show the failure yet"
    course_status_tick(instance, cursor)
    monkeypatch.setattr("orchestration.launching.sensor.RECENT", timedelta(0))
    assert stage_one_tick(instance).launched == [], "the run failed, and the content has not changed"
    write_course(catalogue, "1", {"a": "copper"})
    assert stage_one_tick(instance).launched == [["1"]]


def test_an_edit_with_equal_chunk_count_and_length_is_launched(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})
    assert materialize(instance, resources, course_id).success
    assert stage_one_tick(instance).launched == []
    write_course(catalogue, course_id, {"a": "Copper is old."})
    assert stage_one_tick(instance).launched == [[course_id]]


def test_a_missing_keyword_index_is_not_a_launch_reason(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})
    assert materialize(instance, resources, course_id).success
    KeywordStore(KeywordSettings()).delete(course_id)
    assert stage_one_tick(instance).launched == []


def test_a_request_is_launched_once(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"}, statuses=["processing"])
    assert stage_one_tick(instance).launched == []
    request_embedding(catalogue, "1")
    assert stage_one_tick(instance).launched == [["1"]]
    assert stage_one_tick(instance).launched == []
    fail_unfinished_runs(instance)
    assert stage_one_tick(instance).launched == []
    request_embedding(catalogue, "1")
    assert stage_one_tick(instance).launched == [["1"]]


def test_courses_with_consecutive_partitions_share_runs(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    course_ids = [f"{number:02}" for number in range(COURSES_PER_RUN + 2)]
    write_courses(catalogue, *course_ids)
    assert stage_one_tick(instance).launched == [course_ids[:COURSES_PER_RUN], course_ids[COURSES_PER_RUN:]]
    [run] = (run for run in instance.get_runs() if run.tags.get(RANGE_START_TAG) == "00")
    assert run.tags[RANGE_END_TAG] == course_ids[COURSES_PER_RUN - 1]
    assert stage_one_tick(instance).launched == []
    fail_unfinished_runs(instance)
    assert stage_one_tick(instance).launched == [], (
        "attempted content is not launched again, neither alone nor in a group"
    )


def test_the_number_of_runs_per_tick_is_limited(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.launching.sensor.MAX_RUNS_PER_TICK", 1)
    course_ids = [f"{number:02}" for number in range(COURSES_PER_RUN + 3)]
    write_courses(catalogue, *course_ids)
    assert stage_one_tick(instance).launched == [course_ids[:COURSES_PER_RUN]]
    assert stage_one_tick(instance).launched == [course_ids[COURSES_PER_RUN:]]


def test_a_tick_that_reached_the_reading_limit_is_continued_by_the_next(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.launching.contents.READING_SECONDS", -1.0)
    write_courses(catalogue, "1", "2")
    first = stage_one_tick(instance)
    second = stage_one_tick(instance, first.cursor)
    assert (first.launched, second.launched) == ([["1"]], [["2"]])


def test_requested_courses_are_launched_first(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    course_ids = [f"{number:02}" for number in range(2 * COURSES_PER_RUN)]
    write_courses(catalogue, *course_ids)
    request_embedding(catalogue, course_ids[-1])
    tick = stage_one_tick(instance)
    assert tick.launched == [course_ids[COURSES_PER_RUN:], course_ids[:COURSES_PER_RUN]]
    assert [request.tags.get("dagster/priority") for request in tick.requests] == ["1", None]


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
    assert "1 courses are due, but the vector store is unreachable" in stage_one_tick(instance).skip_message
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    assert stage_one_tick(instance).launched == [["1"]]


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


@pytest.mark.usefixtures("_no_recent_runs")
def test_a_course_whose_row_was_deleted_and_created_again_is_launched_again(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    """The previous run had the same launch reason."""
    write_course(catalogue, "1", {"a": "Copper"})
    assert stage_one_tick(instance).launched == [["1"]]
    [run] = instance.get_runs()
    instance.report_run_canceled(run)
    with catalogue.begin() as connection:
        connection.execute(text("DELETE FROM course"))
    cursor = course_status_tick(instance)
    write_course(catalogue, "1", {"a": "Copper"})
    course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.NOT_STARTED, "the cancelled run is older"
    assert stage_one_tick(instance).launched == [["1"]]


@pytest.mark.usefixtures("_no_recent_runs")
def test_a_course_that_was_not_ingested_when_its_run_started_is_launched_after_ingestion(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    [request] = stage_one_tick(instance).requests
    fail_unfinished_runs(instance)
    write_course(catalogue, "1", {"a": "Copper"}, statuses=["succeeded", "processing"])
    assert not materialize(instance, resources, "1", tags=request.tags).success
    assert "has not ingested" in (read_course(catalogue, "1").embedding_error or "")
    assert stage_one_tick(instance).launched == []
    write_course(catalogue, "1", {"a": "Copper"})
    assert stage_one_tick(instance).launched == [["1"]]


@pytest.mark.usefixtures("_no_recent_runs")
def test_content_is_not_launched_again_after_its_run_died_before_it_started(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    cursor = course_status_tick(instance)
    stage_one_tick(instance)
    change_course(catalogue, "1", embedding_status="done", embedding_fingerprint="fingerprint of older content")
    fail_unfinished_runs(instance)
    course_status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.DONE
    assert stage_one_tick(instance).launched == []

"""The sensors against real rows and a real (ephemeral) Dagster instance."""

from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine, text

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from models import course_state
from models.course_state import REBUILD_OWNER_PREFIX
from models.database import DatabaseUnavailableError, transaction
from models.tables import EmbeddingStatus
from orchestration.assets import course_chunks, course_collection
from orchestration.course_status.sensor import course_status_sensor
from orchestration.definitions import defs
from orchestration.deleted_courses.sensor import deleted_course_sensor
from orchestration.launching.courses_per_run import COURSES_PER_RUN
from orchestration.launching.launch_reasons import reasons_of
from orchestration.launching.sensor import stage_one_sensor
from orchestration.partitions import PARTITION_TAG, RANGE_END_TAG, RANGE_START_TAG
from orchestration.prepare import prepare
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.orchestration.conftest import all_resources
from tests.support.courses import change_course, read_course, write_course

Resources = dict[str, dg.ConfigurableResource[None]]


def sensor_context(instance: dg.DagsterInstance, cursor: str | None) -> dg.SensorEvaluationContext:
    return dg.build_sensor_context(
        instance=instance,
        cursor=cursor,
        resources=all_resources(),
    )


def stage_one_tick(
    instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[list[dg.RunRequest], dg.SensorResult | dg.SkipReason]:
    """A tick, with what the daemon makes of its result: partitions are added, run requests become runs."""
    with sensor_context(instance, cursor) as context:
        result = stage_one_sensor(context)
    assert isinstance(result, dg.SensorResult | dg.SkipReason)
    assert getattr(result, "cursor", None) is None, "Dagster refuses a cursor that is set in two ways"
    if isinstance(result, dg.SkipReason):
        return [], result
    for change in result.dynamic_partitions_requests or []:
        instance.add_dynamic_partitions("courses", list(change.partition_keys))
    requests = list(result.run_requests or [])
    for request in requests:
        partition = {PARTITION_TAG: request.partition_key} if request.partition_key else {}
        create_run(instance, {**request.tags, **partition})
    return requests, result


def launched(requests: Iterable[dg.RunRequest]) -> list[list[str]]:
    """The courses of each run."""
    return [list(reasons_of(request.tags)) for request in requests]


def status_tick(instance: dg.DagsterInstance, cursor: str | None = None) -> str | None:
    with sensor_context(instance, cursor) as context:
        course_status_sensor(context)
        return context.cursor


def create_run(
    instance: dg.DagsterInstance, tags: dict[str, str], status: dg.DagsterRunStatus | None = None
) -> dg.DagsterRun:
    return instance.create_run_for_job(
        defs.resolve_job_def("embed_course"), tags=tags, status=status or dg.DagsterRunStatus.NOT_STARTED
    )


def end_runs(instance: dg.DagsterInstance) -> None:
    for run in instance.get_runs():
        if not run.is_finished:
            instance.report_run_failed(run)


def request(catalogue: Engine, course_id: str) -> None:
    with transaction(catalogue) as session:
        assert course_state.request_embedding(session, course_id, datetime.now(UTC))


def test_an_ingested_course_is_embedded_once(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = status_tick(instance)
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Solder"}, statuses=["succeeded", "processing"])
    requests, result = stage_one_tick(instance)
    assert launched(requests) == [["1"]]
    assert isinstance(result, dg.SensorResult)
    [observation] = result.asset_events
    assert observation.asset_key == course_chunks.key
    assert stage_one_tick(instance)[0] == [], "its run is queued"
    end_runs(instance)
    assert stage_one_tick(instance)[0] == [], "nobody has told the row yet"
    status_tick(instance, cursor)
    monkeypatch.setattr("orchestration.launching.sensor.RECENT", timedelta(0))
    assert stage_one_tick(instance)[0] == [], "its run failed: the same content is not tried again by itself"
    write_course(catalogue, "1", {"a": "copper"})
    assert len(stage_one_tick(instance)[0]) == 1, "the content changed"


def test_an_edit_that_keeps_count_and_length_is_noticed(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})
    assert dg.materialize(
        [course_chunks, course_collection], instance=instance, resources=resources, partition_key=course_id
    ).success
    assert stage_one_tick(instance)[0] == []
    KeywordStore(KeywordSettings()).delete(course_id)
    assert stage_one_tick(instance)[0] == [], "a keyword index that is missing is no reason to embed"
    write_course(catalogue, course_id, {"a": "Copper is old."})
    assert len(stage_one_tick(instance)[0]) == 1


def test_a_course_that_an_operator_cancelled_is_left_alone(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    """However the run was launched; the next edit or request brings the course back."""
    write_course(catalogue, course_id, {"a": "Copper is red."})

    def cancel(*_: object) -> bool:
        [run] = instance.get_runs()
        instance.report_run_canceling(run)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(course_state, "report_progress", cancel)
        dg.materialize(
            [course_chunks, course_collection], instance=instance, resources=resources, partition_key=course_id
        )
    status_tick(instance)
    assert read_course(catalogue, course_id).embedding_error == "cancelled"
    assert stage_one_tick(instance)[0] == []
    write_course(catalogue, course_id, {"a": "Copper is old."})
    assert len(stage_one_tick(instance)[0]) == 1


def test_a_request_that_failed_is_not_tried_again_by_itself(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})
    request(catalogue, course_id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("embedding.vector_store.collections.CourseCollection.count", lambda _: 0)
        result = dg.materialize(
            [course_chunks, course_collection],
            instance=instance,
            resources=resources,
            partition_key=course_id,
            raise_on_error=False,
        )
    assert not result.success
    status_tick(instance)
    assert stage_one_tick(instance)[0] == []
    assert read_course(catalogue, course_id).embedding_status == EmbeddingStatus.FAILED


def test_a_request_whose_run_died_before_it_began_is_told(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    request(catalogue, "1")
    stage_one_tick(instance)
    status_tick(instance)
    [run] = instance.get_runs()
    assert read_course(catalogue, "1").embedding_run_id == run.run_id
    instance.report_run_failed(run, "The code location is broken.")
    status_tick(instance)
    course = read_course(catalogue, "1")
    assert (course.embedding_status, course.embedding_error) == ("failed", "The code location is broken.")


def test_a_run_that_could_not_reach_the_catalogue_is_followed_by_another(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources, course_id: str
) -> None:
    write_course(catalogue, course_id, {"a": "Copper is red."})

    def away(*_: object, **__: object) -> bool:
        raise DatabaseUnavailableError("The database is away.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(course_state, "report_progress", away)
        patch.setattr(course_state, "fail_course", away)
        dg.materialize(
            [course_chunks, course_collection],
            instance=instance,
            resources=resources,
            partition_key=course_id,
            raise_on_error=False,
        )
    assert read_course(catalogue, course_id).embedding_status == EmbeddingStatus.RUNNING
    status_tick(instance)
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "The database is away." in (course.embedding_error or "")
    assert len(stage_one_tick(instance)[0]) == 1


def test_two_queued_runs_of_a_course_do_not_push_each_other_aside(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    runs = {create_run(instance, {PARTITION_TAG: "1"}).run_id for _ in range(2)}
    status_tick(instance)
    owner = read_course(catalogue, "1").embedding_run_id
    assert owner in runs
    status_tick(instance)
    assert read_course(catalogue, "1").embedding_run_id == owner


@pytest.mark.parametrize("home", [None, "/another/project"])
def test_the_sensors_rest_in_an_instance_that_was_not_prepared(
    catalogue: Engine, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Copper"})
    change_course(catalogue, "1", embedding_status="running", embedding_run_id="of another instance")
    monkeypatch.setenv("DAGSTER_HOME", home) if home else monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        for sensor in (stage_one_sensor, course_status_sensor, deleted_course_sensor):
            with sensor_context(instance, None) as context:
                result = sensor(context)
            assert isinstance(result, dg.SkipReason)
            assert "so the sensors rest" in (result.skip_message or "")
            assert (home or "DAGSTER_HOME is not set") in (result.skip_message or "")
        assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.RUNNING
        prepare(instance)
        assert launched(stage_one_tick(instance)[0]) == [["2"]]


def test_a_chunk_without_text_stops_nobody(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """Stage one's own table may allow it."""
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Copper"})
    with catalogue.begin() as connection:
        connection.execute(text("CREATE TABLE loose AS SELECT * FROM chunk"))
        connection.execute(text("DROP TABLE chunk"))
        connection.execute(text("ALTER TABLE loose RENAME TO chunk"))
        connection.execute(text("UPDATE chunk SET text = NULL WHERE id = 'a'"))
    assert launched(stage_one_tick(instance)[0]) == [["1", "2"]]


def test_a_request_is_taken_up_once(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"}, statuses=["processing"])
    assert stage_one_tick(instance)[0] == []
    request(catalogue, "1")
    assert len(stage_one_tick(instance)[0]) == 1
    assert stage_one_tick(instance)[0] == []
    end_runs(instance)
    assert stage_one_tick(instance)[0] == []
    request(catalogue, "1")
    assert len(stage_one_tick(instance)[0]) == 1


def test_courses_that_were_ingested_together_share_runs(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    names = [f"{number:02}" for number in range(COURSES_PER_RUN + 2)]
    for name in names:
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    requests, _ = stage_one_tick(instance)
    assert launched(requests) == [names[:COURSES_PER_RUN], names[COURSES_PER_RUN:]]
    [run, *_] = (run for run in instance.get_runs() if run.tags.get(RANGE_START_TAG) == "00")
    assert run.tags[RANGE_END_TAG] == names[COURSES_PER_RUN - 1]
    assert stage_one_tick(instance)[0] == []
    end_runs(instance)
    assert stage_one_tick(instance)[0] == [], "the same content is not tried again by itself, alone or in a group"


def test_launches_are_capped_and_the_rest_comes_later(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestration.launching.sensor.MAX_RUNS_PER_TICK", 1)
    names = [f"{number:02}" for number in range(COURSES_PER_RUN + 3)]
    for name in names:
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    first, _ = stage_one_tick(instance)
    second, _ = stage_one_tick(instance)
    assert launched(first) + launched(second) == [names[:COURSES_PER_RUN], names[COURSES_PER_RUN:]]


def test_a_course_in_a_range_of_a_backfill_is_not_launched_beside_it(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    for name in ("1", "2", "3"):
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    instance.add_dynamic_partitions("courses", ["1", "2", "3"])
    create_run(instance, {RANGE_START_TAG: "1", RANGE_END_TAG: "2"})
    assert launched(stage_one_tick(instance)[0]) == [["3"]]


def test_while_the_vector_store_is_away_nothing_is_launched_and_nothing_forgotten(
    instance: dg.DagsterInstance, catalogue: Engine, chroma_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    requests, result = stage_one_tick(instance)
    assert requests == []
    assert isinstance(result, dg.SkipReason)
    assert "1 courses wait" in (result.skip_message or "")
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    assert len(stage_one_tick(instance)[0]) == 1


def test_without_a_migrated_database_the_sensors_say_what_to_do(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.db").touch()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/empty.db")
    _, result = stage_one_tick(instance)
    assert isinstance(result, dg.SkipReason)
    assert "alembic upgrade head" in (result.skip_message or "")


def test_a_queued_run_makes_its_courses_pending(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    for name in ("1", "2"):
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    instance.add_dynamic_partitions("courses", ["1", "2"])
    run = create_run(instance, {RANGE_START_TAG: "1", RANGE_END_TAG: "2"})
    status_tick(instance)
    for name in ("1", "2"):
        course = read_course(catalogue, name)
        assert (course.embedding_status, course.embedding_run_id) == ("pending", run.run_id)


@pytest.mark.parametrize("state", ["running", "pending"])
def test_a_run_that_died_leaves_its_course_failed(instance: dg.DagsterInstance, catalogue: Engine, state: str) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    run = create_run(instance, {PARTITION_TAG: "1"}, dg.DagsterRunStatus.STARTED)
    change_course(catalogue, "1", embedding_status=state, embedding_run_id=run.run_id)
    status_tick(instance)
    assert read_course(catalogue, "1").embedding_status == state
    instance.report_run_failed(run, "The worker was killed.")
    status_tick(instance)
    course = read_course(catalogue, "1")
    assert (course.embedding_status, course.embedding_error) == ("failed", "The worker was killed.")


def test_a_cancelled_run_and_a_deleted_one_are_told(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    runs = {}
    for name in ("1", "2"):
        write_course(catalogue, name, {f"{name}/a": "Copper"})
        runs[name] = create_run(instance, {PARTITION_TAG: name}, dg.DagsterRunStatus.STARTED)
        change_course(catalogue, name, embedding_status="running", embedding_run_id=runs[name].run_id)
    instance.report_run_canceled(runs["1"])
    instance.delete_run(runs["2"].run_id)
    status_tick(instance)
    assert read_course(catalogue, "1").embedding_error == "cancelled"
    assert read_course(catalogue, "2").embedding_error == "the run was deleted"


@pytest.mark.parametrize("marked", [True, False], ids=["marked as queued", "cancelled before the first tick"])
def test_a_run_that_was_cancelled_in_the_queue_is_not_launched_again(
    instance: dg.DagsterInstance, catalogue: Engine, marked: bool
) -> None:
    """An operator launched it, so it carries no reason; the content it would have published is left alone."""
    write_course(catalogue, "1", {"a": "Copper"})
    instance.add_dynamic_partitions("courses", ["1"])
    cursor = status_tick(instance)
    run = create_run(instance, {PARTITION_TAG: "1"})
    if marked:
        status_tick(instance)
    instance.report_run_canceled(run)
    assert stage_one_tick(instance)[0] == [], "the row does not show the cancellation yet"
    status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_error == "cancelled"
    assert stage_one_tick(instance)[0] == []
    write_course(catalogue, "1", {"a": "copper"})
    assert len(stage_one_tick(instance)[0]) == 1


def test_the_retry_of_a_run_leaves_published_courses_alone(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    for name in ("1", "2"):
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    stage_one_tick(instance)
    [run] = instance.get_runs()
    change_course(catalogue, "1", embedding_status="done", embedding_generation=1, embedding_run_id=run.run_id)
    instance.report_run_failed(run, "The worker was killed.")
    status_tick(instance)
    create_run(instance, dict(run.tags))
    status_tick(instance)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.DONE
    assert read_course(catalogue, "2").embedding_status == EmbeddingStatus.PENDING


def test_a_run_that_died_before_it_began_is_told_of_a_course_it_never_touched(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    cursor = status_tick(instance)
    run = create_run(instance, {PARTITION_TAG: "1"})
    instance.report_run_failed(run, "The code location is broken.")
    status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_error == "The code location is broken."


def test_an_old_run_says_nothing_about_a_course_that_went_on(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Copper"})
    old = [create_run(instance, {PARTITION_TAG: name}) for name in ("1", "2")]
    change_course(catalogue, "1", embedding_status="done", embedding_run_id="newer")
    for run in old:
        instance.report_run_failed(run)
    request(catalogue, "2")
    status_tick(instance)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.DONE
    assert read_course(catalogue, "2").embedding_status == EmbeddingStatus.PENDING


@pytest.mark.parametrize("ends_well", [True, False])
@pytest.mark.parametrize("by_sensor", [True, False])
def test_a_request_that_comes_while_a_run_goes_on_to_other_courses_is_taken_up(
    instance: dg.DagsterInstance, catalogue: Engine, by_sensor: bool, ends_well: bool
) -> None:
    """The run has published the course and knows nothing of the request, and it is not over."""
    for name in ("1", "2"):
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    (launched_run,) = stage_one_tick(instance)[0]
    instance.delete_run(instance.get_runs()[0].run_id)
    tags = launched_run.tags if by_sensor else {RANGE_START_TAG: "1", RANGE_END_TAG: "2"}
    run = create_run(instance, dict(tags), dg.DagsterRunStatus.STARTED)
    change_course(catalogue, "1", embedding_status="done", embedding_run_id=run.run_id, embedding_generation=1)
    change_course(catalogue, "2", embedding_status="running", embedding_run_id=run.run_id)
    request(catalogue, "1")
    status_tick(instance)
    assert stage_one_tick(instance)[0] == [], "the run holds the course still"
    if ends_well:
        change_course(catalogue, "2", embedding_status="done", embedding_generation=1)
        event = dg.DagsterEvent(dg.DagsterEventType.RUN_SUCCESS.value, "embed_course")
        instance.report_dagster_event(event, run.run_id)
    else:
        instance.report_run_failed(run)
    status_tick(instance)
    course = read_course(catalogue, "1")
    assert (course.embedding_status, course.embedding_run_id) == (EmbeddingStatus.PENDING, None)
    assert "1" in launched(stage_one_tick(instance)[0])[0]


def test_a_deleted_course_loses_all_that_was_made_of_it(
    instance: dg.DagsterInstance,
    catalogue: Engine,
    resources: Resources,
    course_id: str,
    vector_store: VectorStore,
) -> None:
    another = f"another-{course_id}"
    instance.add_dynamic_partitions("courses", [another])
    for name in (another, course_id):
        write_course(catalogue, name, {f"{name}/a": "Copper"})
        assert dg.materialize(
            [course_chunks, course_collection], instance=instance, resources=resources, partition_key=name
        ).success
    with catalogue.begin() as connection:
        connection.execute(text("DELETE FROM course WHERE id = :id"), {"id": course_id})
    cursor = None
    for _ in range(3):
        with sensor_context(instance, cursor) as context:
            result = deleted_course_sensor(context)
            cursor = context.cursor
        for change in getattr(result, "dynamic_partitions_requests", None) or []:
            [instance.delete_dynamic_partition("courses", key) for key in change.partition_keys]
    assert instance.get_dynamic_partitions("courses") == [another]
    vector_store.open(another)
    with pytest.raises(CollectionNotFoundError):
        vector_store.open(course_id)
    assert KeywordStore(KeywordSettings()).directories() == [directory_name(another)]


def test_an_interrupted_rebuild_is_taken_up(
    instance: dg.DagsterInstance, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    change_course(catalogue, "1", embedding_status="running", embedding_run_id=f"{REBUILD_OWNER_PREFIX}1")
    cursor = status_tick(instance)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.RUNNING, "it may only be slow"
    monkeypatch.setattr("orchestration.course_status.observe.REBUILD_GRACE", timedelta(0))
    status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_error == "the rebuild was interrupted"
    assert len(stage_one_tick(instance)[0]) == 1


def test_the_gpus_pool_is_limited_before_its_first_run(tmp_path: Path) -> None:
    overrides = {"concurrency": {"pools": {"default_limit": 1}}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        prepare(instance)
        assert [(pool.name, pool.limit) for pool in instance.event_log_storage.get_pool_limits()] == [("gpu", 1)]
        instance.event_log_storage.set_concurrency_slots("gpu", 3)
        prepare(instance)
        [pool] = instance.event_log_storage.get_pool_limits()
        assert pool.limit == 3, "an operator's own limit stays"


@pytest.fixture
def _told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The row has been told of every run that is over."""
    monkeypatch.setattr("orchestration.launching.sensor.RECENT", timedelta(0))


@pytest.mark.usefixtures("_told")
def test_a_course_whose_row_was_made_anew_is_embedded_anew(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """Its first run was launched for the very same content; the row decides."""
    write_course(catalogue, "1", {"a": "Copper"})
    assert launched(stage_one_tick(instance)[0]) == [["1"]]
    [run] = instance.get_runs()
    instance.report_run_canceled(run)
    with catalogue.begin() as connection:
        connection.execute(text("DELETE FROM course"))
    cursor = status_tick(instance)
    write_course(catalogue, "1", {"a": "Copper"})
    status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.NOT_STARTED, "that run is long over"
    assert launched(stage_one_tick(instance)[0]) == [["1"]]


@pytest.mark.usefixtures("_told")
def test_a_course_that_was_not_ingested_when_its_run_began_is_embedded_when_it_is(
    instance: dg.DagsterInstance, catalogue: Engine, resources: Resources
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    [request], _ = stage_one_tick(instance)
    end_runs(instance)
    write_course(catalogue, "1", {"a": "Copper"}, statuses=["succeeded", "processing"])
    instance.add_dynamic_partitions("courses", ["1"])
    result = dg.materialize(
        [course_chunks, course_collection],
        instance=instance,
        resources=resources,
        partition_key="1",
        tags=request.tags,
        raise_on_error=False,
    )
    assert not result.success
    assert "has not ingested" in (read_course(catalogue, "1").embedding_error or "")
    assert stage_one_tick(instance)[0] == []
    write_course(catalogue, "1", {"a": "Copper"})
    assert launched(stage_one_tick(instance)[0]) == [["1"]]


@pytest.mark.usefixtures("_told")
def test_a_course_that_kills_its_worker_takes_no_other_with_it(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    for name in ("1", "2", "3"):
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    cursor = status_tick(instance)
    stage_one_tick(instance)
    cursor = status_tick(instance, cursor)
    [run] = instance.get_runs()
    published = reasons_of(run.tags)["1"].content
    change_course(catalogue, "1", embedding_status="done", embedding_fingerprint=published, embedding_generation=1)
    change_course(catalogue, "2", embedding_status="running", embedding_run_id=run.run_id)
    instance.report_run_failed(run, "The worker was killed.")
    status_tick(instance, cursor)
    assert [read_course(catalogue, name).embedding_status for name in "123"] == ["done", "failed", "failed"]
    assert launched(stage_one_tick(instance)[0]) == [["3"]], "2 is settled, 3 is not to blame"


@pytest.mark.usefixtures("_told")
def test_a_run_that_cannot_begin_is_not_launched_again_and_again(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    cursor = status_tick(instance)
    stage_one_tick(instance)
    change_course(catalogue, "1", embedding_status="done", embedding_fingerprint="of an older content")
    end_runs(instance)
    status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.DONE
    assert stage_one_tick(instance)[0] == []


def test_however_many_runs_end_badly_at_once_every_one_is_told_once(
    instance: dg.DagsterInstance, catalogue: Engine
) -> None:
    cursor = status_tick(instance)
    for _ in range(2):
        for _ in range(120):
            instance.report_run_canceled(create_run(instance, {PARTITION_TAG: "another"}))
        cursor = status_tick(instance, cursor)
    write_course(catalogue, "1", {"a": "Copper"})
    instance.report_run_failed(create_run(instance, {PARTITION_TAG: "1"}), "The code location is broken.")
    cursor = status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_error == "The code location is broken."
    change_course(catalogue, "1", embedding_status="not_started", embedding_error=None, embedding_run_id=None)
    status_tick(instance, cursor)
    assert read_course(catalogue, "1").embedding_status == EmbeddingStatus.NOT_STARTED


def test_what_somebody_asked_for_goes_first(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    names = [f"{number:02}" for number in range(2 * COURSES_PER_RUN)]
    for name in names:
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    request(catalogue, names[-1])
    requests, _ = stage_one_tick(instance)
    assert launched(requests) == [names[COURSES_PER_RUN:], names[:COURSES_PER_RUN]]
    assert [one.tags.get("dagster/priority") for one in requests] == ["1", None]


def test_an_ingested_course_without_chunks_is_named(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    write_course(catalogue, "1", {})
    requests, result = stage_one_tick(instance)
    assert requests == []
    assert isinstance(result, dg.SkipReason)
    assert "ingested but have no chunks: 1" in (result.skip_message or "")


@pytest.mark.parametrize("damage", ["x'ff00ff'", "CAST(x'68656c6c6fEDA080' AS TEXT)"])
def test_a_course_that_cannot_be_read_is_told_and_stops_nobody(
    instance: dg.DagsterInstance, catalogue: Engine, damage: str
) -> None:
    """SQLite takes any bytes for text."""
    write_course(catalogue, "1", {"a": "Copper"})
    write_course(catalogue, "2", {"b": "Copper"})
    request(catalogue, "1")
    with catalogue.begin() as connection:
        connection.execute(text(f"UPDATE chunk SET text = {damage} WHERE id = 'a'"))
    assert launched(stage_one_tick(instance)[0]) == [["2"]]
    course = read_course(catalogue, "1")
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "A chunk of the course cannot be read" in (course.embedding_error or "")
    write_course(catalogue, "1", {"a": "Copper"})
    assert launched(stage_one_tick(instance)[0]) == [["1"]]


def test_the_courses_that_a_retry_will_come_to_wait_for_it(instance: dg.DagsterInstance, catalogue: Engine) -> None:
    """Though its first run died before their turn, and though nobody saw the retry in the queue."""
    for name in ("1", "2"):
        write_course(catalogue, name, {f"{name}/a": "Copper"})
    cursor = status_tick(instance)
    stage_one_tick(instance)
    [run] = instance.get_runs()
    change_course(catalogue, "1", embedding_status="running", embedding_run_id=run.run_id)
    instance.report_run_failed(run, "The worker was killed.")
    retry = create_run(instance, dict(run.tags), dg.DagsterRunStatus.STARTED)
    cursor = status_tick(instance, cursor)
    status_tick(instance, cursor)
    states = [read_course(catalogue, name) for name in ("1", "2")]
    assert [(course.embedding_status, course.embedding_run_id) for course in states] == [("pending", retry.run_id)] * 2

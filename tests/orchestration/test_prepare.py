"""`prepare` sets up a Dagster instance; in other instances all sensors skip their ticks."""

from pathlib import Path

import dagster as dg
import pytest
from sqlalchemy import Engine

from orchestration.course_status.sensor import course_status_sensor
from orchestration.deleted_courses.sensor import deleted_course_sensor
from orchestration.deleted_courses.withdrawn import withdrawn_course_sensor
from orchestration.launching.sensor import stage_one_sensor
from orchestration.partitions import PARTITIONS_NAME
from orchestration.prepare import prepare
from orchestration.uploaded_files.sensor import resource_sensor
from tests.orchestration.ticks import stage_one_tick, tick
from tests.support.courses import change_course, read_course, write_course

every_sensor = pytest.mark.parametrize(
    "sensor",
    [stage_one_sensor, course_status_sensor, deleted_course_sensor, resource_sensor, withdrawn_course_sensor],
    ids=lambda sensor: sensor.name,
)


@every_sensor
def test_the_description_of_a_sensor_says_that_it_skips_unprepared_instances(sensor: dg.SensorDefinition) -> None:
    assert "Skips every tick if DAGSTER_HOME is not set, or if its instance was not prepared" in (
        sensor.description or ""
    )


@every_sensor
@pytest.mark.parametrize("home", [None, "/another/project"])
def test_a_sensor_skips_its_tick_in_an_unprepared_instance_and_says_why(
    catalogue: Engine, monkeypatch: pytest.MonkeyPatch, sensor: dg.SensorDefinition, home: str | None
) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    change_course(catalogue, "1", embedding_status="running", embedding_run_id="run of another instance")
    monkeypatch.setenv("DAGSTER_HOME", home) if home else monkeypatch.delenv("DAGSTER_HOME", raising=False)
    with dg.DagsterInstance.ephemeral() as instance:
        message = tick(sensor, instance).skip_message
        assert "was not prepared for this product, so the sensors skip every tick" in message
        assert "`python -m orchestration.prepare`" in message
        assert (home or "DAGSTER_HOME is not set") in message
        assert read_course(catalogue, "1").embedding_status == "running"
        assert instance.get_dynamic_partitions(PARTITIONS_NAME) == []


def test_the_sensors_work_after_the_instance_was_prepared(catalogue: Engine) -> None:
    write_course(catalogue, "1", {"a": "Copper"})
    with dg.DagsterInstance.ephemeral() as instance:
        prepare(instance)
        assert stage_one_tick(instance).launched == [["1"]]


@every_sensor
def test_a_sensor_skips_its_tick_if_the_database_is_not_migrated(
    instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sensor: dg.SensorDefinition
) -> None:
    (tmp_path / "empty.db").touch()
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/empty.db")
    assert "course-search migrate" in tick(sensor, instance).skip_message


def test_prepare_limits_the_gpu_pool_and_keeps_the_limit_of_an_operator(tmp_path: Path) -> None:
    overrides = {"concurrency": {"pools": {"default_limit": 1}}}
    with dg.DagsterInstance.local_temp(str(tmp_path), overrides=overrides) as instance:
        storage = instance.event_log_storage
        prepare(instance)
        assert [(pool.name, pool.limit) for pool in storage.get_pool_limits()] == [("gpu", 1)]
        storage.set_concurrency_slots("gpu", 3)
        prepare(instance)
        assert [(pool.name, pool.limit) for pool in storage.get_pool_limits()] == [("gpu", 3)]

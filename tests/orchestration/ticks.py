"""Ticks of the sensors and runs of the pipeline, in the Dagster instance of a test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import dagster as dg
from sqlalchemy import Engine

from models import course_state
from models.database import transaction
from orchestration.assets import course_chunks, course_collection
from orchestration.course_status.sensor import course_status_sensor
from orchestration.definitions import defs
from orchestration.deleted_courses.sensor import deleted_course_sensor
from orchestration.launching.sensor import stage_one_sensor
from orchestration.partitions import COLLECTION, JOB, PARTITIONS_NAME
from orchestration.resources import (
    CatalogueResource,
    DocumentResource,
    ExaminationResource,
    GpuResource,
    SearchAppResource,
    SnapshotResource,
    VectorStoreResource,
)
from orchestration.run_config import OP, LaunchReason, RunConfig
from tests.support.courses import read_course

Resources = dict[str, dg.ConfigurableResource[None]]


@dataclass(frozen=True)
class Tick:
    """The result of one tick of a sensor."""

    result: dg.SensorResult | dg.SkipReason
    cursor: str | None

    @property
    def requests(self) -> Sequence[dg.RunRequest]:
        return [] if isinstance(self.result, dg.SkipReason) else self.result.run_requests or []

    @property
    def launched(self) -> list[list[str]]:
        """The course ids of each launched run."""
        return [[course["course_id"] for course in self.config(request)["courses"]] for request in self.requests]

    @staticmethod
    def config(request: dg.RunRequest) -> dict[str, Any]:
        """The configuration of a requested run, as `RunConfig` without defaults."""
        config: dict[str, Any] = request.run_config["ops"][OP]["config"]
        return config

    @property
    def skip_message(self) -> str:
        assert isinstance(self.result, dg.SkipReason)
        return self.result.skip_message or ""


def all_resources() -> Resources:
    """The resources as the environment configures them now."""
    return {
        "catalogue": CatalogueResource(),
        "vector_store": VectorStoreResource(),
        "snapshots": SnapshotResource(),
        "documents": DocumentResource(),
        "examination": ExaminationResource(),
        "gpu": GpuResource(),
        "search_app": SearchAppResource(),
    }


def tick(sensor: dg.SensorDefinition, instance: dg.DagsterInstance, cursor: str | None = None) -> Tick:
    """Evaluate a sensor, and add and delete partitions as the daemon would."""
    with dg.build_sensor_context(instance=instance, cursor=cursor, resources=all_resources()) as context:
        result = sensor(context)
        assert isinstance(result, dg.SensorResult | dg.SkipReason)
        assert getattr(result, "cursor", None) is None, "Dagster rejects a cursor in the result and in the context"
        for change in getattr(result, "dynamic_partitions_requests", None) or []:
            if isinstance(change, dg.AddDynamicPartitionsRequest):
                instance.add_dynamic_partitions(PARTITIONS_NAME, list(change.partition_keys))
            else:
                for key in change.partition_keys:
                    instance.delete_dynamic_partition(PARTITIONS_NAME, key)
        return Tick(result, context.cursor)


def stage_one_tick(instance: dg.DagsterInstance, cursor: str | None = None) -> Tick:
    """Evaluate `stage_one_sensor`, and create the requested runs as the daemon would. The runs do not execute."""
    result = tick(stage_one_sensor, instance, cursor)
    for request in result.requests:
        create_run(instance, request.tags, run_config=request.run_config)
    return result


def course_status_tick(instance: dg.DagsterInstance, cursor: str | None = None) -> str | None:
    """Evaluate `course_status_sensor`; returns the next cursor."""
    return tick(course_status_sensor, instance, cursor).cursor


def deleted_course_tick(instance: dg.DagsterInstance, cursor: str | None = None) -> Tick:
    return tick(deleted_course_sensor, instance, cursor)


def create_run(
    instance: dg.DagsterInstance,
    tags: Mapping[str, str],
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.NOT_STARTED,
    *,
    run_config: Mapping[str, Any] | None = None,
) -> dg.DagsterRun:
    """Create a run of our job that does not execute."""
    return instance.create_run_for_job(defs.resolve_job_def(JOB), tags=tags, status=status, run_config=run_config)


def create_asset_run(
    instance: dg.DagsterInstance,
    tags: Mapping[str, str],
    status: dg.DagsterRunStatus = dg.DagsterRunStatus.NOT_STARTED,
    *,
    assets: Sequence[dg.AssetKey] = (),
    checks: Sequence[dg.AssetCheckKey] = (),
) -> dg.DagsterRun:
    """Create a run of selected assets or checks, as the UI does, that does not execute."""
    run = dg.DagsterRun(
        "__ASSET_JOB",
        str(uuid4()),
        tags=tags,
        status=status,
        asset_selection=frozenset(assets),
        asset_check_selection=frozenset(checks),
    )
    return instance.add_run(run)


def run_config(*reasons: LaunchReason, rebuild: bool = False) -> Mapping[str, Any]:
    """The configuration of a run that was launched for these reasons."""
    request = dg.RunRequest(run_config=dg.RunConfig(ops={OP: RunConfig(rebuild=rebuild, courses=list(reasons))}))
    return request.run_config


def fail_unfinished_runs(instance: dg.DagsterInstance) -> None:
    for run in instance.get_runs():
        if not run.is_finished:
            instance.report_run_failed(run)


def request_embedding(catalogue: Engine, course_id: str, *, rebuild: bool = False) -> None:
    with transaction(catalogue) as session:
        assert course_state.request_embedding(session, course_id, datetime.now(UTC), rebuild=rebuild)


def row(catalogue: Engine, course_id: str) -> dict[str, Any]:
    """All columns of the course's row."""
    return read_course(catalogue, course_id).model_dump()


def materialize(
    instance: dg.DagsterInstance,
    resources: Resources,
    partition_key: str | None = None,
    tags: Mapping[str, str] | None = None,
    selection: Sequence[dg.AssetKey] | None = None,
    run_config: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Execute a run in this process. A failed run does not raise."""
    return dg.materialize(
        [course_chunks, course_collection],
        instance=instance,
        resources=resources,
        partition_key=partition_key,
        tags=tags,
        selection=selection,
        run_config=run_config,
        raise_on_error=False,
    )


def metadata_of(result: dg.ExecuteInProcessResult, asset: dg.AssetKey = COLLECTION) -> dict[str, object]:
    """The metadata of the asset's materialization."""
    [event] = [event for event in result.get_asset_materialization_events() if event.asset_key == asset]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def failed_checks(result: dg.ExecuteInProcessResult) -> list[str]:
    return [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]

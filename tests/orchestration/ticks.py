"""Ticks of the sensors and runs of the pipeline, in the Dagster instance of a test."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import dagster as dg
from sqlalchemy import Engine

from models import course_state
from models.database import transaction
from orchestration.assets import course_chunks, course_collection
from orchestration.course_status.sensor import course_status_sensor
from orchestration.definitions import defs
from orchestration.deleted_courses.sensor import deleted_course_sensor
from orchestration.launching.launch_reasons import reasons_of
from orchestration.launching.sensor import stage_one_sensor
from orchestration.partitions import COLLECTION, JOB, PARTITION_TAG, PARTITIONS_NAME
from orchestration.resources import (
    CatalogueResource,
    GpuResource,
    KeywordIndexResource,
    SearchAppResource,
    VectorStoreResource,
)

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
        return [list(reasons_of(request.tags)) for request in self.requests]

    @property
    def skip_message(self) -> str:
        assert isinstance(self.result, dg.SkipReason)
        return self.result.skip_message or ""


def all_resources() -> Resources:
    """The resources as the environment configures them now."""
    return {
        "catalogue": CatalogueResource(),
        "vector_store": VectorStoreResource(),
        "keyword_indexes": KeywordIndexResource(),
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
        partition = {PARTITION_TAG: request.partition_key} if request.partition_key else {}
        create_run(instance, {**request.tags, **partition})
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
) -> dg.DagsterRun:
    """Create a run that does not execute."""
    return instance.create_run_for_job(defs.resolve_job_def(JOB), tags=tags, status=status)


def fail_unfinished_runs(instance: dg.DagsterInstance) -> None:
    for run in instance.get_runs():
        if not run.is_finished:
            instance.report_run_failed(run)


def request_embedding(catalogue: Engine, course_id: str) -> None:
    with transaction(catalogue) as session:
        assert course_state.request_embedding(session, course_id, datetime.now(UTC))


def materialize(
    instance: dg.DagsterInstance,
    resources: Resources,
    partition_key: str | None = None,
    tags: Mapping[str, str] | None = None,
    selection: Sequence[dg.AssetKey] | None = None,
) -> dg.ExecuteInProcessResult:
    """Execute a run in this process. A failed run does not raise."""
    return dg.materialize(
        [course_chunks, course_collection],
        instance=instance,
        resources=resources,
        partition_key=partition_key,
        tags=tags,
        selection=selection,
        raise_on_error=False,
    )


def metadata_of(result: dg.ExecuteInProcessResult, asset: dg.AssetKey = COLLECTION) -> dict[str, object]:
    """The metadata of the asset's materialization."""
    [event] = [event for event in result.get_asset_materialization_events() if event.asset_key == asset]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def failed_checks(result: dg.ExecuteInProcessResult) -> list[str]:
    return [check.check_name for check in result.get_asset_check_evaluations() if not check.passed]

"""`deleted_course_sensor`: removes collections, snapshots and partitions of deleted courses."""

import dagster as dg

from embedding.vector_store.errors import VectorStoreError
from models.courses import list_course_ids
from models.database import DatabaseUnavailableError
from orchestration.deleted_courses.removal import NothingRemovedError, find_deleted, remove_courses
from orchestration.instance.prepared import SKIPS_UNLESS_PREPARED, reason_to_skip
from orchestration.partitions import OWNERS, course_partitions, partition_keys
from orchestration.resources import CatalogueResource, SnapshotResource, VectorStoreResource
from orchestration.runs import courses_with_run
from retrieval.snapshots.store import SnapshotStoreError

REMOVAL_INTERVAL_SECONDS = 20
_BACKFILL_STATES = ("REQUESTED", "CANCELING", "FAILING")
"""States of a backfill that has not ended. Dagster's enum is not public."""
_RECENT_BACKFILLS = 50


@dg.sensor(
    minimum_interval_seconds=REMOVAL_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Removes the collection, snapshot and partition of every course that was deleted from the "
    "catalogue. " + SKIPS_UNLESS_PREPARED,
)
def deleted_course_sensor(
    context: dg.SensorEvaluationContext,
    catalogue: CatalogueResource,
    vector_store: VectorStoreResource,
    snapshots: SnapshotResource,
) -> dg.SensorResult | dg.SkipReason:
    """Remove the collections, snapshots and partitions of courses that two consecutive ticks did not find."""
    if reason := reason_to_skip(context.instance):
        return dg.SkipReason(reason)
    known = partition_keys(context.instance)
    try:
        with catalogue.transaction() as session:
            existing = set(list_course_ids(session))
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    missing = [course_id for course_id in known if course_id not in existing]
    result = find_deleted(missing, existing, courses_with_run(context.instance), context.cursor)
    context.update_cursor(result.cursor)
    is_waiting = bool(result.deleted) and _is_backfill_in_progress(context.instance)
    if is_waiting or not result.deleted:
        waiting = "; they are removed when no backfill is in progress" if is_waiting else ""
        return dg.SkipReason(result.message + waiting)
    try:
        removed = remove_courses(catalogue.engine(), vector_store.store(), snapshots.store(), result.deleted)
    except (DatabaseUnavailableError, VectorStoreError, SnapshotStoreError) as error:
        return dg.SkipReason(str(error))
    except NothingRemovedError as error:
        context.log.warning(str(error))
        return dg.SkipReason(str(error))
    for course_id in removed:
        context.log.info(
            f"Removed the collection and snapshot of course {course_id}, which was deleted from the catalogue"
        )
    return dg.SensorResult(
        dynamic_partitions_requests=[course_partitions.build_delete_request(list(removed))] if removed else []
    )


def _is_backfill_in_progress(instance: dg.DagsterInstance) -> bool:
    """Whether one of the latest backfills has not ended.

    If a partition of a backfill disappears before its run is launched, Dagster fails the backfill and cancels the runs
    of all its courses.
    """
    return any(backfill.status.name in _BACKFILL_STATES for backfill in instance.get_backfills(limit=_RECENT_BACKFILLS))

"""The job `prune_runs`: deletes old runs with their logs.

Deleting a run deletes the materializations that it recorded. So the runs with the latest results of a course, which the
Dagster UI shows, are kept, however old they are.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg

from orchestration.assets import course_collection
from orchestration.housekeeping.settings import HousekeepingSettings
from orchestration.partitions import HOUSEKEEPING_TAG, OWNERS, QUESTIONS
from orchestration.runs import FINISHED, is_ours, reads_files
from orchestration.workers import register_worker

PAGE = 500
"""Materializations per query."""


@dg.op(description="Deletes the runs that ended more than RUN_RETENTION_DAYS ago and hold no latest result.")
def delete_old_runs(context: dg.OpExecutionContext) -> None:
    """Delete old runs and report how many were deleted and kept."""
    register_worker(context.instance, context.run_id)
    ended_before = datetime.now(UTC) - timedelta(days=HousekeepingSettings().run_retention_days)
    deleted, kept = prune(context.instance, ended_before)
    context.log.info(f"{deleted} old runs were deleted; {kept} hold the latest result of a course and were kept")
    context.add_output_metadata({"deleted": deleted, "kept": kept})


def prune(instance: dg.DagsterInstance, ended_before: datetime) -> tuple[int, int]:
    """Delete the old runs of this product; returns how many were deleted, and how many were old but kept."""
    finished = dg.RunsFilter(statuses=FINISHED, updated_before=ended_before)
    old = {run.run_id for run in instance.get_runs(finished) if _is_of_this_product(run)}
    kept = old & runs_with_latest_results(instance)
    for run_id in old - kept:
        _delete(instance, run_id)
    return len(old - kept), len(kept)


def _is_of_this_product(run: dg.DagsterRun) -> bool:
    return is_ours(run) or reads_files(run) or HOUSEKEEPING_TAG in run.tags


def runs_with_latest_results(instance: dg.DagsterInstance) -> set[str]:
    """The ids of the runs with the latest materialization, failed attempt or check result of an asset's partition."""
    storage, run_ids = instance.event_log_storage, set[str]()
    for asset in course_collection.keys:
        latest = storage.get_latest_storage_id_by_partition(asset, dg.DagsterEventType.ASSET_MATERIALIZATION)
        ids = list(latest.values())
        for start in range(0, len(ids), PAGE):
            page = dg.AssetRecordsFilter(asset, storage_ids=ids[start : start + PAGE])
            run_ids.update(record.run_id for record in instance.fetch_materializations(page, limit=PAGE).records)
        attempts = storage.get_latest_asset_partition_materialization_attempts_without_materializations(asset)
        run_ids.update(run_id for run_id, _ in attempts.values())
    if counted := instance.get_latest_materialization_event(QUESTIONS):
        run_ids.add(counted.run_id)
    checks = storage.get_asset_check_partition_info(list(course_collection.check_keys))
    run_ids.update(check.latest_planned_run_id for check in checks)
    return run_ids


def _delete(instance: dg.DagsterInstance, run_id: str) -> None:
    instance.compute_log_manager.delete_logs(prefix=[run_id])
    instance.delete_run(run_id)
    storage: Any = instance.event_log_storage
    if storage.is_run_sharded:  # SQLite: Dagster leaves the run's file, now empty but not smaller
        Path(storage.path_for_shard(run_id)).unlink(missing_ok=True)


@dg.job(tags={HOUSEKEEPING_TAG: "prune_runs"}, owners=OWNERS)
def prune_runs() -> None:
    """Delete runs that ended more than RUN_RETENTION_DAYS ago, except those with the latest result of a course."""
    delete_old_runs()


prune_schedule = dg.ScheduleDefinition(
    job=prune_runs,
    cron_schedule="0 3 * * 0",
    description="Deletes old runs every Sunday. Off until it is switched on.",
    owners=OWNERS,
)

"""The job `backup`: does what `course-search backup` does, and deletes old scheduled backups."""

from pathlib import Path

import dagster as dg

from maintenance.backup import BackupSettings, archive_path, back_up
from orchestration.partitions import HOUSEKEEPING_TAG, OWNERS
from orchestration.resources import PATIENCE_SECONDS, CatalogueResource, VectorStoreResource
from orchestration.workers import register_worker

MADE_BY = "scheduled-"


@dg.op(description="Saves the vectors of all published courses to one file in BACKUP_DIR.")
def write_backup(
    context: dg.OpExecutionContext, catalogue: CatalogueResource, vector_store: VectorStoreResource
) -> None:
    """Write and verify a new archive, then delete all but the newest BACKUP_KEEP of the schedule.

    Nothing is deleted if a course is missing from the new archive because its collection is damaged: an older archive
    may still contain it.
    """
    register_worker(context.instance, context.run_id)
    settings = BackupSettings()
    path = archive_path(settings.backup_dir, MADE_BY)
    report = back_up(catalogue.engine(), vector_store.store(PATIENCE_SECONDS), path, context.log.info)
    metadata: dict[str, dg.MetadataValue | int] = {
        "archive": dg.MetadataValue.path(path.absolute()),
        "bytes": path.stat().st_size,
        "courses": len(report.saved),
        "chunks": sum(course.chunks for course in report.saved),
        "left_out": dg.MetadataValue.json(report.left_out),
        "damaged": dg.MetadataValue.json(report.damaged),
    }
    if report.damaged:
        raise dg.Failure(
            f"{path} was written, but {len(report.damaged)} courses are missing from it, because their collections are "
            "damaged. Run `course-search doctor --repair`.",
            metadata=metadata,
            allow_retries=False,
        )
    deleted = delete_old(path, settings.backup_keep)
    context.log.info(f"{path} was written; deleted: {', '.join(old.name for old in deleted) or 'nothing'}")
    context.add_output_metadata(metadata)


def delete_old(newest: Path, keep: int) -> list[Path]:
    """Delete scheduled backups next to `newest`, so that `keep` of them remain, including `newest`.

    Backups made by hand and other files are kept.
    """
    others = set(newest.parent.glob(f"course-search-{MADE_BY}????????T??????Z.zip")) - {newest}
    old = sorted(others, reverse=True)[keep - 1 :]  # the name contains the time
    for path in old:
        path.unlink(missing_ok=True)
    return old


@dg.job(tags={HOUSEKEEPING_TAG: "backup"}, owners=OWNERS)
def backup() -> None:
    """Save the vectors of all published courses to one file in BACKUP_DIR; keep the newest BACKUP_KEEP of these."""
    write_backup()


backup_schedule = dg.ScheduleDefinition(
    job=backup,
    cron_schedule="0 1 * * *",
    description="Backs up all collections every night. Off until it is switched on.",
    owners=OWNERS,
)

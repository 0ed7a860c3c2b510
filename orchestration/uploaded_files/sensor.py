"""`resource_sensor`: launches runs for uploaded files, and cleans up what runs and deleted courses left behind.

The sensor compares rows with runs at every tick instead of handling events, so a missed tick loses nothing. This module
does the I/O; `due_files` decides.
"""

import json
import time
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from documents.uploads import UploadsUnavailableError
from models.courses import list_course_ids
from models.database import DatabaseUnavailableError
from models.resources import (
    active_resources,
    courses_without_row,
    delete_resources_of,
    fail,
    resources_by_id,
    try_again,
)
from models.tables import UploadedResource
from models.text import counted
from orchestration.course_status.endings import ending_of, ending_without_run
from orchestration.instance.prepared import SENSOR_INTERVAL_SECONDS, SKIPS_UNLESS_PREPARED, reason_to_skip
from orchestration.partitions import FILES_JOB, FILES_TAG, OWNERS
from orchestration.resources import CatalogueResource, DocumentResource
from orchestration.runs import ENDED_WITHOUT_SUCCESS, UNFINISHED, reads_files
from orchestration.traces import launch_tags
from orchestration.uploaded_files.due_files import Decision, FilesRun, decide
from orchestration.uploaded_files.file_run import CANCELLED
from orchestration.uploaded_files.job import process_resource
from orchestration.uploaded_files.run_config import FILES_OP, FilesConfig, resource_ids_of

RECENT = timedelta(minutes=10)
"""How long ago a run may have ended whose files have not been looked at since. If the daemon was down for longer, the
files of such a run are simply launched again."""
LOOK_SECONDS = 30
"""A course counts as deleted if two looks, at least so far apart, did not find it."""
COURSE_TAG = "course_search/course"
_SHOWN_CHARACTERS = 200


@dg.sensor(
    job=process_resource,
    minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Launches runs of `process_resource` for uploaded files that wait, and for those that a run has left "
    "behind. Deletes the files of deleted courses. " + SKIPS_UNLESS_PREPARED,
)
def resource_sensor(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, documents: DocumentResource
) -> dg.SensorResult | dg.SkipReason:
    """Launch runs for the files that wait, and record what became of files whose run has ended."""
    if reason := reason_to_skip(context.instance):
        return dg.SkipReason(reason)
    now, started_ns = datetime.now(UTC), time.time_ns()
    try:
        _clean_up(context, catalogue, documents, now)
        with catalogue.transaction() as session:
            active = active_resources(session)
        if not active:
            return dg.SkipReason("No uploaded file waits")
        runs = _runs(context.instance, catalogue, active, now)
        decision = decide(active, runs, now)
        _record(context, catalogue, decision, now)
    except (DatabaseUnavailableError, UploadsUnavailableError) as error:
        return dg.SkipReason(str(error))
    if not decision.launch:
        left = f"; {counted(len(decision.left), 'file')} left by a run" if decision.left else ""
        return dg.SkipReason(f"{counted(decision.waiting, 'uploaded file')} being read or waiting{left}")
    return dg.SensorResult(run_requests=[_run_request(files, started_ns) for files in decision.launch])


def _runs(
    instance: dg.DagsterInstance, catalogue: CatalogueResource, active: Sequence[UploadedResource], now: datetime
) -> dict[str, FilesRun]:
    """The runs that `decide` compares the files with."""
    owners = [file.run_id for file in active if file.run_id]
    filters = [
        dg.RunsFilter(job_name=FILES_JOB, statuses=list(UNFINISHED)),
        dg.RunsFilter(job_name=FILES_JOB, statuses=list(ENDED_WITHOUT_SUCCESS), updated_after=now - RECENT),
        *([dg.RunsFilter(run_ids=owners)] if owners else []),
    ]
    records = {
        record.dagster_run.run_id: record
        for runs_filter in filters
        for record in instance.get_run_records(runs_filter)
        if reads_files(record.dagster_run)
    }
    named = {resource_id for record in records.values() for resource_id in resource_ids_of(record.dagster_run)}
    reached = {*owners, *_reached(catalogue, named.difference(file.resource_id for file in active))}
    return {
        run_id: FilesRun(
            run_id,
            resource_ids_of(record.dagster_run),
            record.create_timestamp,
            is_finished=record.dagster_run.is_finished,
            is_cancelled=record.dagster_run.status is dg.DagsterRunStatus.CANCELED,
            has_reached_a_file=record.dagster_run.is_success or run_id in reached,
        )
        for run_id, record in records.items()
    }


def _reached(catalogue: CatalogueResource, resource_ids: Iterable[str]) -> Collection[str]:
    """The runs that have begun to read one of these files."""
    with catalogue.transaction() as session:
        return {file.run_id for file in resources_by_id(session, resource_ids) if file.run_id}


def _record(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, decision: Decision, now: datetime
) -> None:
    for file, run in decision.left:
        dagster_run = context.instance.get_run_by_id(run.run_id) if run else None
        ending = ending_of(context.instance, dagster_run) if dagster_run else ending_without_run(file.run_id)
        with catalogue.transaction() as session:
            if run is not None and run.is_cancelled:
                written = fail(session, file, CANCELLED, now)
            else:
                written = try_again(session, file, ending.reason, now)
        if written:
            context.log.info(f"file {file.resource_id}: left by run {run.run_id if run else file.run_id}")


def _run_request(files: Sequence[UploadedResource], started_ns: int) -> dg.RunRequest:
    courses = {file.course_id for file in files}
    config = FilesConfig(resource_ids=[file.resource_id for file in files])
    shown = next(iter(courses))[:_SHOWN_CHARACTERS] if len(courses) == 1 else counted(len(courses), "course")
    trace = launch_tags("resource_sensor", started_ns, files=len(files))
    return dg.RunRequest(
        run_config=dg.RunConfig(ops={FILES_OP: config}),
        tags={FILES_TAG: str(len(files)), COURSE_TAG: shown, **trace},
    )


def _clean_up(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, documents: DocumentResource, now: datetime
) -> None:
    """Delete the files of deleted courses.

    Nothing is deleted if the catalogue has no course at all, because an operator may be replacing it.
    """
    looked_at, missing_before = _parse_cursor(context.cursor)
    if abs(now.timestamp() - looked_at) < LOOK_SECONDS:
        return
    with catalogue.transaction() as session:
        missing = courses_without_row(session)
        if missing and not list_course_ids(session):
            missing = []
    uploads = documents.uploads()
    for course_id in missing_before.intersection(missing):
        with catalogue.transaction() as session:
            deleted = delete_resources_of(session, course_id)
        for file in deleted:
            uploads.remove(file.resource_id, file.sha256)
        if deleted:
            context.log.info(f"Deleted {counted(len(deleted), 'uploaded file')} of the deleted course {course_id}")
    context.update_cursor(json.dumps([now.timestamp(), missing], ensure_ascii=False))


def _parse_cursor(cursor: str | None) -> tuple[float, set[str]]:
    """When courses were looked for last, as a Unix time, and which were missing; any other text is ignored."""
    try:
        looked_at, missing = json.loads(cursor or "")
        return float(looked_at), set(map(str, missing))
    except (TypeError, ValueError):
        return 0.0, set()

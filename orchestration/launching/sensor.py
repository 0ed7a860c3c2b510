"""`stage_one_sensor`: launches runs for the courses that are due.

The sensor compares the rows of all courses at every tick instead of handling events, so a missed tick loses nothing.
This module does the I/O; `due_courses` decides.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from embedding.errors import EmbeddingError
from models.course_state import fail_unreadable
from models.courses import list_courses
from models.database import DatabaseUnavailableError
from models.ingestion import ingestion_by_course
from orchestration.assets import course_chunks
from orchestration.instance.prepared import SENSOR_INTERVAL_SECONDS, SKIPS_UNLESS_PREPARED, reason_to_skip
from orchestration.jobs import embed_course
from orchestration.launching.contents import DueCourses, read_contents
from orchestration.launching.courses_per_run import group_courses
from orchestration.launching.due_courses import Candidates, find_candidates
from orchestration.launching.launch_reasons import LaunchReason, reason_tags, reasons_of, tag_filters
from orchestration.partitions import OWNERS, course_partitions, partition_keys, range_tags
from orchestration.resources import CatalogueResource, GpuResource, VectorStoreResource
from orchestration.runs import courses_cancelled_since, courses_with_run

MAX_RUNS_PER_TICK = 25
"""Submitting a run takes about half a second. The next tick launches further runs."""
RECENT = timedelta(seconds=60)
"""A reason is launched once within this time, because the row may not show yet that the previous run has ended."""
PRIORITY_TAG = "dagster/priority"


@dg.sensor(
    job=embed_course,
    minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Launches a run for every course that stage one has ingested and whose chunks or model differ from "
    "what was published, and for every course with a request (`POST /courses/{course_id}/embed`). "
    + SKIPS_UNLESS_PREPARED,
)
def stage_one_sensor(
    context: dg.SensorEvaluationContext,
    catalogue: CatalogueResource,
    vector_store: VectorStoreResource,
    gpu: GpuResource,
) -> dg.SensorResult | dg.SkipReason:
    """Launch runs for due courses, and add partitions for new courses."""
    if reason := reason_to_skip(context.instance):
        return dg.SkipReason(reason)
    signature = _model_signature(context, gpu)
    known = partition_keys(context.instance)
    with_run = courses_with_run(context.instance)
    cancelled = courses_cancelled_since(context.instance, datetime.now(UTC) - RECENT)
    try:
        with catalogue.transaction() as session:
            candidates = find_candidates(
                list_courses(session),
                ingestion_by_course(session),
                with_run=with_run,
                cancelled=cancelled,
                model_signature=signature,
                cursor=context.cursor,
            )
            due, unreadable, cursor = read_contents(session, candidates, signature)
        for course_id, problem in unreadable.items():
            with catalogue.transaction() as session:
                if fail_unreadable(session, course_id, problem):
                    context.log.warning(f"course {course_id}: failed, {problem}")
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    context.update_cursor(cursor or "")
    reasons = {reason.course_id: reason for reason in _not_launched_recently(context.instance, due)}
    if reasons and not vector_store.store().answers():
        return dg.SkipReason(
            f"{len(reasons)} courses are due, but the vector store is unreachable. Start it with `make up`."
        )
    existing = set(known)
    new = [course_id for course_id in dict.fromkeys([*candidates.ingested, *reasons]) if course_id not in existing]
    groups = group_courses(reasons, [*known, *new])[:MAX_RUNS_PER_TICK]
    if not groups and not new:
        return dg.SkipReason(_nothing_to_do(candidates))
    runs = [[reasons[course_id] for course_id in group] for group in groups]
    return dg.SensorResult(
        run_requests=[_run_request(run) for run in runs],
        dynamic_partitions_requests=[course_partitions.build_add_request(new)] if new else [],
        asset_events=[
            dg.AssetObservation(
                course_chunks.key,
                partition=reason.course_id,
                metadata={"chunks": due[reason].chunks, "characters": due[reason].characters},
                tags={"dagster/data_version": due[reason].content},
            )
            for run in runs
            for reason in run
        ],
    )


def _model_signature(context: dg.SensorEvaluationContext, gpu: GpuResource) -> str | None:
    try:
        return gpu.signature()
    except EmbeddingError as error:
        context.log.warning(str(error))
        return None


def _run_request(run: Sequence[LaunchReason]) -> dg.RunRequest:
    tags = reason_tags(run)
    if any(reason.requested_at for reason in run):
        tags[PRIORITY_TAG] = "1"
    first, last = run[0].course_id, run[-1].course_id
    if len(run) == 1:
        return dg.RunRequest(partition_key=first, tags=tags)
    return dg.RunRequest(tags={**tags, **range_tags(first, last)})


def _nothing_to_do(candidates: Candidates) -> str:
    message = f"{len(candidates.ingested)} courses are ingested, and none of them is due"
    if not candidates.empty:
        return message
    names = ", ".join(candidates.empty[:5]) + (", …" if len(candidates.empty) > 5 else "")
    return f"{message}; {len(candidates.empty)} more are ingested but have no chunks: {names}"


def _not_launched_recently(instance: dg.DagsterInstance, due: DueCourses) -> list[LaunchReason]:
    """The reasons for which no run was launched within `RECENT`.

    A due course is found by its row. After a run has ended, the row still shows the previous state until
    `course_status_sensor` has recorded the end, which takes far less than `RECENT`.
    """
    if not due:
        return []
    launched: set[LaunchReason] = set()
    for tags in tag_filters(due):
        for run in instance.get_runs(dg.RunsFilter(tags=tags, updated_after=datetime.now(UTC) - RECENT)):
            launched.update(reasons_of(run.tags).values())
    return [reason for reason in due if reason not in launched]

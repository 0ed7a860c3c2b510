"""`stage_one_sensor`: launches runs for the courses that are due.

The sensor compares the rows of all courses at every tick instead of handling events, so a missed tick loses nothing.
This module does the I/O; `due_courses` decides.
"""

import json
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby

import dagster as dg

from embedding.errors import EmbeddingError, EmbeddingServiceUnreachableError
from models.course_state import clear_due, fail_unreadable, mark_due
from models.courses import list_courses
from models.database import DatabaseUnavailableError
from models.fingerprint import CourseFingerprint
from models.ingestion import ingestion_by_course
from models.tables import Course
from orchestration.assets import course_chunks
from orchestration.instance.prepared import SENSOR_INTERVAL_SECONDS, SKIPS_UNLESS_PREPARED, reason_to_skip
from orchestration.instance.run_launcher import CourseRunLauncher
from orchestration.jobs import embed_course
from orchestration.launching.contents import Contents, read_contents
from orchestration.launching.courses_per_run import group_courses
from orchestration.launching.due_courses import Candidates, find_candidates
from orchestration.partitions import OWNERS, course_partitions, partition_keys, partition_tags
from orchestration.resources import CatalogueResource, GpuResource, VectorStoreResource
from orchestration.run_config import OP, LaunchReason, RunConfig
from orchestration.runs import courses_with_run
from orchestration.traces import launch_tags

MAX_RUNS_PER_TICK = 25
"""Submitting a run takes about half a second. The next tick launches further runs."""
REST_FACTOR, MAX_REST_SECONDS = 3.0, 30.0
"""If nothing is launched, the sensor rests this many times as long as it took to find out. A large catalogue is shared
with stage one, so at most a quarter of the time is spent on reading it."""
PRIORITY_TAG = "dagster/priority"
REQUESTED, AUTOMATIC, RETRIED = 1, 0, -1
"""Priorities of runs in Dagster's queue."""
_REASONS = {REQUESTED: "request", AUTOMATIC: "change", RETRIED: "retry"}
"""The reason of a launch in its trace."""


@dg.sensor(
    job=embed_course,
    minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Launches a run for every course that stage one has ingested and whose chunks or model differ from "
    "what was published, for every course with a request (`POST /courses/{course_id}/embed`), and for every course "
    "whose retry is due. " + SKIPS_UNLESS_PREPARED,
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
    after, rest_until = _parse_cursor(context.cursor)
    if 0 < rest_until - time.time() <= MAX_REST_SECONDS:  # otherwise the clock was set back
        return dg.SkipReason("Reading a large catalogue takes time, so this tick does not read it")
    started, started_ns = time.monotonic(), time.time_ns()
    signature, model_problem = _model_signature(gpu)
    known = partition_keys(context.instance)
    with_run = courses_with_run(context.instance)
    now = datetime.now(UTC)
    try:
        with catalogue.transaction() as session:
            candidates = find_candidates(
                list_courses(session),
                ingestion_by_course(session),
                with_run=with_run,
                model_signature=signature,
                cursor=after,
                now=now,
            )
            contents = read_contents(session, candidates, signature, gpu.context(), now)
        _record(context, catalogue, contents, now)
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    rest = min(MAX_REST_SECONDS, REST_FACTOR * (time.monotonic() - started))
    context.update_cursor(json.dumps([contents.cursor, time.time() + rest], ensure_ascii=False))
    if contents.due and (problem := _outage(model_problem, vector_store, context.instance)):
        return dg.SkipReason(f"{len(contents.due)} courses are due, but no run is launched. {problem}")
    existing = set(known)
    ids = dict.fromkeys([*candidates.ingested, *(course.id for course, _ in contents.due)])
    new = [course_id for course_id in ids if course_id not in existing]
    runs = _runs(contents.due, [*known, *new])[:MAX_RUNS_PER_TICK]
    if not runs and not new:
        return dg.SkipReason(_nothing_to_do(candidates))
    context.update_cursor(json.dumps([contents.cursor, 0.0], ensure_ascii=False))
    return dg.SensorResult(
        run_requests=[_run_request(run, started_ns) for run in runs],
        dynamic_partitions_requests=[course_partitions.build_add_request(new)] if new else [],
        asset_events=[
            dg.AssetObservation(
                course_chunks.key,
                partition=course.id,
                metadata={"chunks": content.chunks, "characters": content.characters},
                tags={"dagster/data_version": content.content},
            )
            for run in runs
            for course, content in run
        ],
    )


def _parse_cursor(cursor: str | None) -> tuple[str, float]:
    """The course that was read last, and the Unix time until which the sensor rests; any other text is ignored."""
    try:
        after, rest_until = json.loads(cursor or "")
        return str(after), float(rest_until)
    except (TypeError, ValueError):
        return "", 0.0


def _model_signature(gpu: GpuResource) -> tuple[str | None, EmbeddingError | None]:
    try:
        return gpu.signature(), None
    except EmbeddingError as error:
        return None, error


def _outage(
    model_problem: EmbeddingError | None, vector_store: VectorStoreResource, instance: dg.DagsterInstance
) -> str:
    """Why every run would fail for a reason that passes; empty if none is known."""
    if isinstance(model_problem, EmbeddingServiceUnreachableError):
        return str(model_problem)
    if not vector_store.store().answers():
        return "The vector store is unreachable. Start it with `course-search up`."
    launcher = instance.run_launcher
    return launcher.outage() if isinstance(launcher, CourseRunLauncher) else ""


def _record(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, contents: Contents, now: datetime
) -> None:
    newly_due = [course.id for course, _ in contents.due if course.embedding_due_since is None]
    if newly_due or contents.no_longer_due:
        with catalogue.transaction() as session:
            mark_due(session, newly_due, now)
            clear_due(session, contents.no_longer_due)
    for course_id, problem in contents.unreadable.items():
        with catalogue.transaction() as session:
            if fail_unreadable(session, course_id, problem):
                context.log.warning(f"course {course_id}: failed, {problem}")


DueCourse = tuple[Course, CourseFingerprint]


def _runs(due: Sequence[DueCourse], keys: Sequence[str]) -> list[list[DueCourse]]:
    """The courses of each run. The courses of a run have the same priority, and all or none are rebuilt."""
    by_id = {course.id: (course, content) for course, content in due}
    alike = sorted(due, key=lambda due_course: _kind(due_course[0]), reverse=True)
    return [
        [by_id[course_id] for course_id in group]
        for _, members in groupby(alike, key=lambda due_course: _kind(due_course[0]))
        for group in group_courses([course.id for course, _ in members], keys)
    ]


def _kind(course: Course) -> tuple[int, bool]:
    if course.embedding_requested_at:
        return REQUESTED, course.embedding_rebuild
    is_retry = course.embedding_retry_at is not None and course.embedding_attempts > 0
    return RETRIED if is_retry else AUTOMATIC, course.embedding_rebuild


def _run_request(run: Sequence[DueCourse], started_ns: int) -> dg.RunRequest:
    priority, rebuild = _kind(run[0][0])
    trace = launch_tags(
        "stage_one_sensor", started_ns, reason=_REASONS[priority], rebuild=rebuild, courses=len(run), first=run[0][0].id
    )
    config = RunConfig(rebuild=rebuild, courses=[LaunchReason.of(course, content) for course, content in run])
    return dg.RunRequest(
        run_config=dg.RunConfig(ops={OP: config}),
        tags={**partition_tags([course.id for course, _ in run]), PRIORITY_TAG: str(priority), **trace},
    )


def _nothing_to_do(candidates: Candidates) -> str:
    message = f"{len(candidates.ingested)} courses are ingested, and none of them is due"
    if not candidates.empty:
        return message
    names = ", ".join(candidates.empty[:5]) + (", …" if len(candidates.empty) > 5 else "")
    return f"{message}; {len(candidates.empty)} more are ingested but have no chunks: {names}"

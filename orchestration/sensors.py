"""The sensors: one launches what is due, one keeps the courses' state true, one clears up after deleted courses.

All look at how things are, not at which events passed by, so a tick that is missed costs nothing. What to do is
decided in `triggers`, `run_status`, `workers` and `removals`; this module reads, asks them and acts.

They rest unless DAGSTER_HOME is set: an instance that knows nothing of the runs elsewhere, like that of a `dagster dev`
to have a look, must not judge the courses of one that does.
"""

import os
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from embedding.errors import EmbeddingError
from embedding.opening import signature_in_use
from embedding.settings import EmbeddingSettings
from embedding.vector_store import VectorStoreError
from models import catalogue as catalogue_rows
from models.database import DatabaseUnavailableError, Session, UnreadableDataError, database_errors
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Course
from orchestration import reasons, removals, run_status, triggers, workers
from orchestration.assets import course_chunks
from orchestration.jobs import embed_course
from orchestration.partitions import OWNERS, all_courses, courses, courses_of, range_tags
from orchestration.reasons import Reason
from orchestration.resources import CatalogueResource, VectorStoreResource
from retrieval.keyword_store import KeywordStore, KeywordStoreError
from retrieval.settings import KeywordSettings

SENSOR_INTERVAL_SECONDS = 5
REMOVAL_INTERVAL_SECONDS = 20
MAX_RUNS_PER_TICK = 25
"""Submitting a run takes about half a second; the rest comes with the next tick."""
READING_SECONDS = 10.0
"""How long a tick may read chunks to tell what changed; Dagster ends a tick after a minute."""
QUIET_READING_SECONDS = 0.2
"""How long it may read courses that look unchanged."""
RESTING = "DAGSTER_HOME is not set: the sensors rest. `make up` starts everything."
PRIORITY_TAG = "dagster/priority"
TELLING = timedelta(seconds=60)

DueCourses = Mapping[Reason, CourseFingerprint]
"""What is due, most urgent first, and what the courses' chunks are now."""


@dg.sensor(
    job=embed_course,
    minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Embeds every course that stage one has ingested and whose collection is not made from its chunks, "
    "and every course somebody asked for (`POST /courses/{course_id}/embed`).",
)
def stage_one_sensor(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, vector_store: VectorStoreResource
) -> dg.SensorResult | dg.SkipReason:
    """Launch what is due."""
    if not os.environ.get("DAGSTER_HOME"):
        return dg.SkipReason(RESTING)
    signature = _model_signature(context)
    known = all_courses(context.instance)
    busy = _busy(context.instance)
    try:
        with catalogue.transaction() as session:
            candidates = triggers.candidates(
                catalogue_rows.list_courses(session),
                catalogue_rows.ingestion(session),
                busy,
                signature,
                context.cursor,
            )
            due, unreadable, cursor = _read_contents(session, candidates, signature)
        for course_id, reason in unreadable.items():
            with catalogue.transaction() as session:
                if catalogue_rows.fail_unreadable(session, course_id, reason):
                    context.log.warning(f"course {course_id}: failed, {reason}")
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    context.update_cursor(cursor or "")
    untried = _untried(context.instance, due)
    if untried and not vector_store.store().answers():
        return dg.SkipReason(f"{len(untried)} courses wait: the vector store does not answer. Start it with `make up`.")
    added = set(known)
    wanted = dict.fromkeys([*candidates.ingested, *(reason.course_id for reason in untried)])
    new = [course_id for course_id in wanted if course_id not in added]
    runs = triggers.share_out(untried, [*known, *new])[:MAX_RUNS_PER_TICK]
    if not runs and not new:
        return dg.SkipReason(_nothing_to_do(candidates))
    return dg.SensorResult(
        run_requests=[_run_request(run) for run in runs],
        dynamic_partitions_requests=[courses.build_add_request(new)] if new else [],
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


@dg.sensor(
    minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Mirrors what a run cannot say of itself onto `Course.embedding_status`: that it is queued, that it "
    "was cancelled, that it died.",
)
def course_status_sensor(context: dg.SensorEvaluationContext, catalogue: CatalogueResource) -> dg.SkipReason:
    """Compare every active course with the run that owns it, and every recent run with its courses."""
    if not os.environ.get("DAGSTER_HOME"):
        return dg.SkipReason(RESTING)

    def read_courses(also: Collection[str]) -> Sequence[Course]:
        with catalogue.transaction() as session:
            return catalogue_rows.active_courses(session, also)

    try:
        lines = workers.end_abandoned_runs(context.instance)
        changes, cursor = run_status.find_changes(context.instance, read_courses, context.cursor)
        endings = run_status.endings_of(context.instance, changes)
        with catalogue.transaction() as session:
            contents = _contents_given_up(context, session, changes)
            lines += run_status.write_changes(session, changes, endings, contents)
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    context.update_cursor(cursor)
    for line in lines:
        context.log.info(line)
    return dg.SkipReason("; ".join(lines) or "Every course's state is true")


@dg.sensor(
    minimum_interval_seconds=REMOVAL_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Removes collection, keyword index and partition of every course that is gone from the catalogue.",
)
def deleted_course_sensor(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, vector_store: VectorStoreResource
) -> dg.SensorResult | dg.SkipReason:
    """Clear up after courses that two ticks in a row did not find."""
    if not os.environ.get("DAGSTER_HOME"):
        return dg.SkipReason(RESTING)
    known = all_courses(context.instance)
    try:
        with catalogue.transaction() as session:
            there = set(catalogue_rows.course_ids(session))
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    missing = [course_id for course_id in known if course_id not in there]
    found = removals.find(missing, there, _busy(context.instance), context.cursor)
    context.update_cursor(found.cursor)
    if not found.gone:
        return dg.SkipReason(found.message)
    try:
        removed = removals.remove(vector_store.store(), KeywordStore(KeywordSettings()), found.gone, there)
    except (VectorStoreError, KeywordStoreError) as error:
        return dg.SkipReason(str(error))
    except removals.TooManyGoneError as error:
        context.log.warning(str(error))
        return dg.SkipReason(str(error))
    for course_id in removed:
        context.log.info(f"course {course_id} is gone from the catalogue: all that was made of it is removed")
    return dg.SensorResult(dynamic_partitions_requests=[courses.build_delete_request(list(removed))])


def _run_request(run: Sequence[Reason]) -> dg.RunRequest:
    tags = reasons.tags(run)
    if any(reason.requested_at for reason in run):
        tags[PRIORITY_TAG] = "1"
    first, last = run[0].course_id, run[-1].course_id
    if len(run) == 1:
        return dg.RunRequest(partition_key=first, tags=tags)
    return dg.RunRequest(tags={**tags, **range_tags(first, last)})


def _nothing_to_do(candidates: triggers.Candidates) -> str:
    message = f"{len(candidates.ingested)} courses ingested, none to embed"
    if not candidates.empty:
        return message
    named = ", ".join(candidates.empty[:5]) + (", …" if len(candidates.empty) > 5 else "")
    return f"{message}; {len(candidates.empty)} more are ingested but have no chunks: {named}"


def _busy(instance: dg.DagsterInstance) -> set[str]:
    """Courses that a queued or running run holds."""
    claims = courses_of(run_status.unfinished_runs(instance), instance)
    return {course_id for _, course_ids in claims for course_id in course_ids}


def _model_signature(context: dg.SensorEvaluationContext) -> str | None:
    try:
        return signature_in_use(EmbeddingSettings())
    except EmbeddingError as error:
        context.log.warning(str(error))
        return None


def _read_contents(
    session: Session, candidates: triggers.Candidates, model_signature: str | None
) -> tuple[DueCourses, Mapping[str, str], str | None]:
    """Read candidates in full until the time is up.

    Returns:
        Those that are due, those that cannot be read with the reason, and the next cursor.
    """
    due: dict[Reason, CourseFingerprint] = {}
    unreadable: dict[str, str] = {}
    for courses_to_read, seconds in (
        (candidates.requested, READING_SECONDS),
        (candidates.changed, READING_SECONDS),
        (candidates.quiet, QUIET_READING_SECONDS),
    ):
        started = time.monotonic()
        for course in courses_to_read:
            try:
                with database_errors():
                    content = _content(session, course, model_signature)
            except (TypeError, ValueError, UnreadableDataError) as error:  # must not stop the other courses
                unreadable[course.id] = f"A chunk of the course cannot be read: {error}"
                continue
            if triggers.is_due(course, content):
                due[Reason.of(course, content)] = content
            if time.monotonic() - started > seconds:
                return due, unreadable, course.id
    return due, unreadable, None


def _content(session: Session, course: Course, model_signature: str | None) -> CourseFingerprint:
    """What a collection made now would be made from; without a model at hand, by the one that was used last."""
    fingerprint = FingerprintBuilder().add_all(catalogue_rows.chunk_pages(session, course.id))
    last = triggers.settled(course)
    return fingerprint.build(model_signature or (last[0].model if last else ""))


def _contents_given_up(
    context: dg.SensorEvaluationContext, session: Session, changes: Iterable[run_status.Change]
) -> dict[str, str]:
    """What runs that an operator launched and cancelled would have published, so that nothing launches it again."""
    cancelled = {
        change.course_id
        for change in changes
        if change.run.status is dg.DagsterRunStatus.CANCELED and change.reason is None
    }
    signature = _model_signature(context) if cancelled else None
    rows = (catalogue_rows.get_course(session, course_id) for course_id in cancelled)
    return {course.id: str(_content(session, course, signature)) for course in rows if course}


def _untried(instance: dg.DagsterInstance, due: DueCourses) -> list[Reason]:
    """Those that no run has just been launched for.

    The row decides what is due. It may not say yet that a run which was launched for it is over: `course_status_sensor`
    will have seen to that long before `TELLING`.
    """
    if not due:
        return []
    tried: set[Reason] = set()
    for tags in reasons.tag_filters(due):
        for run in instance.get_runs(dg.RunsFilter(tags=tags, updated_after=datetime.now(UTC) - TELLING)):
            tried.update(reasons.reasons_of(run.tags).values())
    return [reason for reason in due if reason not in tried]

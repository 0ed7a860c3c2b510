"""`course_status_sensor`: updates `Course.embedding_status` from the states of Dagster's runs."""

from collections.abc import Collection, Iterable, Sequence

import dagster as dg

from embedding.errors import EmbeddingError
from models.courses import active_courses, get_course
from models.database import DatabaseUnavailableError, Session
from models.tables import Course
from orchestration.course_status.dead_workers import end_abandoned_runs
from orchestration.course_status.decide import Change
from orchestration.course_status.observe import find_changes
from orchestration.course_status.record import endings_of, write_changes
from orchestration.instance.prepared import SENSOR_INTERVAL_SECONDS, SKIPS_UNLESS_PREPARED, reason_to_skip
from orchestration.launching.contents import UnreadableContentError, content_of
from orchestration.partitions import OWNERS
from orchestration.resources import CatalogueResource, GpuResource


@dg.sensor(
    minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Records in `Course.embedding_status` what a run cannot record itself: that it is queued, was "
    "cancelled, or died. " + SKIPS_UNLESS_PREPARED,
)
def course_status_sensor(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, gpu: GpuResource
) -> dg.SkipReason:
    """Compare active courses with their runs, and recent runs with their courses, and record the differences."""
    if reason := reason_to_skip(context.instance):
        return dg.SkipReason(reason)

    def read_courses(course_ids: Collection[str]) -> Sequence[Course]:
        with catalogue.transaction() as session:
            return active_courses(session, course_ids)

    try:
        lines = end_abandoned_runs(context.instance)
        changes, cursor = find_changes(context.instance, read_courses, context.cursor)
        endings = endings_of(context.instance, changes)
        with catalogue.transaction() as session:
            contents = _cancelled_contents(context, session, gpu, changes)
            lines += write_changes(session, changes, endings, contents)
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    context.update_cursor(cursor)
    for line in lines:
        context.log.info(line)
    return dg.SkipReason("; ".join(lines) or "The state of every course is up to date")


def _cancelled_contents(
    context: dg.SensorEvaluationContext, session: Session, gpu: GpuResource, changes: Iterable[Change]
) -> dict[str, str]:
    """Course id → the fingerprint that a cancelled run would have published, if an operator launched the run.

    These contents are recorded as attempted, so that `stage_one_sensor` does not launch what an operator cancelled.
    """
    cancelled = {
        change.course_id
        for change in changes
        if change.run.status is dg.DagsterRunStatus.CANCELED and change.reason is None
    }
    if not cancelled:
        return {}
    try:
        signature = gpu.signature()
    except EmbeddingError as error:
        context.log.warning(str(error))
        signature = None
    contents = {}
    for course_id in cancelled:
        course = get_course(session, course_id)
        if course is None:
            continue
        try:
            contents[course.id] = str(content_of(session, course, signature))
        except UnreadableContentError as error:
            context.log.warning(f"course {course_id}: {error}")
    return contents

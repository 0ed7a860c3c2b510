"""`course_status_sensor`: keeps `Course.embedding_status` in line with Dagster's runs."""

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
from orchestration.launching.contents import UnreadableContentError, content_of
from orchestration.partitions import OWNERS
from orchestration.prepared_instance import RESTS_UNLESS_PREPARED, SENSOR_INTERVAL_SECONDS, reason_to_rest
from orchestration.resources import CatalogueResource, GpuResource


@dg.sensor(
    minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Mirrors onto `Course.embedding_status` what a run cannot write itself: that it is queued, was "
    "cancelled or died. " + RESTS_UNLESS_PREPARED,
)
def course_status_sensor(
    context: dg.SensorEvaluationContext, catalogue: CatalogueResource, gpu: GpuResource
) -> dg.SkipReason:
    """Compare every active course with the run that owns it, and every recent run with its courses."""
    if reason := reason_to_rest(context.instance):
        return dg.SkipReason(reason)

    def read_courses(also: Collection[str]) -> Sequence[Course]:
        with catalogue.transaction() as session:
            return active_courses(session, also)

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
    return dg.SkipReason("; ".join(lines) or "Every course's state is true")


def _cancelled_contents(
    context: dg.SensorEvaluationContext, session: Session, gpu: GpuResource, changes: Iterable[Change]
) -> dict[str, str]:
    """The fingerprints that runs an operator launched and cancelled would have published, by course id.

    They are recorded as tried, so that the sensor does not launch what the operator cancelled.
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

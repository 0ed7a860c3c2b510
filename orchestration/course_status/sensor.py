"""`course_status_sensor`: updates `Course.embedding_status` from the states of Dagster's runs."""

from collections import Counter
from collections.abc import Collection, Sequence

import dagster as dg

from models.courses import active_courses
from models.database import DatabaseUnavailableError
from models.tables import Course
from orchestration.counting import count
from orchestration.course_status.changes import find_changes
from orchestration.instance.prepared import (
    SENSOR_INTERVAL_SECONDS,
    SKIPS_UNLESS_PREPARED,
    configuration_problem,
    reason_to_skip,
)
from orchestration.partitions import OWNERS
from orchestration.resources import CatalogueResource


@dg.sensor(
    minimum_interval_seconds=SENSOR_INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    owners=OWNERS,
    description="Records in `Course.embedding_status` what a run cannot record itself: that it waits, was "
    "cancelled, or died. " + SKIPS_UNLESS_PREPARED,
)
def course_status_sensor(context: dg.SensorEvaluationContext, catalogue: CatalogueResource) -> dg.SkipReason:
    """Compare active courses with their runs, and recent runs with their courses, and record the differences."""
    if reason := reason_to_skip(context.instance):
        return dg.SkipReason(reason)

    def read_courses(course_ids: Collection[str]) -> Sequence[Course]:
        with catalogue.transaction() as session:
            return active_courses(session, course_ids)

    try:
        changes, cursor = find_changes(context.instance, read_courses, context.cursor)
        written = []
        for change in changes:
            with catalogue.transaction() as session:
                if change.write(session):
                    written.append(change)
    except DatabaseUnavailableError as error:
        return dg.SkipReason(str(error))
    failures = Counter(("course_failures", change.failure) for change in written if change.failure)
    count(catalogue, failures)
    context.update_cursor(cursor)
    lines = [f"course {change.course_id}: {change.description}" for change in written]
    for line in lines:
        context.log.info(line)
    if problem := configuration_problem(context.instance):
        lines.append(problem)
    return dg.SkipReason("; ".join(lines) or "The state of every course is up to date")

"""The asset `course_questions`: how much was asked about each course, and how much of it was not answered.

One asset without partitions: a table of the courses with the most gaps stays readable with thousands of courses, and
needs one run a day. Dagster's history is never deleted selectively, so it contains counts, and no text of a question.
"""

from datetime import UTC, datetime, timedelta

import dagster as dg

from models.questions import CourseCounts, course_counts
from orchestration.partitions import HOUSEKEEPING_TAG, OWNERS, QUESTIONS
from orchestration.resources import CatalogueResource, SearchAppResource
from orchestration.workers import register_worker

DAYS = 30
MAX_COURSES = 100
"""Rows of the table."""
REFRESH = "refresh_questions"


@dg.asset(
    key=QUESTIONS,
    group_name="questions",
    kinds={"sql"},
    owners=OWNERS,
    metadata={"command": "course-search questions COURSE"},
    description=f"How much was asked about each course in the last {DAYS} days, how much of it found nothing relevant, "
    "and how often passages were helpful. Empty unless QUERY_LOG is on. `course-search questions COURSE` shows the "
    "questions, which are not in Dagster.",
)
def course_questions(
    context: dg.AssetExecutionContext, catalogue: CatalogueResource, search_app: SearchAppResource
) -> dg.MaterializeResult[None]:
    """Count the questions of all courses."""
    register_worker(context.instance, context.run.run_id)
    context.instance.add_run_tags(context.run.run_id, {HOUSEKEEPING_TAG: REFRESH})  # also if launched in the UI
    with catalogue.transaction() as session:
        counts = course_counts(session, datetime.now(UTC) - timedelta(days=DAYS))
    counts.sort(key=lambda course: (-course.found_nothing - course.not_helpful, -course.asked, course.course_id))
    columns = [dg.TableColumn(name, "string" if name == "course_id" else "int") for name in CourseCounts._fields]
    return dg.MaterializeResult(
        metadata={
            "courses": len(counts),
            **{name: sum(getattr(course, name) for course in counts) for name in CourseCounts._fields[1:]},
            f"most gaps (at most {MAX_COURSES} courses)": dg.MetadataValue.table(
                [dg.TableRecord(course._asdict()) for course in counts[:MAX_COURSES]], dg.TableSchema(columns)
            ),
            "what was asked": f"course-search questions COURSE --days {DAYS}",
            "search": dg.MetadataValue.url(search_app.search_url),
        }
    )


refresh_questions = dg.define_asset_job(
    REFRESH,
    selection=[course_questions],
    description="Count what was asked about each course, and what found nothing relevant.",
    tags={HOUSEKEEPING_TAG: REFRESH},
    owners=OWNERS,
)

questions_schedule = dg.ScheduleDefinition(
    job=refresh_questions,
    cron_schedule="0 4 * * *",
    description="Counts what was asked every night. Off until it is switched on.",
    owners=OWNERS,
)

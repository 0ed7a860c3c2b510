"""Reports the courses that have failed, are being embedded, will be embedded, or wait too long for it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from maintenance.checks.findings import Finding, Level, first_few
from models.courses import is_active, list_courses
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint
from models.ingestion import Ingestion, ingestion_by_course
from models.tables import Course, EmbeddingStatus
from models.text import counted

OVERDUE = timedelta(hours=1)
"""A course that has been due for longer than this, and that no run is embedding, is reported."""


def check_states(engine: Engine, signature: str | None) -> Iterator[Finding]:
    """Report the states of all courses. Nothing is repaired.

    Args:
        engine: The catalogue.
        signature: Signature of the configured model; None if the model is unavailable.
    """
    with transaction(engine) as session:
        ingestion = ingestion_by_course(session)
        courses = list_courses(session)
    failed = [course for course in courses if course.embedding_status == EmbeddingStatus.FAILED]
    unowned = [course.id for course in courses if _is_running(course) and course.embedding_run_id is None]
    active = [course.id for course in courses if is_active(course) and course.id not in unowned]
    outdated = [course.id for course in courses if _is_outdated(course, ingestion, signature)]
    yield from _failed(failed)
    if unowned:
        message = f"{counted(len(unowned), 'course')} marked as running, but claimed by no run: {first_few(unowned)}"
        advice = (
            "The pipeline embeds them while `course-search up` runs; until then, `course-search embed COURSE` is "
            "refused"
        )
        yield Finding("states", Level.WARNING, message, advice, unowned)
    overdue = [course.id for course in courses if _is_overdue(course)]
    if overdue:
        message = f"{counted(len(overdue), 'course')} due for more than an hour, but not embedded: {first_few(overdue)}"
        advice = (
            "Is `course-search up` running? The page of `stage_one_sensor` in the Dagster UI shows why no run is "
            "launched, and the page of the runs which ones wait"
        )
        yield Finding("states", Level.WARNING, message, advice, overdue)
    if active:
        message = f"{counted(len(active), 'course')} pending or running: {first_few(active)}"
        yield Finding("states", Level.OK, message, subjects=active)
    if outdated:
        message = (
            f"{counted(len(outdated), 'course')} to be embedded again, because the chunks or the model changed: "
            f"{first_few(outdated)}"
        )
        yield Finding("states", Level.OK, message, subjects=outdated)
    if not failed and not unowned and not overdue and not active and not outdated:
        yield Finding(
            "states", Level.OK, f"{counted(len(courses), 'course')}, none failed, pending, running or outdated"
        )


def _failed(courses: Sequence[Course]) -> Iterator[Finding]:
    for_good = [course.id for course in courses if course.embedding_retry_at is None]
    retries = {course.id: course.embedding_retry_at for course in courses if course.embedding_retry_at}
    if for_good:
        message = f"{counted(len(for_good), 'failed course')}: {first_few(for_good)}"
        advice = "`course-search status` shows the reason; fix the cause, then run `course-search embed COURSE`"
        yield Finding("states", Level.WARNING, message, advice, for_good)
    if retries:
        subjects = sorted(retries, key=lambda course_id: retries[course_id])
        message = (
            f"{counted(len(retries), 'failed course')} to be retried, "
            f"the first at {retries[subjects[0]].astimezone():%Y-%m-%d %H:%M:%S}: {first_few(subjects)}"
        )
        advice = (
            "`course-search status` shows the reasons and times; the pipeline retries while `course-search up` runs"
        )
        yield Finding("states", Level.WARNING, message, advice, subjects)


def _is_running(course: Course) -> bool:
    return course.embedding_status == EmbeddingStatus.RUNNING


def _is_overdue(course: Course) -> bool:
    """Failed courses are reported as such, and a large course may be embedded for hours."""
    since = course.embedding_due_since
    is_waiting = course.embedding_status != EmbeddingStatus.FAILED and not _is_running(course)
    return is_waiting and since is not None and since < datetime.now(UTC) - OVERDUE


def _is_outdated(course: Course, ingestion: Mapping[str, Ingestion], signature: str | None) -> bool:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    if course.embedding_status != EmbeddingStatus.DONE or course.id not in ingestion:
        return False
    if published is None or published.chunks != ingestion[course.id].chunks:
        return True
    return signature is not None and published.model != signature

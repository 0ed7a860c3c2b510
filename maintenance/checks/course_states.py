"""Reports the courses that have failed, are being embedded, or will be embedded."""

from collections.abc import Iterator, Mapping

from maintenance.checks.findings import Finding, Level, first_few
from models.courses import is_active, list_courses
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint
from models.ingestion import Ingestion, ingestion_by_course
from models.tables import Course, EmbeddingStatus
from models.text import counted


def check_states(engine: Engine, signature: str | None) -> Iterator[Finding]:
    """Report the states of all courses. Nothing is repaired.

    Args:
        engine: The catalogue.
        signature: Signature of the configured model; None if the model is unavailable.
    """
    with transaction(engine) as session:
        ingestion = ingestion_by_course(session)
        courses = list_courses(session)
    failed = [course.id for course in courses if course.embedding_status == EmbeddingStatus.FAILED]
    active = [course.id for course in courses if is_active(course)]
    outdated = [course.id for course in courses if _is_outdated(course, ingestion, signature)]
    if failed:
        message = f"{counted(len(failed), 'failed course')}: {first_few(failed)}"
        advice = "`course-search status` shows the reason; fix the cause, then run `course-search embed COURSE`"
        yield Finding("states", Level.WARNING, message, advice, failed)
    if active:
        message = f"{counted(len(active), 'course')} pending or running: {first_few(active)}"
        yield Finding("states", Level.OK, message, subjects=active)
    if outdated:
        message = (
            f"{counted(len(outdated), 'course')} to be embedded again, because the chunks or the model changed: "
            f"{first_few(outdated)}"
        )
        yield Finding("states", Level.OK, message, subjects=outdated)
    if not failed and not active and not outdated:
        yield Finding(
            "states", Level.OK, f"{counted(len(courses), 'course')}, none failed, pending, running or outdated"
        )


def _is_outdated(course: Course, ingestion: Mapping[str, Ingestion], signature: str | None) -> bool:
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    if course.embedding_status != EmbeddingStatus.DONE or course.id not in ingestion:
        return False
    if published is None or published.chunks != ingestion[course.id].chunks:
        return True
    return signature is not None and published.model != signature

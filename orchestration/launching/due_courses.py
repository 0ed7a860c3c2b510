"""Decides which courses are due for embedding; does no I/O.

A course is due if an embedding was requested, if its retry is due, or if stage one has ingested it and its content
(chunks and model) differs from the published content and from the content that was tried without success. One aggregate
query counts the chunks of all courses, which reveals added and deleted chunks. An edited text changes only the digest
of the content, so courses that seem unchanged are read in rotation, a few per tick.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.course_state import RETRY_SECONDS
from models.courses import is_active
from models.fingerprint import CourseFingerprint
from models.ingestion import Ingestion
from models.tables import Course, EmbeddingStatus


@dataclass(frozen=True)
class Candidates:
    """Courses to read, most urgent first. `is_due` decides after they have been read."""

    requested: Sequence[Course]
    """Courses with a request, the oldest request first."""
    changed: Sequence[Course]
    """Never embedded, or neither the published nor the attempted content has this number of chunks and this model, or
    the retry is due."""
    unchanged: Sequence[Course]
    """Courses that seem unchanged. An edited text is found only by reading the chunks."""
    ingested: Sequence[str]
    """Ids of the ingested courses that have chunks or were published before. Each of them gets a partition."""
    empty: Sequence[str]
    """Ids of the ingested courses that have no chunks and were never published."""


def find_candidates(
    courses: Iterable[Course],
    ingestion: Mapping[str, Ingestion],
    *,
    with_run: Set[str],
    model_signature: str | None,
    cursor: str | None,
    now: datetime,
) -> Candidates:
    """Classify the courses by how likely they are due.

    Args:
        courses: All rows of the catalogue.
        ingestion: State of the ingestion, by course id.
        with_run: Ids of courses that have an unfinished run. They are not candidates.
        model_signature: Signature of the configured model. None if it is unavailable; then models are not compared.
        cursor: Id of the course that was read last; `changed` and `unchanged` start after it.
        now: The current time. A course whose retry is later is not a candidate.
    """
    requested, changed, unchanged, ingested, empty = [], [], [], [], []
    for course in sorted(courses, key=lambda course: course.id):
        if not course.id:  # Dagster has no partition with an empty key
            continue
        stage_one = ingestion.get(course.id, Ingestion())
        has_content = stage_one.finished and (stage_one.chunks > 0 or course.embedding_fingerprint is not None)
        if has_content:
            ingested.append(course.id)
        elif stage_one.finished:
            empty.append(course.id)
        # The owner of an active course without a run has ended. `course_status_sensor` records how.
        has_owner = is_active(course) and course.embedding_run_id is not None
        is_postponed = course.embedding_retry_at is not None and not is_retry_due(course, now)
        if course.id in with_run or has_owner or is_postponed or course.embedding_status == EmbeddingStatus.RUNNING:
            continue
        if course.embedding_requested_at is not None:
            requested.append(course)
        elif not has_content:
            continue
        elif is_retry_due(course, now) or not _seems_unchanged(completed_contents(course), stage_one, model_signature):
            changed.append(course)
        else:
            unchanged.append(course)
    requested.sort(key=lambda course: (str(course.embedding_requested_at), course.id))
    return Candidates(requested, _from_cursor(cursor, changed), _from_cursor(cursor, unchanged), ingested, empty)


def is_due(course: Course, content: CourseFingerprint, now: datetime) -> bool:
    """Whether the course must be embedded, given the fingerprint of its chunks and the configured model."""
    is_requested = course.embedding_requested_at is not None
    return is_requested or is_retry_due(course, now) or content not in completed_contents(course)


def is_retry_due(course: Course, now: datetime) -> bool:
    """Whether the pause before the next retry is over."""
    retry_at = course.embedding_retry_at
    longest = timedelta(seconds=max(RETRY_SECONDS))
    return retry_at is not None and (retry_at <= now or retry_at > now + longest)  # the clock was set back


def completed_contents(course: Course) -> list[CourseFingerprint]:
    """The contents that need no run: the published content, and the content that was tried without success."""
    match course.embedding_status:
        case EmbeddingStatus.DONE:
            contents = [course.embedding_fingerprint, course.embedding_attempted]
        case EmbeddingStatus.FAILED | EmbeddingStatus.NOT_STARTED:
            contents = [course.embedding_attempted]
        case _:
            contents = []
    return [fingerprint for content in contents if (fingerprint := CourseFingerprint.parse(content))]


def _seems_unchanged(completed: Iterable[CourseFingerprint], stage_one: Ingestion, model_signature: str | None) -> bool:
    return any(
        content.chunks == stage_one.chunks and (model_signature is None or content.model == model_signature)
        for content in completed
    )


def _from_cursor(cursor: str | None, courses: list[Course]) -> list[Course]:
    """The courses, sorted by id, rotated so that the courses after the cursor come first."""
    start = sum(course.id <= cursor for course in courses) if cursor else 0
    return courses[start:] + courses[:start]

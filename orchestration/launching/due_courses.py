"""Which courses are due for embedding: pure decisions of `stage_one_sensor`.

A course is due if an embedding was requested, or if stage one has ingested it and its content (chunks and model)
differs from what was published and from what was tried without success. The number of chunks comes from one aggregate
query for all courses and shows many changes at once. An edit shows only in the digest of the content, so courses that
look unchanged are read in turn, a few per tick.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from models.fingerprint import CourseFingerprint
from models.ingestion import Ingestion
from models.tables import Course, EmbeddingStatus


@dataclass(frozen=True)
class Candidates:
    """Courses to read, most urgent first. `is_due` decides once they have been read."""

    requested: Sequence[Course]
    """Courses with a request, the oldest request first."""
    changed: Sequence[Course]
    """Never embedded, or the number of chunks or the model differs from what was published or tried last."""
    unchanged: Sequence[Course]
    """Courses that look unchanged; only reading their chunks can tell."""
    ingested: Sequence[str]
    """Ids of all courses that stage one has ingested; these have a partition."""
    empty: Sequence[str]
    """Ids of courses that stage one has ingested without writing a chunk: there is nothing to embed."""


def find_candidates(
    courses: Iterable[Course],
    ingestion: Mapping[str, Ingestion],
    *,
    with_run: Set[str],
    cancelled: Set[str],
    model_signature: str | None,
    cursor: str | None,
) -> Candidates:
    """Sort the courses by how likely they are to be due.

    Args:
        courses: All rows of the catalogue.
        ingestion: What stage one wrote, by course id.
        with_run: Ids of courses that have an unfinished run; they are left out.
        cancelled: Ids of courses whose run was cancelled moments ago. One that is still `not_started` is left out:
            `course_status_sensor` has yet to record the cancellation.
        model_signature: The configured model's. None if it is unavailable; then no course is outdated by its model.
        cursor: Id of the course that was read last; `changed` and `unchanged` continue behind it.
    """
    requested, changed, unchanged, ingested, empty = [], [], [], [], []
    for course in sorted(courses, key=lambda course: course.id):
        stage_one = ingestion.get(course.id, Ingestion())
        has_content = stage_one.finished and (stage_one.chunks > 0 or course.embedding_fingerprint is not None)
        if has_content:
            ingested.append(course.id)
        elif stage_one.finished:
            empty.append(course.id)
        # The run is over, but `course_status_sensor` has yet to record how it ended.
        unrecorded_end = (
            course.embedding_status == EmbeddingStatus.PENDING and course.embedding_run_id is not None
        ) or (course.embedding_status == EmbeddingStatus.NOT_STARTED and course.id in cancelled)
        if course.id in with_run or course.embedding_status == EmbeddingStatus.RUNNING or unrecorded_end:
            continue
        if course.embedding_requested_at is not None:
            requested.append(course)
        elif has_content and _looks_unchanged(completed_contents(course), stage_one, model_signature):
            unchanged.append(course)
        elif has_content:
            changed.append(course)
    requested.sort(key=lambda course: (str(course.embedding_requested_at), course.id))
    return Candidates(requested, _from_cursor(cursor, changed), _from_cursor(cursor, unchanged), ingested, empty)


def is_due(course: Course, content: CourseFingerprint) -> bool:
    """Whether the course is to be embedded, given the fingerprint of its chunks and the configured model."""
    return course.embedding_requested_at is not None or content not in completed_contents(course)


def completed_contents(course: Course) -> list[CourseFingerprint]:
    """The contents that need no further run: published, or tried without success."""
    match course.embedding_status:
        case EmbeddingStatus.DONE:
            contents = [course.embedding_fingerprint, course.embedding_attempted]
        case EmbeddingStatus.FAILED:
            contents = [course.embedding_attempted]
        case _:
            contents = []
    return [fingerprint for content in contents if (fingerprint := CourseFingerprint.parse(content))]


def _looks_unchanged(completed: Iterable[CourseFingerprint], stage_one: Ingestion, model_signature: str | None) -> bool:
    return any(
        content.chunks == stage_one.chunks and (model_signature is None or content.model == model_signature)
        for content in completed
    )


def _from_cursor(cursor: str | None, courses: list[Course]) -> list[Course]:
    """The courses, sorted by id, rotated so that those behind the cursor come first."""
    turn = sum(course.id <= cursor for course in courses) if cursor else 0
    return courses[turn:] + courses[:turn]

"""Which courses are due: the pure decisions of the stage-one sensor.

A course is due when somebody asked for it, or when stage one has ingested it and its content (chunks and model) is not
what was published, or tried in vain. The number of chunks, one aggregate for all courses, tells many changes at once;
an edit shows only in the digest of the content, so courses that look unchanged take turns at being read in full.
"""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from models.catalogue import Ingestion
from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus
from orchestration.reasons import COURSES_PER_RUN, Reason


@dataclass(frozen=True)
class Candidates:
    """Courses to read, most urgent first; `is_due` decides once they are read."""

    requested: Sequence[Course]
    """Somebody asked for them; the oldest request first."""
    changed: Sequence[Course]
    """Never embedded, or the number of chunks or the model differs from what was published or tried last."""
    quiet: Sequence[Course]
    """Look unchanged; only their content can tell."""
    ingested: Sequence[str]
    """Ids of all courses that stage one has finished: these have a partition."""
    empty: Sequence[str]
    """Ids of courses that stage one has finished without writing a chunk: there is nothing to embed."""


def candidates(
    courses: Iterable[Course],
    ingestion: Mapping[str, Ingestion],
    busy: Set[str],
    model_signature: str | None,
    cursor: str | None,
) -> Candidates:
    """Sort the courses by how likely they are to be due.

    Args:
        courses: All rows of the catalogue.
        ingestion: What stage one wrote, by course id.
        busy: Courses that a queued or running run holds; they are left out.
        model_signature: Of the model at hand, or None when there is none: then no course is out of date for its model.
        cursor: Id of the course that was read last; `changed` and `quiet` go on behind it.
    """
    requested, changed, quiet, ingested, empty = [], [], [], [], []
    for course in sorted(courses, key=lambda course: course.id):
        stage_one = ingestion.get(course.id, Ingestion())
        has_content = stage_one.finished and (stage_one.chunks > 0 or course.embedding_fingerprint is not None)
        if has_content:
            ingested.append(course.id)
        elif stage_one.finished:
            empty.append(course.id)
        is_unjudged = course.embedding_status == EmbeddingStatus.PENDING and course.embedding_run_id is not None
        if course.id in busy or course.embedding_status == EmbeddingStatus.RUNNING or is_unjudged:
            continue  # at work, or left behind by a run that is over: `course_status_sensor` says first how it ended
        if course.embedding_requested_at is not None:
            requested.append(course)
        elif has_content and _looks_unchanged(settled(course), stage_one, model_signature):
            quiet.append(course)
        elif has_content:
            changed.append(course)
    requested.sort(key=lambda course: (str(course.embedding_requested_at), course.id))
    return Candidates(requested, _behind(cursor, changed), _behind(cursor, quiet), ingested, empty)


def is_due(course: Course, content: CourseFingerprint) -> bool:
    """Whether the course, which holds `content` now, is to be embedded."""
    return course.embedding_requested_at is not None or content not in settled(course)


def settled(course: Course) -> list[CourseFingerprint]:
    """The contents that nothing is left to do for: published, or tried in vain."""
    match course.embedding_status:
        case EmbeddingStatus.DONE:
            contents = [course.embedding_fingerprint, course.embedding_attempted]
        case EmbeddingStatus.FAILED:
            contents = [course.embedding_attempted]
        case _:
            contents = []
    return [fingerprint for content in contents if (fingerprint := CourseFingerprint.parse(content))]


def share_out(reasons: Iterable[Reason], partition_keys: Sequence[str]) -> list[list[Reason]]:
    """Shares the work out among runs, each of courses whose partitions lie side by side, `COURSES_PER_RUN` at most.

    A run of several courses is told by the first and the last partition of a range, hence side by side; courses that
    were ingested together are.

    Args:
        reasons: The most urgent first.
        partition_keys: In the order they were added.

    Returns:
        The runs; the one with the most urgent course first.
    """
    urgency = {reason: number for number, reason in enumerate(reasons)}
    position = {key: number for number, key in enumerate(partition_keys)}
    shared: list[list[Reason]] = []
    for reason in sorted(urgency, key=lambda reason: position[reason.course_id]):
        last = shared[-1] if shared else []
        if last and len(last) < COURSES_PER_RUN and position[last[-1].course_id] + 1 == position[reason.course_id]:
            last.append(reason)
        else:
            shared.append([reason])
    return sorted(shared, key=lambda run: min(map(urgency.__getitem__, run)))


def _looks_unchanged(settled: Iterable[CourseFingerprint], stage_one: Ingestion, model_signature: str | None) -> bool:
    return any(
        content.chunks == stage_one.chunks and (model_signature is None or content.model == model_signature)
        for content in settled
    )


def _behind(cursor: str | None, courses: list[Course]) -> list[Course]:
    turn = sum(course.id <= cursor for course in courses) if cursor else 0
    return courses[turn:] + courses[:turn]

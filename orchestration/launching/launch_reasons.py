"""Launch reasons: for each course of a run, the content to publish and the request to answer.

`stage_one_sensor` writes one reason per course to the tags of the run. With the reason, a run that starts late detects
that a course has been published in the meantime. After a run has died, the reasons show which contents it was going to
publish. Runs that an operator launched have no reasons.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus
from orchestration.launching.courses_per_run import COURSES_PER_RUN

PARENT_TAG = "dagster/parent_run_id"
AUTOMATIC_RETRY_TAG = "dagster/retry_number"

_TAGS = tuple(f"course_search/reason_{number}" for number in range(COURSES_PER_RUN))


@dataclass(frozen=True)
class LaunchReason:
    """The reason to embed a course. Equal reasons lead to the same work."""

    course_id: str
    content: str
    """The fingerprint to publish, as text."""
    generation: int
    """The course's generation when the run was launched."""
    requested_at: datetime | None
    """Time of the request to answer. It identifies the request and is only compared for equality."""

    @classmethod
    def of(cls, course: Course, content: CourseFingerprint) -> Self:
        """The reason to embed a course whose chunks have the fingerprint `content`."""
        return cls(course.id, str(content), course.embedding_generation, course.embedding_requested_at)

    def is_superseded(self, course: Course) -> bool:
        """Whether the course was published after the run was launched."""
        return course.embedding_status == EmbeddingStatus.DONE and course.embedding_generation > self.generation

    def __str__(self) -> str:
        requested = self.requested_at.isoformat() if self.requested_at else None
        return json.dumps([self.course_id, self.content, self.generation, requested], ensure_ascii=False)

    @classmethod
    def parse(cls, value: str) -> Self:
        """The inverse of `str`."""
        course_id, content, generation, requested = json.loads(value)
        return cls(course_id, content, generation, datetime.fromisoformat(requested) if requested else None)


def reason_tags(reasons: Sequence[LaunchReason]) -> dict[str, str]:
    """The tags of a run that is launched for these reasons. There are at most `COURSES_PER_RUN` reasons."""
    return dict(zip(_TAGS, map(str, reasons), strict=False))


def tag_filters(reasons: Iterable[LaunchReason]) -> list[dict[str, str | Sequence[str]]]:
    """Filters of run tags. A run that was launched for any of the reasons matches at least one filter."""
    values = [str(reason) for reason in reasons]
    return [{tag: values} for tag in _TAGS]


def reasons_of(run_tags: Mapping[str, str]) -> dict[str, LaunchReason]:
    """The launch reasons of a run, by course id. Empty if an operator launched the run or re-executed another run."""
    if PARENT_TAG in run_tags and AUTOMATIC_RETRY_TAG not in run_tags:
        return {}
    reasons = [LaunchReason.parse(run_tags[tag]) for tag in _TAGS if tag in run_tags]
    return {reason.course_id: reason for reason in reasons}

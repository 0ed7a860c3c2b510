"""Why a run was launched: for each of its courses, the content to publish and the request to answer.

The sensor writes one reason per course into the run's tags, and other parts read it there. A run that starts late sees
that a course has been published since; the reasons of a run that died tell what it was going to publish. A run that an
operator launched has none.
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
    """One reason to embed a course. Equal reasons mean the same piece of work."""

    course_id: str
    content: str
    """The fingerprint to publish, as text."""
    generation: int
    """The course's generation when the run was launched."""
    requested_at: datetime | None
    """The request to answer. It identifies the request and is compared for equality only."""

    @classmethod
    def of(cls, course: Course, content: CourseFingerprint) -> Self:
        """The reason to embed a course whose chunks have this fingerprint."""
        return cls(course.id, str(content), course.embedding_generation, course.embedding_requested_at)

    def is_superseded(self, course: Course) -> bool:
        """Whether the course has been published since the run was launched."""
        return course.embedding_status == EmbeddingStatus.DONE and course.embedding_generation > self.generation

    def __str__(self) -> str:
        requested = self.requested_at.isoformat() if self.requested_at else None
        return json.dumps([self.course_id, self.content, self.generation, requested], ensure_ascii=False)

    @classmethod
    def parse(cls, value: str) -> Self:
        """The reason that `str` wrote."""
        course_id, content, generation, requested = json.loads(value)
        return cls(course_id, content, generation, datetime.fromisoformat(requested) if requested else None)


def reason_tags(reasons: Sequence[LaunchReason]) -> dict[str, str]:
    """The tags of a run that is launched for these reasons, at most `COURSES_PER_RUN`."""
    return dict(zip(_TAGS, map(str, reasons), strict=False))


def tag_filters(reasons: Iterable[LaunchReason]) -> list[dict[str, str | Sequence[str]]]:
    """Filters that together match every run launched for any of the reasons."""
    values = [str(reason) for reason in reasons]
    return [{tag: values} for tag in _TAGS]


def reasons_of(run_tags: Mapping[str, str]) -> dict[str, LaunchReason]:
    """The reasons a run was launched for, by course id; none if an operator launched it or re-executed another run."""
    if PARENT_TAG in run_tags and AUTOMATIC_RETRY_TAG not in run_tags:
        return {}
    reasons = [LaunchReason.parse(run_tags[tag]) for tag in _TAGS if tag in run_tags]
    return {reason.course_id: reason for reason in reasons}

"""Why a run was launched: for each of its courses the content to publish and the request to answer.

The sensor writes a reason for each course into the run's tags, and everybody else reads it there: a run that comes too
late knows that its work is done, and a run that died says what it was going to try. Runs that an operator launched have
none.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus

COURSES_PER_RUN = 10
"""Starting a run costs seconds and loading the model more; a course costs little. More would make others wait long."""

PARENT_TAG = "dagster/parent_run_id"
AUTOMATIC_RETRY_TAG = "dagster/retry_number"

_TAGS = tuple(f"course_search/reason_{number}" for number in range(COURSES_PER_RUN))


@dataclass(frozen=True)
class Reason:
    """One reason to embed a course; equal reasons are the same piece of work."""

    course_id: str
    content: str
    """The fingerprint to publish, as text."""
    generation: int
    """The course's when the run was launched."""
    requested_at: datetime | None
    """The request to answer. Compared for equality: the clocks of two databases never agree."""

    @classmethod
    def of(cls, course: Course, content: CourseFingerprint) -> Self:
        """The reason to embed a course that holds `content` now."""
        return cls(course.id, str(content), course.embedding_generation, course.embedding_requested_at)

    def is_settled(self, course: Course) -> bool:
        """Whether somebody published the course since."""
        return course.embedding_status == EmbeddingStatus.DONE and course.embedding_generation > self.generation

    def __str__(self) -> str:
        requested = self.requested_at.isoformat() if self.requested_at else None
        return json.dumps([self.course_id, self.content, self.generation, requested], ensure_ascii=False)

    @classmethod
    def parse(cls, value: str) -> Self:
        """Reads what `str` wrote."""
        course_id, content, generation, requested = json.loads(value)
        return cls(course_id, content, generation, datetime.fromisoformat(requested) if requested else None)


def tags(reasons: Sequence[Reason]) -> dict[str, str]:
    """The tags of a run that is launched for these reasons, at most `COURSES_PER_RUN`."""
    return dict(zip(_TAGS, map(str, reasons), strict=False))


def tag_filters(reasons: Iterable[Reason]) -> list[dict[str, str | Sequence[str]]]:
    """Filters that together find every run launched for any of the reasons."""
    wanted = [str(reason) for reason in reasons]
    return [{tag: wanted} for tag in _TAGS]


def reasons_of(run_tags: Mapping[str, str]) -> dict[str, Reason]:
    """The reasons a run was launched for, by course id; none for a run that an operator launched, or launched again."""
    if PARENT_TAG in run_tags and AUTOMATIC_RETRY_TAG not in run_tags:
        return {}
    reasons = [Reason.parse(run_tags[tag]) for tag in _TAGS if tag in run_tags]
    return {reason.course_id: reason for reason in reasons}

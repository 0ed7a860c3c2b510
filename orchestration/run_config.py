"""The configuration of a run: why it was launched for each of its courses, and whether it rebuilds them.

`stage_one_sensor` names the courses with a reason each. With the reason, a run that starts late detects that a course
has been published in the meantime, and after a run has died, the reasons show which contents it was going to publish.
An operator who launches a run names no courses; the run embeds the courses of its partitions.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Self

import dagster as dg
from pydantic import Field, field_validator

from models.fingerprint import CourseFingerprint
from models.tables import Course, EmbeddingStatus

OP = "course_collection"
PARENT_TAG = "dagster/parent_run_id"


class LaunchReason(dg.Config):
    """The reason to embed a course."""

    course_id: str
    content: str = Field(description="The fingerprint to publish.")
    generation: int = Field(ge=0, lt=2**31, description="The course's generation when the run was launched.")
    requested_at: str | None = Field(None, description="Time of the request to answer, as on the course's row.")

    @classmethod
    def of(cls, course: Course, content: CourseFingerprint) -> Self:
        """The reason to embed a course whose chunks have the fingerprint `content`."""
        requested_at = course.embedding_requested_at
        return cls(
            course_id=course.id,
            content=str(content),
            generation=course.embedding_generation,
            requested_at=requested_at.isoformat() if requested_at else None,
        )

    @field_validator("requested_at")
    @classmethod
    def _is_a_time(cls, requested_at: str | None) -> str | None:
        if requested_at is not None and datetime.fromisoformat(requested_at).tzinfo is None:
            raise ValueError("the time has no time zone")
        return requested_at

    @property
    def request(self) -> datetime | None:
        """Time of the request to answer. It identifies the request and is only compared for equality."""
        return datetime.fromisoformat(self.requested_at) if self.requested_at else None

    def is_superseded(self, course: Course) -> bool:
        """Whether the course was published after the run was launched."""
        return course.embedding_status == EmbeddingStatus.DONE and course.embedding_generation > self.generation


class RunConfig(dg.Config):
    """The configuration of a run."""

    rebuild: bool = Field(False, description="Delete the collections of the courses, and embed every chunk again.")
    courses: list[LaunchReason] = Field(
        [], description="Set by `stage_one_sensor`. If empty, the run embeds the courses of its partitions."
    )


def reasons_of(run: dg.DagsterRun) -> Mapping[str, LaunchReason]:
    """The launch reasons of a run, by course id.

    Empty if an operator launched the run or re-executed another run, or if the configuration of an operator is invalid.
    """
    if PARENT_TAG in run.tags:
        return {}
    config: Any = run.run_config
    for key in ("ops", OP, "config", "courses"):
        config = config.get(key) if isinstance(config, Mapping) else None
    try:
        reasons = [LaunchReason(**course) for course in config or []]
    except (TypeError, ValueError):
        return {}
    return {reason.course_id: reason for reason in reasons}

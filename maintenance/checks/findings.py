"""Findings: the results of checks, and their repairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from maintenance.ownership import MAX_DELETIONS

MAX_NAMED = 5
"""Maximum number of subjects that a message names."""


class Level(StrEnum):
    """Severity of a finding. An error prevents courses from being embedded or searched."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One result of a check: a problem, or that there is none."""

    check: str
    level: Level
    message: str
    advice: str = ""
    """What the operator should do."""
    subjects: Sequence[str] = ()
    """The courses, collections or directories that have the problem."""
    repair: Callable[[str], str] | None = None
    """Repairs one subject and returns a description of the result; None if there is no safe repair."""
    deletes: bool = False
    """Whether the repair deletes the subjects. Then it repairs `MAX_DELETIONS` of them, and checks each one again."""

    @property
    def deletions(self) -> Sequence[str]:
        """The subjects that the repair would delete now."""
        return self.subjects[:MAX_DELETIONS] if self.repair and self.deletes else ()


@dataclass
class Diagnosis:
    """A finding and the results of its repairs."""

    finding: Finding
    repairs: list[str] = field(default_factory=list)
    is_repaired: bool = False

    @property
    def is_error(self) -> bool:
        """Whether the finding is an error that has not been repaired."""
        return self.finding.level == Level.ERROR and not self.is_repaired


def first_few(subjects: Sequence[str], limit: int = MAX_NAMED) -> str:
    """The first `limit` subjects and the number of the others, as text."""
    more = len(subjects) - limit
    return ", ".join(subjects[:limit]) + (f" and {more} more" if more > 0 else "")

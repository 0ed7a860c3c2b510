"""The result of a check."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

NAMED = 5
"""How many subjects a message names."""


class Level(StrEnum):
    """How serious a finding is. An error keeps courses from being embedded or searched."""

    OK = "ok"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One result of a check, good or bad."""

    check: str
    level: Level
    message: str
    advice: str = ""
    """What to do about it."""
    subjects: Sequence[str] = ()
    """The courses, collections or directories concerned."""
    repair: Callable[[str], str] | None = None
    """Repairs one subject and returns what it did; None if there is no safe repair."""


@dataclass
class Diagnosis:
    """A finding and the repairs that were made."""

    finding: Finding
    repairs: list[str] = field(default_factory=list)
    is_repaired: bool = False

    @property
    def is_error(self) -> bool:
        """Whether an error remains."""
        return self.finding.level == Level.ERROR and not self.is_repaired


def first_few(subjects: Sequence[str]) -> str:
    """The first `NAMED` subjects, and the number of the others."""
    more = len(subjects) - NAMED
    return ", ".join(subjects[:NAMED]) + (f" and {more} more" if more > 0 else "")

"""Reads runs and rows, and finds the changes that the rows do not show yet.

The current state of the instance is read instead of its events, because a sensor that was off would miss events.
"""

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

import dagster as dg

from models.course_state import REBUILD_OWNER_PREFIX
from models.courses import is_active
from models.tables import Course
from orchestration.course_status.decide import Change, RunState, decide
from orchestration.launching.launch_reasons import reasons_of
from orchestration.runs import courses_of, unfinished_runs

ENDED_WITHOUT_SUCCESS = (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
OVERLAP = timedelta(seconds=10)
"""The next search starts this much before the newest known update, because runs are not always visible in the order of
their update times."""
REBUILD_GRACE = timedelta(seconds=30)
"""How long a rebuild may own a course. Chroma takes seconds to delete a broken collection. No Dagster run shows whether
the rebuild is still alive."""


def find_changes(
    instance: dg.DagsterInstance,
    read_courses: Callable[[Collection[str]], Iterable[Course]],
    cursor: str | None,
) -> tuple[list[Change], str]:
    """Compare the rows with the runs of the instance.

    Args:
        instance: The Dagster instance.
        read_courses: Returns the rows of all active courses and of the courses with the given ids.
        cursor: The cursor that the previous call returned.

    Returns:
        The changes that the rows do not show yet, and the next cursor.
    """
    previous = Cursor.parse(cursor)
    ended, current = _ended_since(instance, previous)
    runs = [(_state(run), course_ids) for run, course_ids in courses_of([*unfinished_runs(instance), *ended], instance)]
    rows = {course.id: course for course in read_courses({course_id for _, ids in runs for course_id in ids})}
    known = {run.run_id for run, _ in runs}
    for course in rows.values():
        owner = course.embedding_run_id
        if owner and owner not in known and is_active(course) and not current.is_recent_rebuild(owner, previous):
            run = instance.get_run_by_id(owner)
            runs.append((_state(run) if run else RunState(owner, None), [course.id]))
    return decide(rows, runs), str(current)


def _ended_since(instance: dg.DagsterInstance, previous: "Cursor") -> tuple[list[dg.DagsterRun], "Cursor"]:
    """The runs that failed or were cancelled since the previous cursor, and the next cursor.

    The first call returns no runs, only a cursor.
    """
    records = instance.get_run_records(
        dg.RunsFilter(
            statuses=list(ENDED_WITHOUT_SUCCESS), updated_after=previous.newest and previous.newest - OVERLAP
        ),
        limit=None if previous.newest else 1,
        order_by="update_timestamp",
    )
    newest = max((record.update_timestamp for record in records), default=previous.newest)
    handled = [record.dagster_run.run_id for record in records if newest and record.update_timestamp > newest - OVERLAP]
    new = [record.dagster_run for record in records if record.dagster_run.run_id not in previous.handled]
    return (new if previous.newest else []), Cursor(newest or datetime.now(UTC), handled)


@dataclass(frozen=True)
class Cursor:
    """The state that a tick of the sensor passes to the next tick."""

    newest: datetime | None = None
    """Time of the latest update of a run that failed or was cancelled."""
    handled: Sequence[str] = ()
    """Ids of handled runs that the next search will find again because of `OVERLAP`."""
    rebuilds: dict[str, datetime] = field(default_factory=dict)
    """Owner id of a rebuild → when a tick first found a course that it owns."""

    def is_recent_rebuild(self, owner: str, previous: "Cursor") -> bool:
        """Whether the owner is a rebuild that may still be running. Records when it was first seen."""
        if not owner.startswith(REBUILD_OWNER_PREFIX):
            return False
        now = datetime.now(UTC)
        self.rebuilds[owner] = previous.rebuilds.get(owner, now)
        return now - self.rebuilds[owner] < REBUILD_GRACE

    def __str__(self) -> str:
        rebuilds = {owner: since.isoformat() for owner, since in self.rebuilds.items()}
        return json.dumps([self.newest and self.newest.isoformat(), list(self.handled), rebuilds])

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The inverse of `str`. Returns an empty cursor for any other text."""
        try:
            newest, handled, rebuilds = json.loads(text or "")
        except ValueError:
            return cls()
        return cls(
            datetime.fromisoformat(newest) if newest else None,
            handled,
            {owner: datetime.fromisoformat(since) for owner, since in rebuilds.items()},
        )


def _state(run: dg.DagsterRun) -> RunState:
    return RunState(run.run_id, run.status, reasons_of(run.tags))

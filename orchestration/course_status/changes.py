"""Compares course rows with Dagster's runs, and finds what the rows do not show yet.

A run writes `running`, its progress and its result to the course row. It cannot write that it waits, that it was
killed, or that it was cancelled in the queue. The current state of the instance is read instead of its events, because
a sensor that was off would miss events. Every change is a conditional UPDATE, so a row that has changed in the meantime
is not overwritten.
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Self

import dagster as dg

from models import course_state
from models.courses import is_active
from models.database import Session
from models.tables import Course, EmbeddingStatus
from orchestration.course_status.endings import CANCELLED, ending_of, ending_without_run
from orchestration.run_config import LaunchReason
from orchestration.runs import ENDED_WITHOUT_SUCCESS, LaunchedRun, courses_of, is_ours, unfinished_runs

OVERLAP = timedelta(seconds=10)
"""The next search starts this much before the newest known update, because runs are not always visible in the order of
their update times."""


@dataclass(frozen=True)
class Change:
    """A change of a row."""

    course_id: str
    description: str
    write: Callable[[Session], bool]
    """Returns whether the row was changed."""
    failure: str = ""
    """The kind of failure that it records (see `models.counters`); empty if it records none."""


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
        The changes in the order in which they must be written, and the next cursor.
    """
    ended, next_cursor = _ended_since(instance, Cursor.parse(cursor))
    dead = list(courses_of(ended, instance))
    unfinished = list(courses_of(unfinished_runs(instance), instance))
    named = {course_id for launched in (*dead, *unfinished) for course_id in launched.course_ids}
    rows = {course.id: course for course in read_courses(named)}
    alive = {launched.run.run_id for launched in unfinished}
    changes = [change for course in rows.values() for change in _of_owner(instance, course, alive)]
    changes += [change for launched in dead for change in _of_dead_run(instance, launched, rows)]
    changes += [change for launched in unfinished for change in _of_waiting_run(launched, rows)]
    return changes, str(next_cursor)


def _of_owner(instance: dg.DagsterInstance, course: Course, alive: Collection[str]) -> Iterator[Change]:
    """The owner of an active course has ended, or there is none."""
    owner = course.embedding_run_id
    is_running = course.embedding_status == EmbeddingStatus.RUNNING
    if not is_active(course) or owner in alive or (owner is None and not is_running):
        return
    run = instance.get_run_by_id(owner) if owner else None
    if run is not None and not run.is_finished:
        return
    if owner is not None and not is_running:
        yield Change(
            course.id,
            f"no longer pending, run {owner} ended before it",
            lambda session: course_state.release_queued(session, course.id, owner),
        )
        return
    ending = ending_of(instance, run) if run else ending_without_run(owner)
    yield Change(
        course.id,
        f"failed, {ending.reason}",
        partial(
            course_state.fail_course,
            course_id=course.id,
            run_id=owner,
            reason=ending.reason,
            retry=ending.retry,
        ),
        failure="cancelled" if ending.reason == CANCELLED else "worker_died",
    )


def _of_dead_run(instance: dg.DagsterInstance, launched: LaunchedRun, rows: Mapping[str, Course]) -> Iterator[Change]:
    """A run that the sensor launched died or was cancelled before it claimed some of its courses."""
    run = launched.run
    courses = {course_id: rows[course_id] for course_id in launched.reasons if course_id in rows}
    reached = {
        course_id
        for course_id, course in courses.items()
        if course.embedding_run_id == run.run_id and course.embedding_status != EmbeddingStatus.PENDING
    }
    is_cancelled = run.status is dg.DagsterRunStatus.CANCELED
    if reached and not is_cancelled:  # the other courses did not cause its death, so they are simply launched again
        return
    for course_id in courses.keys() - reached:
        reason = launched.reasons[course_id]
        if reason.is_superseded(courses[course_id]):
            continue
        if not is_cancelled:
            yield _postponed(instance, run, course_id, reason)
        elif request := reason.request:
            yield Change(
                course_id,
                "failed, its request was cancelled",
                partial(
                    course_state.cancel_request,
                    course_id=course_id,
                    requested_at=request,
                    reason=CANCELLED,
                    attempted=reason.content,
                ),
            )
        else:
            yield Change(
                course_id,
                f"as before, run {run.run_id} was cancelled",
                partial(
                    course_state.skip_content,
                    course_id=course_id,
                    run_id=run.run_id,
                    content=reason.content,
                    generation=reason.generation,
                ),
            )


def _postponed(instance: dg.DagsterInstance, run: dg.DagsterRun, course_id: str, reason: LaunchReason) -> Change:
    record = instance.get_run_record_by_id(run.run_id)
    ended = datetime.fromtimestamp(record.end_time, UTC) if record and record.end_time else datetime.now(UTC)
    why = f"Its runs ended before they began with it. {ending_of(instance, run).reason}"
    return Change(
        course_id,
        f"tried again later, run {run.run_id} ended before it",
        partial(
            course_state.postpone,
            course_id=course_id,
            reason=why,
            content=reason.content,
            generation=reason.generation,
            ended_at=ended,
        ),
    )


def _of_waiting_run(launched: LaunchedRun, rows: Mapping[str, Course]) -> Iterator[Change]:
    """An unfinished run has not claimed some of its courses yet."""
    if launched.run.status is dg.DagsterRunStatus.CANCELING:
        return
    run_id = launched.run.run_id
    for course_id in launched.course_ids:
        course = rows.get(course_id)
        if (
            course is not None
            and course.embedding_status in (EmbeddingStatus.NOT_STARTED, EmbeddingStatus.FAILED)
            and course.embedding_run_id != run_id
        ):
            yield Change(
                course_id,
                f"pending, queued in run {run_id}",
                partial(course_state.mark_queued, course_id=course_id, run_id=run_id),
            )


def _ended_since(instance: dg.DagsterInstance, previous: "Cursor") -> tuple[list[dg.DagsterRun], "Cursor"]:
    """Our runs that failed or were cancelled since the previous cursor, and the next cursor.

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
    return list(filter(is_ours, new)) if previous.newest else [], Cursor(newest or datetime.now(UTC), handled)


@dataclass(frozen=True)
class Cursor:
    """The state that a tick of the sensor passes to the next tick."""

    newest: datetime | None = None
    """Time of the latest update of a run that failed or was cancelled."""
    handled: Sequence[str] = ()
    """Ids of handled runs that the next search will find again because of `OVERLAP`."""

    def __str__(self) -> str:
        return json.dumps([self.newest and self.newest.isoformat(), list(self.handled)])

    @classmethod
    def parse(cls, text: str | None) -> Self:
        """The inverse of `str`. Returns an empty cursor for any other text, such as that of an earlier version."""
        try:
            newest, handled = json.loads(text or "")
            return cls(newest and datetime.fromisoformat(newest), handled)
        except (TypeError, ValueError):
            return cls()

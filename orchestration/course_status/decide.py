"""Compares course rows with Dagster's runs and decides which changes to record; does no I/O.

A run writes `running`, its progress and its result to the course row. It cannot write that it is queued, that it was
killed, or that it was cancelled in the queue.
"""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field

import dagster as dg

from models.tables import Course, EmbeddingStatus
from orchestration.launching.launch_reasons import LaunchReason
from orchestration.runs import QUEUED, UNFINISHED

STARTED = (EmbeddingStatus.RUNNING, EmbeddingStatus.DONE, EmbeddingStatus.FAILED)
"""States of a course on which its owner has started."""


@dataclass(frozen=True)
class RunState:
    """The state of a run in the Dagster instance."""

    run_id: str
    status: dg.DagsterRunStatus | None
    """None if the run was deleted."""
    reasons: Mapping[str, LaunchReason] = field(default_factory=dict)
    """The launch reasons of the run, by course id. Empty if an operator launched the run."""


@dataclass(frozen=True)
class Change:
    """A course whose row does not show yet that the run is queued or has ended."""

    course_id: str
    run: RunState
    is_running: bool = False
    """Whether the row is `running`."""
    not_reached: bool = False
    """Whether the run started on other courses and ended before it started on this course."""

    @property
    def reason(self) -> LaunchReason | None:
        """The launch reason of the course; None if an operator launched the run."""
        return self.run.reasons.get(self.course_id)


def decide(rows: Mapping[str, Course], runs: Sequence[tuple[RunState, Sequence[str]]]) -> list[Change]:
    """The changes that the rows do not show yet.

    Args:
        rows: Courses by id.
        runs: Runs with the ids of their courses: all unfinished runs, the owners of active courses, and runs that
            failed or were cancelled recently.
    """
    unfinished = {run.run_id for run, _ in runs if run.status in UNFINISHED}
    changes: list[Change] = []
    for run, course_ids in runs:
        courses = [rows[course_id] for course_id in course_ids if course_id in rows]
        if run.status in UNFINISHED:
            changes += [Change(course.id, run) for course in courses if not _shows_queued_run(course, run, unfinished)]
            continue
        started = {c.id for c in courses if c.embedding_run_id == run.run_id and c.embedding_status in STARTED}
        for course in courses:
            change = Change(
                course.id,
                run,
                is_running=course.embedding_status == EmbeddingStatus.RUNNING,
                not_reached=bool(started) and course.id not in started,
            )
            conditions = (_would_fail_unfinished, _would_detach_finished_run, _would_record_failed_attempt)
            if any(condition(course, change) for condition in conditions):
                changes.append(change)
    return changes


def _shows_queued_run(course: Course, run: RunState, unfinished: Set[str]) -> bool:
    """Whether the row already shows that an unfinished run will embed the course, or shows a later state.

    An executing run has already started on the courses that it owns. It may have skipped a `done` course that it does
    not own.
    """
    reason = run.reasons.get(course.id)
    is_executing = run.status not in QUEUED
    return (
        course.embedding_status == EmbeddingStatus.RUNNING
        or (is_executing and course.embedding_run_id == run.run_id)
        or (is_executing and course.embedding_status == EmbeddingStatus.DONE)
        or (is_executing and reason is not None and course.embedding_generation > reason.generation)
        or (course.embedding_status == EmbeddingStatus.PENDING and course.embedding_run_id in unfinished)
        or (reason is not None and reason.is_superseded(course))
    )


# These conditions repeat the conditions of the UPDATEs in `models.course_state`. They are checked first, because
# finding out why a run ended requires reading its log.


def _would_fail_unfinished(course: Course, change: Change) -> bool:
    if course.embedding_status == EmbeddingStatus.RUNNING:
        return course.embedding_run_id == change.run.run_id
    return (
        course.embedding_status in (EmbeddingStatus.PENDING, EmbeddingStatus.NOT_STARTED)
        and course.embedding_run_id in (None, change.run.run_id)
        and course.embedding_requested_at in (None, change.reason.requested_at if change.reason else None)
    )


def _would_detach_finished_run(course: Course, change: Change) -> bool:
    return (
        course.embedding_status == EmbeddingStatus.PENDING
        and course.embedding_run_id == change.run.run_id
        and course.embedding_requested_at is not None
    )


def _would_record_failed_attempt(course: Course, change: Change) -> bool:
    return (
        change.reason is not None
        and course.embedding_status in (EmbeddingStatus.DONE, EmbeddingStatus.FAILED)
        and course.embedding_run_id != change.run.run_id
        and course.embedding_generation == change.reason.generation
    )

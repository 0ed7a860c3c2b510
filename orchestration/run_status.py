"""Run state → course state, for what a run cannot say of itself.

A run writes `running`, its progress and its outcome on the course's row. It cannot say that it is still queued, nor
that it was killed. Both are read off the instance as it is now: a sensor that was off would have missed the events.
`decide` compares rows with runs, purely; every change it finds is written under a condition, so a row that moved on
meanwhile is left alone.
"""

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Self

import dagster as dg

from models import catalogue as catalogue_rows
from models.database import Session
from models.tables import Course, EmbeddingStatus
from orchestration.partitions import courses_of
from orchestration.reasons import Reason, reasons_of

Status = dg.DagsterRunStatus
QUEUED = (Status.NOT_STARTED, Status.QUEUED, Status.STARTING)
UNFINISHED = (*QUEUED, Status.STARTED, Status.CANCELING)
ENDED_BADLY = (Status.FAILURE, Status.CANCELED)
BEGUN = (EmbeddingStatus.RUNNING, EmbeddingStatus.DONE, EmbeddingStatus.FAILED)
"""What a run makes of a course once its turn has come."""
OVERLAP = timedelta(seconds=10)
"""How far back the next look begins: what was written last need not be what was seen last."""
REBUILD_GRACE = timedelta(seconds=30)
"""How long a rebuild may own a course: deleting a broken collection takes Chroma seconds, and no run tells it lives."""


@dataclass(frozen=True)
class RunState:
    """A run as the instance knows it; `status` is None when it knows it no more."""

    run_id: str
    status: dg.DagsterRunStatus | None
    reasons: Mapping[str, Reason] = field(default_factory=dict)
    """What it was launched for, by course id; empty for a run that an operator launched."""


@dataclass(frozen=True)
class Change:
    """Something a course's row does not say yet: the run is queued, or over."""

    course_id: str
    run: RunState
    at_work: bool = False
    """Whether the row says that the run is at work on the course."""
    overtaken: bool = False
    """Whether the run went to work on others of its courses, and ended before the turn of this one."""

    @property
    def reason(self) -> Reason | None:
        """Why the run was launched for the course."""
        return self.run.reasons.get(self.course_id)


@dataclass(frozen=True)
class Ending:
    """How a run ended, and whether another one is worth while."""

    text: str
    retry: bool = False


def unfinished_runs(instance: dg.DagsterInstance) -> Sequence[dg.DagsterRun]:
    """All runs that wait or work."""
    return instance.get_runs(dg.RunsFilter(statuses=list(UNFINISHED)))


def find_changes(
    instance: dg.DagsterInstance,
    read_courses: Callable[[Collection[str]], Iterable[Course]],
    cursor: str | None,
) -> tuple[list[Change], str]:
    """Compare the rows with the instance's runs; writes nothing.

    Args:
        instance: Where the runs are.
        read_courses: Gives the rows of all active courses and of those with these ids.
        cursor: As the last call returned it.

    Returns:
        What the rows do not say yet, and the next cursor.
    """
    last_look = _Look.parse(cursor)
    ended, look = _ended_since(instance, last_look)
    runs = [*unfinished_runs(instance), *ended]
    claims = [(_state(run), course_ids) for run, course_ids in courses_of(runs, instance)]
    rows = {course.id: course for course in read_courses({course_id for _, ids in claims for course_id in ids})}
    known = {run.run_id for run, _ in claims}
    for course in rows.values():
        owner = course.embedding_run_id
        is_active = course.embedding_status in (EmbeddingStatus.PENDING, EmbeddingStatus.RUNNING)
        if owner and owner not in known and is_active and not look.is_being_rebuilt(owner, last_look):
            run = instance.get_run_by_id(owner)
            claims.append((_state(run) if run else RunState(owner, None), [course.id]))
    return decide(rows, claims), str(look)


def _ended_since(instance: dg.DagsterInstance, last_look: "_Look") -> tuple[list[dg.DagsterRun], "_Look"]:
    """The runs that ended badly since the last look; the first look only finds out where to begin."""
    records = instance.get_run_records(
        dg.RunsFilter(statuses=list(ENDED_BADLY), updated_after=last_look.newest and last_look.newest - OVERLAP),
        limit=None if last_look.newest else 1,
        order_by="update_timestamp",
    )
    newest = max((record.update_timestamp for record in records), default=last_look.newest)
    judged = [record.dagster_run.run_id for record in records if newest and record.update_timestamp > newest - OVERLAP]
    unjudged = [record.dagster_run for record in records if record.dagster_run.run_id not in last_look.judged]
    return (unjudged if last_look.newest else []), _Look(newest or datetime.now(UTC), judged)


@dataclass(frozen=True)
class _Look:
    """What one look at runs and rows remembers for the next."""

    newest: datetime | None = None
    """When the last of the runs that ended badly did."""
    judged: Sequence[str] = ()
    """The runs that the overlap brings again."""
    rebuilds: dict[str, datetime] = field(default_factory=dict)
    """When each rebuild was first seen to own a course, by its id."""

    def is_being_rebuilt(self, owner: str, last_look: "_Look") -> bool:
        """Whether the owner is a rebuild that may still be at work; remembers when it was first seen."""
        if not owner.startswith(catalogue_rows.REBUILD_OWNER_PREFIX):
            return False
        now = datetime.now(UTC)
        self.rebuilds[owner] = last_look.rebuilds.get(owner, now)
        return now - self.rebuilds[owner] < REBUILD_GRACE

    def __str__(self) -> str:
        rebuilds = {owner: since.isoformat() for owner, since in self.rebuilds.items()}
        return json.dumps([self.newest and self.newest.isoformat(), list(self.judged), rebuilds])

    @classmethod
    def parse(cls, cursor: str | None) -> Self:
        """Reads what `str` wrote; anything else, like an older version's, is no memory."""
        try:
            newest, judged, rebuilds = json.loads(cursor or "")
        except ValueError:
            return cls()
        return cls(
            datetime.fromisoformat(newest) if newest else None,
            judged,
            {owner: datetime.fromisoformat(since) for owner, since in rebuilds.items()},
        )


def decide(rows: Mapping[str, Course], claims: Sequence[tuple[RunState, Sequence[str]]]) -> list[Change]:
    """What the rows do not say yet.

    Args:
        rows: Courses by id.
        claims: Runs with the courses they work on: all unfinished ones, those that own an active course, and some that
            ended badly.
    """
    waiting = {run.run_id for run, _ in claims if run.status in UNFINISHED}
    changes: list[Change] = []
    for run, course_ids in claims:
        courses = [rows[course_id] for course_id in course_ids if course_id in rows]
        if run.status in UNFINISHED:
            changes += [Change(course.id, run) for course in courses if not _is_told(course, run, waiting)]
        else:
            begun = {c.id for c in courses if c.embedding_run_id == run.run_id and c.embedding_status in BEGUN}
            for course in courses:
                at_work = course.embedding_status == EmbeddingStatus.RUNNING
                change = Change(course.id, run, at_work=at_work, overtaken=bool(begun) and course.id not in begun)
                if any(judge(course, change) for judge in (_leaves_unfinished, _leaves_a_request, _was_in_vain)):
                    changes.append(change)
    return changes


def write_changes(
    session: Session, changes: Iterable[Change], endings: Mapping[str, Ending], contents: Mapping[str, str]
) -> list[str]:
    """Write what was found.

    Args:
        session: An open transaction.
        changes: As `find_changes` found them.
        endings: How the runs among them ended, by run id.
        contents: The fingerprints that runs without a reason would have published, by course id, as far as known.

    Returns:
        A line for each row that was changed.
    """
    lines = []
    for change in changes:
        course_id, run = change.course_id, change.run
        if run.status in UNFINISHED:
            if catalogue_rows.mark_queued(session, course_id, run.run_id):
                lines.append(f"course {course_id}: pending, waits for run {run.run_id}")
            continue
        ending, reason = endings[run.run_id], change.reason
        attempted = reason.content if reason else contents.get(course_id)
        retry = ending.retry if change.at_work else change.overtaken
        if run.status is Status.CANCELED:
            retry = False
        elif change.overtaken:  # the course is not to blame: it is tried again, without the one that was
            attempted = None
        if catalogue_rows.fail_unfinished(
            session,
            course_id,
            run.run_id,
            ending.text,
            requested_at=reason.requested_at if reason else None,
            attempted=attempted,
            retry_at=datetime.now(UTC) if retry else None,
        ):
            lines.append(f"course {course_id}: failed, {ending.text}")
        elif catalogue_rows.release_request(session, course_id, run.run_id):
            lines.append(f"course {course_id}: pending, asked for since run {run.run_id} was launched")
        elif reason and attempted:
            catalogue_rows.note_vain_attempt(session, course_id, run.run_id, attempted, reason.generation)
    return lines


def endings_of(instance: dg.DagsterInstance, changes: Iterable[Change]) -> dict[str, Ending]:
    """How the ended runs among the changes ended, by run id."""
    over = {change.run.run_id: change.run for change in changes if change.run.status not in UNFINISHED}
    return {run_id: _ending(instance, run) for run_id, run in over.items()}


def _leaves_unfinished(course: Course, change: Change) -> bool:
    """The condition of `catalogue.fail_unfinished`, to look only into runs that matter."""
    if course.embedding_status == EmbeddingStatus.RUNNING:
        return course.embedding_run_id == change.run.run_id
    return (
        course.embedding_status in (EmbeddingStatus.PENDING, EmbeddingStatus.NOT_STARTED)
        and course.embedding_run_id in (None, change.run.run_id)
        and course.embedding_requested_at in (None, change.reason.requested_at if change.reason else None)
    )


def _leaves_a_request(course: Course, change: Change) -> bool:
    """The condition of `catalogue.release_request`: the course was asked for after its turn, while the run went on."""
    return (
        course.embedding_status == EmbeddingStatus.PENDING
        and course.embedding_run_id == change.run.run_id
        and course.embedding_requested_at is not None
    )


def _was_in_vain(course: Course, change: Change) -> bool:
    """The condition of `catalogue.note_vain_attempt`: the run never touched the course, which stays as it was."""
    return (
        change.reason is not None
        and course.embedding_status in (EmbeddingStatus.DONE, EmbeddingStatus.FAILED)
        and course.embedding_run_id != change.run.run_id
        and course.embedding_generation == change.reason.generation
    )


def _is_told(course: Course, run: RunState, waiting: Set[str]) -> bool:
    """Whether the row says that the run will come to the course, or has more to say than that.

    A run that is at work has been to the courses it owns. To one that is `done` it may have been in vain.
    """
    reason = run.reasons.get(course.id)
    at_work = run.status not in QUEUED
    return (
        course.embedding_status == EmbeddingStatus.RUNNING
        or (at_work and course.embedding_run_id == run.run_id)
        or (at_work and course.embedding_status == EmbeddingStatus.DONE)
        or (at_work and reason is not None and course.embedding_generation > reason.generation)
        or (course.embedding_status == EmbeddingStatus.PENDING and course.embedding_run_id in waiting)
        or (reason is not None and reason.is_settled(course))
    )


def _state(run: dg.DagsterRun) -> RunState:
    return RunState(run.run_id, run.status, reasons_of(run.tags))


def _ending(instance: dg.DagsterInstance, run: RunState) -> Ending:
    if run.status is None and run.run_id.startswith(catalogue_rows.REBUILD_OWNER_PREFIX):
        return Ending("the rebuild was interrupted", retry=True)
    if run.status is None:
        return Ending("the run was deleted")
    if run.status is Status.CANCELED:
        return Ending("cancelled")
    entries = instance.all_logs(run.run_id, of_type={dg.DagsterEventType.STEP_FAILURE, dg.DagsterEventType.RUN_FAILURE})
    events = [entry.dagster_event for entry in entries if entry.dagster_event]
    for event in events:
        if event.is_step_failure and event.step_failure_data.error is not None:
            error = event.step_failure_data.error
            # It could tell Dagster but not the row: the catalogue was away. A worker that died is Dagster's to retry.
            message = (error.cause or error).message.strip()
            return Ending(message.removeprefix("dagster._core.definitions.events.Failure: "), retry=True)
    messages = [event.message for event in events if event.message]
    return Ending(messages[-1] if messages else f"run {run.run_id} ended without saying why")

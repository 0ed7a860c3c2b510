"""`course-search status`: show the state and progress of courses."""

import json
import time
from collections import Counter
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console, Group
from rich.live import Live

from cli.courses import (
    POLL_SECONDS,
    CourseIds,
    Json,
    file_state,
    make_table,
    not_found_error,
    open_catalogue,
    print_error,
    print_table,
)
from models.courses import courses_by_id, is_active, list_courses
from models.database import Engine, transaction
from models.ingestion import Ingestion, ingestion_by_course, ingestion_of_course
from models.resources import unfinished_resources
from models.tables import Course, EmbeddingStatus, UploadedResource
from models.text import counted, one_line

HEADINGS = ("course", "status", "progress", "chunks", "generation", "requested", "error")
STYLES: dict[str, str] = {
    EmbeddingStatus.PENDING: "yellow",
    EmbeddingStatus.RUNNING: "cyan",
    EmbeddingStatus.FAILED: "red",
}
MAX_ERROR_CHARACTERS = 100

CourseState = tuple[Course, int]
"""A course row and its number of chunks in the catalogue."""


def status(
    course_ids: CourseIds = None,
    as_json: Json = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show pending and running courses until there are none.")
    ] = False,
) -> None:
    """Show the state of the given courses, or of all.

    A course is not_started, pending (waits for a run), running, done (searchable) or failed. `requested` is the time of
    an embedding request that no run has claimed yet; `generation` is how often the course was published. A course that
    failed for a cause that may be temporary is retried at the time before its error. Uploaded files that are not read
    yet, or have failed, follow the table.
    """
    with open_catalogue() as engine:
        if watch:
            _watch(engine, course_ids, Console(stderr=True, highlight=False))
        states, unknown = _read(engine, course_ids)
        files = _unfinished_files(engine, states)
    if as_json:
        courses = [{**_as_json(*state), "unfinished_files": files.get(state[0].id, [])} for state in states]
        typer.echo(json.dumps({"courses": courses}, indent=2, ensure_ascii=False, default=_file_as_json))
    elif states:
        print_table(HEADINGS, _rows(states))
        for course_id, unfinished in files.items():
            typer.echo(f"\nFiles of {one_line(course_id)} that are not read:")
            for file in unfinished:
                typer.echo(f"  {file_state(file)}")
        typer.echo(f"\n{_summary(states)}")
    elif not unknown:
        print_error("There are no courses yet; load some with `course-search load`.")
    for course_id in unknown:
        print_error(not_found_error(course_id).message)
    if unknown:
        raise typer.Exit(1)


def _read(engine: Engine, course_ids: Sequence[str] | None) -> tuple[list[CourseState], list[str]]:
    """Returns the states of the existing courses, and the unknown ids."""
    with transaction(engine) as session:
        if not course_ids:
            courses, totals = list_courses(session), ingestion_by_course(session)
            return [(course, totals.get(course.id, Ingestion()).chunks) for course in courses], []
    with transaction(engine) as session:
        rows = courses_by_id(session, list(dict.fromkeys(course_ids)))
        known = [(course, ingestion_of_course(session, course.id).chunks) for course in rows.values() if course]
    return known, [course_id for course_id, course in rows.items() if course is None]


def _unfinished_files(engine: Engine, states: Sequence[CourseState]) -> dict[str, list[UploadedResource]]:
    """Course id → its files that wait, are read, or have failed."""
    files: dict[str, list[UploadedResource]] = {course.id: [] for course, _ in states}
    with transaction(engine) as session:
        for file in unfinished_resources(session):
            if file.course_id in files:
                files[file.course_id].append(file)
    return {course_id: unfinished for course_id, unfinished in files.items() if unfinished}


def _file_as_json(file: UploadedResource) -> dict[str, object]:
    return {name: getattr(file, name) for name in ("resource_id", "name", "status", "progress", "error")}


def _watch(engine: Engine, course_ids: Sequence[str] | None, console: Console) -> None:
    """Wait until no course is pending or running, and show those that are if this is a terminal."""
    with Live(console=console, transient=True, vertical_overflow="ellipsis", auto_refresh=False) as live:
        while True:
            states, _ = _read(engine, course_ids)
            active = [state for state in states if is_active(state[0])]
            if not active:
                return
            if console.is_terminal:
                live.update(
                    Group(_summary(states), "", make_table(HEADINGS, _rows(active[: console.height]))), refresh=True
                )
            time.sleep(POLL_SECONDS)


def _rows(states: Sequence[CourseState]) -> list[tuple[Sequence[str], str]]:
    return [(_cells(*state), STYLES.get(state[0].embedding_status, "")) for state in states]


def _cells(course: Course, chunks: int) -> Sequence[str]:
    requested, retry = course.embedding_requested_at, course.embedding_retry_at
    error = one_line(course.embedding_error or "")
    if retry:
        error = f"(retry at {retry.astimezone():%H:%M:%S}) {error}".strip()
    return (
        course.id,
        course.embedding_status,
        f"{course.embedding_progress:.0%}",
        str(chunks),
        str(course.embedding_generation),
        f"{requested.astimezone():%Y-%m-%d %H:%M:%S}" if requested else "",
        error if len(error) <= MAX_ERROR_CHARACTERS else error[: MAX_ERROR_CHARACTERS - 1] + "…",
    )


def _as_json(course: Course, chunks: int) -> dict[str, object]:
    """The fields of `GET /courses`, plus the request, the retries and the number of chunks."""
    requested, retry = course.embedding_requested_at, course.embedding_retry_at
    return {
        "course_id": course.id,
        "embedding_status": course.embedding_status,
        "embedding_progress": course.embedding_progress,
        "embedding_error": course.embedding_error,
        "embedding_generation": course.embedding_generation,
        "embedding_requested_at": requested.isoformat() if requested else None,
        "embedding_attempts": course.embedding_attempts,
        "embedding_retry_at": retry.isoformat() if retry else None,
        "chunks": chunks,
    }


def _summary(states: Sequence[CourseState]) -> str:
    counts = Counter(course.embedding_status for course, _ in states)
    parts = [f"{count} {status}" for status, count in sorted(counts.items())]
    return f"{counted(len(states), 'course')}: {', '.join(parts)}"

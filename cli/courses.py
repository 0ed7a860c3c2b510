"""What the commands about courses share: the catalogue, which courses are meant, tables, and following courses.

Answers go to standard output and complaints to standard error, so that a pipe sees the answers alone.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maintenance.progress import progress
from maintenance.rebuild import running_course, unknown_course
from models.courses import courses_by_id, is_active, list_course_ids
from models.database import CatalogueSettings, DatabaseUnavailableError, Engine, create_catalogue_engine, transaction
from models.tables import Course, EmbeddingStatus
from models.text import one_line
from search_api.http.errors import AlreadyRunningError, CourseNotFoundError

POLL_SECONDS = 1.0
STALL_SECONDS = 30.0
STALLED = (
    f"Nothing has moved for {STALL_SECONDS:.0f} s. Is `make up` running? Its logs are in data/logs, and "
    "`course-search doctor` says what is wrong. Still waiting …"
)
RICH_ROWS = 500
"""A larger table is printed plainly on a terminal too: Rich takes half a millisecond a row."""

CourseIds = Annotated[list[str] | None, typer.Argument(metavar="COURSE", help="Ids of courses.", show_default=False)]
AllCourses = Annotated[bool, typer.Option("--all", help="All courses of the catalogue.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Stay until they are done or failed. Ctrl-C ends the waiting, not the work.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@contextmanager
def catalogue() -> Iterator[Engine]:
    """The catalogue; one that cannot be used ends the command with one line that says why."""
    settings = CatalogueSettings()
    try:
        engine = create_catalogue_engine(settings)
    except ValueError as error:
        fail(str(error))
    try:
        yield engine
    except DatabaseUnavailableError as error:
        fail(str(error))
    finally:
        engine.dispose()


def chosen(engine: Engine, course_ids: Sequence[str] | None, *, everything: bool) -> list[str]:
    """The ids of the courses that are meant, each once.

    Raises:
        UsageError: no course is named, or all of them are wanted as well.
    """
    if bool(course_ids) == everything:
        raise typer.BadParameter("name courses, or say --all; not both")
    if course_ids:
        return list(dict.fromkeys(course_ids))
    with transaction(engine) as session:
        every_id = list(list_course_ids(session))
    if not every_id:
        fail("There are no courses yet; load some with `course-search load`.")
    return every_id


def not_found(course_id: str) -> CourseNotFoundError:
    """The API's error for an unknown course."""
    return CourseNotFoundError(unknown_course(course_id))


def already_running(course: Course) -> AlreadyRunningError:
    """The API's error for a course that is running."""
    return AlreadyRunningError(running_course(course))


def follow(engine: Engine, course_ids: Sequence[str], *, quiet: bool = False) -> dict[str, Course | None]:
    """Wait until every course is done or has failed, and say so of each; a terminal sees a bar too.

    Returns:
        The rows as they were then; None for a course that is gone.
    """
    ended: dict[str, Course | None] = {}
    seen: Mapping[str, object] = {}
    moved_at = time.monotonic()
    with progress("Embedding", len(course_ids)) as advance:
        while True:
            with transaction(engine) as session:
                rows = courses_by_id(session, [course_id for course_id in course_ids if course_id not in ended])
            for course_id, course in rows.items():
                if course is None or not is_active(course):
                    ended[course_id] = course
                    advance(1)
                    if not quiet:
                        typer.echo(_ending(course_id, course))
            if len(ended) == len(course_ids):
                return ended
            now = {course_id: course and course.model_dump() for course_id, course in rows.items()}
            if now != seen:
                seen, moved_at = now, time.monotonic()
            elif time.monotonic() - moved_at > STALL_SECONDS:
                typer.echo(STALLED, err=True)
                moved_at = time.monotonic()
            time.sleep(POLL_SECONDS)


def _ending(course_id: str, course: Course | None) -> str:
    if course is None:
        return f"{course_id}: gone from the catalogue"
    if course.embedding_status != EmbeddingStatus.FAILED:
        return f"{course_id}: {course.embedding_status}"
    again = " (it will be tried again)" if course.embedding_requested_at else ""
    return f"{course_id}: failed: {one_line(course.embedding_error or '')}{again}"


def table(headings: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> Table:
    """A table for a terminal, of cells and the style of their row; the last column is cut when there is no room."""
    drawn = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        drawn.add_column(heading, no_wrap=heading != headings[-1])  # Rich narrows those first that it may wrap
    for cells, style in rows:
        drawn.add_row(*(Text(cell, no_wrap=True, overflow="ellipsis") for cell in cells), style=style)
    return drawn


def print_table(headings: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> None:
    """A table by Rich on a terminal, and aligned text in a pipe."""
    console = Console()
    if console.is_terminal and len(rows) <= RICH_ROWS:
        console.print(table(headings, rows))
        return
    lines = [headings, *(cells for cells, _ in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [set_cell_size(cell, width) for cell, width in zip(line, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def complain(message: str) -> None:
    """A line on standard error."""
    typer.echo(message, err=True)


def fail(message: str) -> NoReturn:
    """End the command: something is wrong."""
    complain(message)
    raise typer.Exit(1)

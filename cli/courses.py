"""Shared by the commands about courses: options, the catalogue connection, waiting for courses, tables.

Results go to standard output, errors and hints to standard error, so that a pipe receives only results.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf
from typing import Annotated, NoReturn

import typer
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.table import Table
from rich.text import Text

from maintenance.progress import progress
from models.courses import courses_by_id, is_active, list_course_ids
from models.database import CatalogueSettings, DatabaseUnavailableError, Engine, create_catalogue_engine, transaction
from models.messages import not_found_message, running_message
from models.tables import Course, EmbeddingStatus, ResourceStatus, UploadedResource
from models.text import counted, one_line
from search_api.http.errors import AlreadyRunningError, CourseNotFoundError

POLL_SECONDS = 1.0
STALL_SECONDS = 30.0
STALL_MESSAGE = (
    f"Nothing has changed for {STALL_SECONDS:.0f} s: the pipeline is busy with other courses, or `course-search up` "
    "does not run. `course-search status` shows the queue, and `course-search doctor` finds problems. Still waiting …"
)
MAX_RICH_ROWS = 500
"""Larger tables are printed as plain text on a terminal too: Rich takes half a millisecond per row."""

CourseIds = Annotated[list[str] | None, typer.Argument(metavar="COURSE", help="Ids of courses.", show_default=False)]
AllCourses = Annotated[bool, typer.Option("--all", help="All courses of the catalogue.")]
Wait = Annotated[
    bool,
    typer.Option("--wait", help="Wait until the courses are done or failed. Ctrl-C stops waiting; the work continues."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@contextmanager
def open_catalogue() -> Iterator[Engine]:
    """Connect to the catalogue. If it cannot be used, the command prints the reason in one line and exits."""
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


def select_course_ids(engine: Engine, course_ids: Sequence[str] | None, *, all_courses: bool) -> list[str]:
    """The ids that the command line names, without duplicates, or those of all courses.

    Raises:
        BadParameter: neither ids nor `all_courses` are given, or both.
        Exit: there are no courses.
    """
    if bool(course_ids) == all_courses:
        raise typer.BadParameter("give either course ids or --all")
    if course_ids:
        return list(dict.fromkeys(course_ids))
    with transaction(engine) as session:
        all_ids = list(list_course_ids(session))
    if not all_ids:
        fail("There are no courses yet; load some with `course-search load`.")
    return all_ids


def not_found_error(course_id: str) -> CourseNotFoundError:
    """The API's error for an unknown course."""
    return CourseNotFoundError(not_found_message(course_id))


def already_running_error(course: Course) -> AlreadyRunningError:
    """The API's error for a course that is being embedded."""
    return AlreadyRunningError(running_message(course.id))


def _is_idle(course: Course) -> bool:
    return not is_active(course)


def wait_for_courses(
    engine: Engine,
    course_ids: Sequence[str],
    *,
    silent: bool = False,
    is_final: Callable[[Course], bool] = _is_idle,
) -> dict[str, Course | None]:
    """Wait until every course is done or has failed, with a progress bar on a terminal.

    Args:
        engine: The catalogue.
        course_ids: Courses to wait for.
        silent: Do not print one line per finished course.
        is_final: Whether the wait for a course ends; by default, when it is neither pending nor running.

    Returns:
        Course id → its row when it was done or failed; None if it was deleted.
    """
    final: dict[str, Course | None] = {}
    last_state: Mapping[str, object] = {}
    changed_at = time.monotonic()
    with progress("Embedding", len(course_ids)) as advance:
        while True:
            with transaction(engine) as session:
                rows = courses_by_id(session, [course_id for course_id in course_ids if course_id not in final])
            for course_id, course in rows.items():
                if course is None or is_final(course):
                    final[course_id] = course
                    advance(1)
                    if not silent:
                        typer.echo(_final_state(course_id, course))
            if len(final) == len(course_ids):
                return final
            state = {course_id: course and course.model_dump() for course_id, course in rows.items()}
            if state != last_state:
                last_state, changed_at = state, time.monotonic()
            elif time.monotonic() - changed_at > STALL_SECONDS:
                typer.echo(STALL_MESSAGE, err=True)
                changed_at = inf  # once, until something changes
            time.sleep(POLL_SECONDS)


def _final_state(course_id: str, course: Course | None) -> str:
    if course is None:
        return f"{course_id}: deleted from the catalogue"
    if course.embedding_status != EmbeddingStatus.FAILED:
        return f"{course_id}: {course.embedding_status}"
    retry = " (it will be retried)" if course.embedding_retry_at else ""
    return f"{course_id}: failed: {one_line(course.embedding_error or '')}{retry}"


def file_state(file: UploadedResource) -> str:
    """One line about a file that was uploaded."""
    match file.status:
        case ResourceStatus.FAILED:
            state = f"failed: {one_line(file.error or '')}"
        case ResourceStatus.RUNNING:
            state = f"running {file.progress:.0%}"
        case ResourceStatus.SUCCEEDED:
            state = f"succeeded ({counted(file.chunks, 'chunk')})"
        case _:
            state = f"{file.status}{f' (tried again after: {one_line(file.error)})' if file.error else ''}"
    return f"{one_line(file.name)}: {state}"


def make_table(headings: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> Table:
    """A Rich table. If the terminal is too narrow, the last column is shortened.

    Args:
        headings: Names of the columns.
        rows: For each row, its cells and its Rich style.
    """
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, no_wrap=heading != headings[-1])  # Rich narrows wrappable columns first
    for cells, style in rows:
        table.add_row(*(Text(one_line(cell), no_wrap=True, overflow="ellipsis") for cell in cells), style=style)
    return table


def print_table(headings: Sequence[str], rows: Sequence[tuple[Sequence[str], str]]) -> None:
    """Print a Rich table on a terminal, and aligned plain text otherwise."""
    console = Console()
    if console.is_terminal and len(rows) <= MAX_RICH_ROWS:
        console.print(make_table(headings, rows))
        return
    lines = [headings, *([one_line(cell) for cell in cells] for cells, _ in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = [set_cell_size(cell, width) for cell, width in zip(line, widths, strict=True)]
        typer.echo("  ".join(cells).rstrip())


def print_error(message: str) -> None:
    """Print a line on standard error."""
    typer.echo(message, err=True)


def fail(message: str) -> NoReturn:
    """Print an error and exit with code 1."""
    print_error(message)
    raise typer.Exit(1)

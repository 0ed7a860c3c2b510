"""`course-search add`: add files to a course, as `POST /resources` does, without the search app."""

import json
import re
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from cli.courses import (
    POLL_SECONDS,
    STALL_MESSAGE,
    STALL_SECONDS,
    Json,
    fail,
    file_state,
    open_catalogue,
    print_error,
    wait_for_courses,
)
from documents.settings import DocumentSettings
from documents.uploads import UploadError, Uploads
from embedding.model_settings import EmbeddingSettings
from maintenance.resources import add_file, file_name
from models.chunks import chunk_pages
from models.courses import is_active
from models.database import Engine, transaction
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.resources import ACTIVE, NotOurTablesError, create_course, get_resource
from models.tables import Course, EmbeddingStatus, ResourceStatus, UploadedResource
from models.text import one_line, quoted

NOTHING_ADDED = "Nothing was added."


def add(
    course_id: Annotated[str, typer.Argument(metavar="COURSE", help="Id of the course; it is created if needed.")],
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE", help="PDF, Markdown, HTML, text, subtitles, slides, …")
    ],
    wait: Annotated[
        bool,
        typer.Option("--wait", help="Wait until the files are read and the course is embedded. Ctrl-C stops waiting."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Add files to a course, in the natural order of their names; the pipeline reads and embeds them.

    A file with the name of an earlier one replaces it; nothing is done if its content is the same. The files are copied
    to UPLOAD_DIR. Exit code 1: nothing was added, or, with --wait, a file or the course failed.
    """
    settings = DocumentSettings()
    with ExitStack() as stack:
        sources = _open_all(stack, files, settings.upload_max_bytes)
        engine = stack.enter_context(open_catalogue())
        _ensure_course(engine, course_id)
        added = []
        for name, stream in sources:
            added.append(_add(engine, settings, course_id, name, stream))
            if not as_json:
                typer.echo(file_state(added[-1]))
        course = None
        if wait:
            added = _wait_for_files(engine, added, silent=as_json)
            if any(file.status == ResourceStatus.SUCCEEDED for file in added):
                course = _wait_until_embedded(engine, course_id, silent=as_json)
    if as_json:
        typer.echo(
            json.dumps(
                {"course_id": course_id, "resources": [_as_json(file) for file in added]}, indent=2, ensure_ascii=False
            )
        )
    elif not wait:
        print_error(
            "The pipeline reads and embeds them while `course-search up` runs; `course-search status` shows the "
            "progress."
        )
    all_read = all(file.status == ResourceStatus.SUCCEEDED for file in added)
    if wait and not (all_read and course is not None and course.embedding_status == EmbeddingStatus.DONE):
        raise typer.Exit(1)


def natural_order(name: str) -> list[tuple[int, str]]:
    """A key that orders names as people do: `week2` before `week10`."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name.casefold())]


def _open_all(stack: ExitStack, paths: Sequence[Path], max_bytes: int) -> list[tuple[str, BinaryIO]]:
    """Open all files, so that none is added if one cannot be; their names and contents in order."""
    sources: dict[str, BinaryIO] = {}
    problems = []
    for path in paths:
        try:
            name = file_name(path.name)
            if not path.is_file() and path.exists():
                problems.append(f"{path}: is not a file; name the files themselves")
                continue
            stream = stack.enter_context(path.open("rb"))
            size = stream.seek(0, 2)
            stream.seek(0)
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
        except ValueError as error:
            problems.append(f"{path}: {error}")
        else:
            if not size:
                problems.append(f"{path}: is empty")
            elif size > max_bytes:
                problems.append(f"{path}: is larger than {max_bytes} bytes (UPLOAD_MAX_BYTES)")
            elif name in sources:
                problems.append(f"{path}: another of these files has the same name, and would be replaced")
            sources[name] = stream
    if problems:
        fail("\n".join([*problems, NOTHING_ADDED]))
    return sorted(sources.items(), key=lambda source: natural_order(source[0]))


def _ensure_course(engine: Engine, course_id: str) -> None:
    try:
        with transaction(engine) as session:
            create_course(session, course_id)
    except NotOurTablesError as error:
        fail(f"{error}\n{NOTHING_ADDED}")
    except ValueError as error:
        fail(f"Course {quoted(course_id)}: {error}\n{NOTHING_ADDED}")


def _add(engine: Engine, settings: DocumentSettings, course_id: str, name: str, stream: BinaryIO) -> UploadedResource:
    uploads = Uploads(settings.upload_dir)
    try:
        with uploads.save(stream, settings.upload_max_bytes) as upload:
            return add_file(engine, uploads, course_id, name, upload, now=datetime.now(UTC))
    except (UploadError, LookupError, OSError) as error:
        fail(f"{one_line(name)}: was not added: {error}")


def _wait_for_files(engine: Engine, files: Sequence[UploadedResource], *, silent: bool) -> list[UploadedResource]:
    """Wait until every file has succeeded or failed, or was deleted; their last states."""
    latest = {file.resource_id: file for file in files}
    waiting = list(latest)
    changed_at = time.monotonic()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks = {file.resource_id: bars.add_task(one_line(file.name), total=1.0) for file in files}
        while True:
            with transaction(engine) as session:
                rows = {resource_id: get_resource(session, resource_id) for resource_id in waiting}
            for resource_id, row in rows.items():
                known = latest[resource_id]
                if row is not None and row.status in ACTIVE:
                    bars.update(tasks[resource_id], completed=row.progress)
                else:
                    waiting.remove(resource_id)
                    bars.remove_task(tasks[resource_id])
                    if not silent:
                        typer.echo(file_state(row) if row else f"{one_line(known.name)}: was deleted")
                if row is None:
                    latest[resource_id] = known.model_copy(
                        update={"status": ResourceStatus.FAILED, "error": "The file was deleted"}
                    )
                else:
                    changed_at = changed_at if row.updated_at == known.updated_at else time.monotonic()
                    latest[resource_id] = row
            if not waiting:
                return list(latest.values())
            if time.monotonic() - changed_at > STALL_SECONDS:
                print_error(STALL_MESSAGE)
                changed_at = inf  # once, until something changes
            time.sleep(POLL_SECONDS)


def _wait_until_embedded(engine: Engine, course_id: str, *, silent: bool) -> Course | None:
    """Wait until the present content of the course was published or has failed, and not only earlier content.

    Others may add and delete files meanwhile, so what its present content is is looked up again and again.
    """

    def is_final(course: Course) -> bool:
        if is_active(course):
            return False
        with transaction(engine) as session:
            builder = FingerprintBuilder(EmbeddingSettings().context).add_all(chunk_pages(session, course_id))
        content = builder.build("").content
        tried = map(CourseFingerprint.parse, (course.embedding_fingerprint, course.embedding_attempted))
        return any(fingerprint and fingerprint.content == content for fingerprint in tried)

    return wait_for_courses(engine, [course_id], silent=silent, is_final=is_final)[course_id]


def _as_json(file: UploadedResource) -> dict[str, Any]:
    """The fields of `GET /resources/{resource_id}`."""
    return file.model_dump(mode="json", exclude={"sha256", "position", "run_id", "attempts"})

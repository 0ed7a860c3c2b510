"""`course-search backup`: save the collections of all courses to one file, while everything keeps running."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from cli.courses import Json, catalogue, complain, fail
from embedding.vector_store.archive import ArchiveError
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.files import vector_store_settings
from maintenance.backup import back_up

BACKUPS = Path("./data/backups")


def backup(
    output: Annotated[
        Path, typer.Option(metavar="FILE_OR_DIR", help="The archive, or an existing directory for one of a usual name.")
    ] = BACKUPS,
    as_json: Json = False,
) -> None:
    """Save the vectors of all embedded courses in one file, while everything goes on.

    Exit code 1 means that no file was written, or that it lacks a course whose collection is damaged. A course that is
    not embedded yet, or that is being embedded the whole time, is left out by name; a restore has it embedded again.

    The catalogue (stage one's database) is not in the file: save it with the database's own tools.
    """
    path = output
    if output == BACKUPS or output.is_dir():
        path = output / f"course-search-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.zip"
    store = VectorStore(vector_store_settings())
    try:
        with catalogue() as engine:
            report = back_up(engine, store, path, complain)
    except (ArchiveError, VectorStoreError, OSError) as error:
        complain(str(error))
        fail("No backup was written.")
    finally:
        store.close()
    size, chunks = path.stat().st_size, sum(course.chunks for course in report.saved)
    if as_json:
        saved = [course.model_dump(include={"course_id", "chunks", "dimensions"}) for course in report.saved]
        summary = {"archive": str(path), "bytes": size, "courses": saved}
        summary |= {"left_out": report.left_out, "damaged": report.damaged}
        typer.echo(json.dumps(summary, indent=2, ensure_ascii=False))
    else:
        typer.echo(f"{path}: {len(report.saved)} courses, {chunks} chunks, {decimal(size)}")
    if report.damaged:
        raise typer.Exit(1)

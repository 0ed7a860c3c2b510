"""`course-search backup`: save the collections of all courses to one file while everything keeps running."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.filesize import decimal

from cli.courses import Json, fail, open_catalogue, print_error
from embedding.vector_store.archive import ArchiveError
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.files import vector_store_settings
from maintenance.backup import BackupSettings, archive_path, back_up


def backup(
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE_OR_DIR",
            help="Archive file, or an existing directory to create it in; by default BACKUP_DIR.",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Save the vectors of all embedded courses to one file. Everything may keep running.

    Exit code 1: no file was written, or a course is missing because its collection is damaged. Courses that are not
    embedded yet, or are being embedded throughout the backup, are listed and left out; after a restore the pipeline
    embeds them.

    The catalogue (stage one's database) is not in the file: save it with the database's own tools.
    """
    output = output.expanduser() if output else None
    directory = output or BackupSettings().backup_dir
    path = output if output and not output.is_dir() else archive_path(directory)
    store = VectorStore(vector_store_settings())
    try:
        with open_catalogue() as engine:
            report = back_up(engine, store, path, print_error)
    except (ArchiveError, VectorStoreError, OSError) as error:
        print_error(str(error))
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

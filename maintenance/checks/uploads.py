"""Compares the uploaded files in UPLOAD_DIR with their rows in the catalogue."""

import os
import time
from collections.abc import Iterator
from functools import partial

from documents.uploads import Uploads
from maintenance.checks.findings import Finding, Level, first_few
from models.database import Engine, transaction
from models.resources import all_resources
from models.text import counted

MIN_AGE_SECONDS = 24 * 3600.0
"""A younger file may belong to a row that is just being written."""


def check_uploads(engine: Engine, uploads: Uploads) -> Iterator[Finding]:
    """Check that files can be written, that each row has its file, and that each file has a row.

    A file without a row is only deleted if it is old, and if another file here belongs to a row: otherwise the
    directory may be that of another catalogue.
    """
    directory = uploads.directory
    old_before = time.time() - MIN_AGE_SECONDS
    files = {path.name: path.stat().st_mtime for path in uploads.files()} if directory.is_dir() else {}
    with transaction(engine) as session:
        rows = {uploads.path(row.resource_id, row.sha256).name: row for row in all_resources(session)}
    if directory.exists() and not os.access(directory, os.W_OK | os.X_OK):
        message = f"{directory} (UPLOAD_DIR) cannot be written to, so no file can be added"
        yield Finding("uploads", Level.ERROR, message, "Let the user of the app and of the pipeline write there")
    lost = [name for name in rows if not (directory / name).exists()]
    if lost:
        named = first_few([f"{rows[name].course_id}/{rows[name].name}" for name in lost])
        yield Finding(
            "uploads",
            Level.WARNING,
            f"{counted(len(lost), 'uploaded file')} not in {directory} (UPLOAD_DIR): {named}",
            "Is UPLOAD_DIR the directory that the app writes to? What was read of them stays searchable; to read them "
            "again, upload them again",
            lost,
        )
    orphans = sorted(name for name, changed_at in files.items() if name not in rows and changed_at < old_before)
    if orphans:
        is_ours = any(name in rows for name in files)
        yield Finding(
            "uploads",
            Level.WARNING,
            f"{counted(len(orphans), 'file')} in {directory} (UPLOAD_DIR) without a row in the catalogue: "
            f"{first_few(orphans)}",
            "`course-search doctor --repair` deletes them"
            if is_ours
            else "Is this the UPLOAD_DIR of this catalogue? No file here belongs to it, so none is deleted",
            orphans,
            repair=partial(_delete_orphan, engine, uploads) if is_ours else None,
            deletes=is_ours,
        )
    if not lost and not orphans:
        yield Finding("uploads", Level.OK, f"{counted(len(rows), 'uploaded file')}, none missing")


def _delete_orphan(engine: Engine, uploads: Uploads, name: str) -> str:
    with transaction(engine) as session:
        names = {uploads.path(row.resource_id, row.sha256).name for row in all_resources(session)}
    if name in names:
        return f"{name} has a row now, and is kept"
    (uploads.directory / name).unlink(missing_ok=True)
    return f"{name} is deleted"

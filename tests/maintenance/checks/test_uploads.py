"""The check of uploaded files: rows without a file, and files without a row."""

import io
import os
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from documents.uploads import Uploads
from maintenance.checks.all_checks import repair
from maintenance.checks.findings import Finding, Level
from maintenance.checks.uploads import MIN_AGE_SECONDS, check_uploads
from maintenance.resources import add_file
from models.database import Engine, transaction
from models.resources import create_course
from models.tables import UploadedResource
from tests.support.courses import empty_catalogue


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = empty_catalogue(tmp_path / "catalogue.db")
    with transaction(engine) as session:
        create_course(session, "c")
    return engine


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path / "uploads")


def add(engine: Engine, uploads: Uploads, name: str) -> UploadedResource:
    with uploads.save(io.BytesIO(name.encode()), 100) as upload:
        return add_file(engine, uploads, "c", name, upload, now=datetime.now(UTC))


def orphan(uploads: Uploads, name: str, age: float = MIN_AGE_SECONDS + 60) -> Path:
    path = uploads.directory / f"{name}-{'0' * 64}"
    path.parent.mkdir(exist_ok=True)
    path.touch()
    os.utime(path, (time.time() - age, time.time() - age))
    return path


def findings(engine: Engine, uploads: Uploads) -> list[Finding]:
    return list(check_uploads(engine, uploads))


def test_nothing_is_wrong(engine: Engine, uploads: Uploads) -> None:
    assert [finding.level for finding in findings(engine, uploads)] == [Level.OK]
    add(engine, uploads, "a.md")
    orphan(uploads, "being-written", age=MIN_AGE_SECONDS - 60)
    assert [finding.level for finding in findings(engine, uploads)] == [Level.OK]


def test_row_without_a_file(engine: Engine, uploads: Uploads) -> None:
    row = add(engine, uploads, "a.md")
    uploads.remove(row.resource_id, row.sha256)
    [finding] = findings(engine, uploads)
    assert (finding.level, finding.repair) == (Level.WARNING, None)
    assert "c/a.md" in finding.message


def test_file_without_a_row_is_deleted_on_request(engine: Engine, uploads: Uploads) -> None:
    row = add(engine, uploads, "a.md")
    left = orphan(uploads, "left")
    [finding] = findings(engine, uploads)
    assert finding.deletions == [left.name]
    assert repair(finding).is_repaired
    assert [path.name for path in uploads.files()] == [f"{row.resource_id}-{row.sha256}"]


def test_files_of_another_catalogue_are_kept(engine: Engine, uploads: Uploads) -> None:
    """If no file belongs to a row, DATABASE_URL or UPLOAD_DIR may be wrong."""
    left = orphan(uploads, "left")
    [finding] = findings(engine, uploads)
    assert (finding.level, finding.repair) == (Level.WARNING, None)
    assert not repair(finding).is_repaired
    assert left.exists()

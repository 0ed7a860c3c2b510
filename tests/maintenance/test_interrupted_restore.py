"""A restore that fails or is killed is completed by the next one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from models.database import DatabaseUnavailableError
from tests.maintenance.restoring import (
    CHROMA,
    DONE,
    NOT_STARTED,
    PRESENT,
    SAVED,
    assert_restored,
    collections,
    restore,
    status_and_fingerprint,
)
from tests.support.published import records_of

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_server")]


def test_database_failure_during_the_restore_is_completed_by_the_next_restore(
    stopped_product: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_unavailable(*_: object) -> bool:
        raise DatabaseUnavailableError("The database is unavailable")

    with monkeypatch.context() as patched:
        patched.setattr("maintenance.restore.mark_restored", raise_unavailable)
        result = restore(archive, "--yes")
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "The database is unavailable\nThe restore is incomplete, and no course can be searched. Run it again.\n"
    )
    assert status_and_fingerprint(stopped_product, "kept") == (NOT_STARTED, None)
    assert restore(archive, "--yes").exit_code == 0
    assert_restored(stopped_product)


def test_restore_succeeds_if_the_old_directory_cannot_be_removed(
    stopped_product: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deny(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", lambda path, **options: None if options else deny(path))
    result = restore(archive, "--yes")
    assert result.exit_code == 0
    assert "The old files are no longer needed, but could not be deleted" in result.stderr
    assert collections() == {"kept": sorted(SAVED), "changed": sorted(SAVED)}


KILLED_RESTORE = """
import os, signal, sys
from unittest.mock import patch
from cli.main import main

target, call, *sys.argv[1:] = sys.argv[1:]
calls = 0

def kill_at_call(original):
    def wrapper(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(call):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return wrapper

import maintenance.restore
import pkgutil
owner, name = target.rsplit(".", 1)
owner = pkgutil.resolve_name(owner)
with patch.object(owner, name, kill_at_call(getattr(owner, name))):
    main()
"""
KILL_POINTS: dict[str, tuple[str, int]] = {
    "while building": ("embedding.vector_store.collections.CourseCollection.upsert", 2),
    "after building": ("maintenance.restore.reset_all", 1),
    "after resetting the courses": ("pathlib.Path.rename", 1),
    "between the renames": ("pathlib.Path.rename", 2),
    "after the renames": ("maintenance.restore.mark_restored", 1),
    "between two rows": ("maintenance.restore.mark_restored", 2),
    "after the last row": ("shutil.rmtree", 1),
}
"""Name → function, and the number of its call at which the process is killed."""


@pytest.mark.parametrize("kill_point", KILL_POINTS)
def test_killed_restore_leaves_consistent_rows_and_the_next_restore_completes_it(
    stopped_product: Engine, archive: str, kill_point: str
) -> None:
    target, call = KILL_POINTS[kill_point]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RESTORE, target, str(call), "restore", archive, "--yes"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    stored = collections() if (CHROMA / "chroma.sqlite3").exists() else {}
    for course_id in ("kept", "changed", "new"):
        status, fingerprint = status_and_fingerprint(stopped_product, course_id)
        if status == DONE:
            texts = SAVED if fingerprint == records_of(course_id, SAVED)[2] else PRESENT
            assert stored[course_id] == sorted(texts)
    assert restore(archive, "--yes").exit_code == 0
    assert_restored(stopped_product)

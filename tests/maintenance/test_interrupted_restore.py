"""A restore that fails or is killed is completed by the next start of the Chroma server, or by the next restore."""

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import Engine

from cli.processes import free_port
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
    snapshot,
    status_and_fingerprint,
)
from tests.support.published import records_of
from tests.support.servers.chroma import wait_for_chroma

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
        "The database is unavailable\n"
        "The restore is incomplete. The next start of the Chroma server completes it, or run it again.\n"
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
    "before writing the plan": ("os.sync", 1),
    "before resetting the courses": ("maintenance.restore.reset_all", 1),
    "before the renames": ("pathlib.Path.rename", 2),
    "between the renames": ("pathlib.Path.rename", 3),
    "after the renames": ("maintenance.restore.mark_restored", 1),
    "between two rows": ("maintenance.restore.mark_restored", 2),
    "after the last row": ("shutil.rmtree", 1),
    "before removing the plan": ("pathlib.Path.unlink", 2),
}
"""Name → function, and the number of its call at which the process is killed."""
WITHOUT_EFFECT = ("while building", "before writing the plan")
"""The kill points at which nothing has changed yet, so that the old collections stay in force."""


def run_and_kill(kill_point: tuple[str, int], *command: str) -> None:
    """Run a command that is killed (SIGKILL) at this call."""
    target, call = kill_point
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_RESTORE, target, str(call), *command], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr


def start_and_stop_server() -> str:
    """Start the Chroma server as `up` does, and stop it when it answers; returns its output."""
    port = free_port()
    command = [sys.executable, "-m", "cli", "vector-store", "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            wait_for_chroma(f"http://127.0.0.1:{port}")
        finally:
            server.terminate()
            output, _ = server.communicate()
    return output


def assert_rows_match_the_collections(engine: Engine) -> None:
    stored = collections() if (CHROMA / "chroma.sqlite3").exists() else {}
    for course_id in ("kept", "changed", "new"):
        status, fingerprint = status_and_fingerprint(engine, course_id)
        if status == DONE:
            texts = SAVED if fingerprint == records_of(course_id, SAVED)[2] else PRESENT
            assert stored[course_id] == sorted(texts)


@pytest.mark.parametrize("kill_point", list(KILL_POINTS)[::2])
def test_killed_restore_is_completed_by_the_next_restore(
    stopped_product: Engine, archive: str, kill_point: str
) -> None:
    run_and_kill(KILL_POINTS[kill_point], "restore", archive, "--yes")
    assert_rows_match_the_collections(stopped_product)
    assert restore(archive, "--yes").exit_code == 0
    assert_restored(stopped_product)


@pytest.mark.parametrize("kill_point", list(KILL_POINTS)[1::2])
def test_killed_restore_is_completed_by_the_next_start_so_that_nothing_is_embedded_again(
    stopped_product: Engine, archive: str, kill_point: str
) -> None:
    before = snapshot(stopped_product)
    run_and_kill(KILL_POINTS[kill_point], "restore", archive, "--yes")
    if kill_point in WITHOUT_EFFECT:
        shutil.rmtree(CHROMA.with_name("chroma.restoring"))
        assert snapshot(stopped_product) == before
        return
    assert "2 courses restored" in start_and_stop_server()
    assert_restored(stopped_product)


def test_start_that_is_killed_while_it_completes_a_restore_is_repeated(stopped_product: Engine, archive: str) -> None:
    """The lock of the start has created the directory that the killed restore had renamed."""
    run_and_kill(KILL_POINTS["between the renames"], "restore", archive, "--yes")
    assert not CHROMA.exists()
    run_and_kill(("pathlib.Path.rename", 1), "vector-store")
    assert CHROMA.exists()
    run_and_kill(("pathlib.Path.rename", 2), "vector-store")
    assert not CHROMA.exists()
    start_and_stop_server()
    assert_restored(stopped_product)


def test_start_fails_if_it_cannot_complete_a_restore(
    stopped_product: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the catalogue, the rows would not match the collections."""
    run_and_kill(KILL_POINTS["after the renames"], "restore", archive, "--yes")
    with monkeypatch.context() as patched:
        patched.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        command = [sys.executable, "-m", "cli", "vector-store", "--port", str(free_port())]
        failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "Connection refused" in failed.stderr
    assert "Traceback" not in failed.stderr
    start_and_stop_server()
    assert_restored(stopped_product)


def test_symbolic_link_to_the_directory_is_kept_by_the_start(stopped_product: Engine, archive: str) -> None:
    CHROMA.rename("linked")
    CHROMA.symlink_to(Path("linked").absolute())
    run_and_kill(KILL_POINTS["between the renames"], "restore", archive, "--yes")
    start_and_stop_server()
    assert CHROMA.is_symlink()
    assert_restored(stopped_product)

"""A restore that is refused changes nothing."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import Engine, text
from typer.testing import Result

from cli.processes import free_port
from embedding.vector_store.directory_lock import lock_directory
from tests.maintenance.restoring import CHROMA, assert_restored, restore, snapshot

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_server")]


def assert_refused(result: Result, reason: str) -> None:
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert re.search(reason, result.stderr), result.stderr
    assert result.stderr.endswith("Nothing was changed.\n")


@pytest.mark.parametrize("damage", ["missing", "directory", "not an archive", "truncated", "changed"])
def test_damaged_archive_is_refused_before_any_change(stopped_product: Engine, archive: str, damage: str) -> None:
    before, path = snapshot(stopped_product), Path(archive)
    content = path.read_bytes()
    match damage:
        case "missing":
            path, reason = Path("missing.zip"), "No such file"
        case "directory":
            path, reason = Path("data"), "Is a directory"
        case "not an archive":
            path.write_bytes(b"x" * len(content))
            reason = "is not a backup"
        case "truncated":
            path.write_bytes(content[: len(content) // 2])
            reason = "is not a backup, or is truncated"
        case _:
            path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
            reason = "SHA-256 differs"
    assert_refused(restore(str(path), "--yes"), reason)
    assert snapshot(stopped_product) == before


@pytest.mark.parametrize("running", ["product", "vector store", "server without a lock"])
def test_restore_is_refused_while_a_process_is_running(
    stopped_product: Engine, archive: str, running: str, chroma_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    locks = []
    match running:
        case "product":
            locks.append(lock_directory(Path("data/dagster"), ".up.lock"))
            reason = "dagster is in use by process .*: stop everything first"
        case "vector store":
            locks.append(lock_directory(CHROMA, ".server.lock"))
            reason = "chroma is in use by process .*: stop everything first"
        case _:
            monkeypatch.setenv("CHROMA_URL", chroma_url)
            reason = f"A Chroma server answers at {chroma_url}: stop it first"
    before = snapshot(stopped_product)
    assert_refused(restore(archive, "--yes"), reason)
    assert snapshot(stopped_product) == before
    for lock in locks:
        os.close(lock)
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    assert restore(archive, "--yes").exit_code == 0, "a refusal releases the locks"


def test_catalogue_without_a_course_of_the_backup_is_refused(stopped_product: Engine, archive: str) -> None:
    with stopped_product.begin() as connection:
        connection.execute(text("UPDATE course SET id = 'other ' || id"))
    before = snapshot(stopped_product)
    assert_refused(restore(archive, "--yes"), "has no course of this backup: is it the right one")
    assert snapshot(stopped_product) == before


def test_unreachable_catalogue_is_an_error(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert_refused(restore(archive, "--yes"), "Connection refused")


def test_too_little_disk_space_is_refused(
    stopped_product: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(stopped_product)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert_refused(restore(archive, "--yes"), "has 1 MB of free space, and the new files need about [2-9] MB")
    assert snapshot(stopped_product) == before


def test_directory_with_other_files_is_refused(stopped_product: Engine, archive: str) -> None:
    """A restore replaces the directory."""
    (CHROMA / "samples").mkdir()
    before = snapshot(stopped_product)
    assert_refused(restore(archive, "--yes"), "contains samples, which is not a file of Chroma")
    assert snapshot(stopped_product) == before


def test_mount_point_is_refused(stopped_product: Engine, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(stopped_product)
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "chroma")
    assert_refused(restore(archive, "--yes"), "is a mount point: set CHROMA_DB_DIR to a directory inside it")
    assert snapshot(stopped_product) == before


def test_wrong_document_count_is_an_error(
    stopped_product: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(stopped_product)
    monkeypatch.setattr("embedding.vector_store.collections.CourseCollection.count", lambda _: 2)
    assert_refused(restore(archive, "--yes"), "Course kept has 2 documents, not 3")
    assert snapshot(stopped_product) == before


def restore_at_terminal(*arguments: str, answer: str) -> subprocess.CompletedProcess[str]:
    """Run the command with a terminal as its input."""
    terminal, stdin = os.openpty()
    os.write(terminal, answer.encode())
    try:
        return subprocess.run(
            [sys.executable, "-m", "cli", "restore", *arguments],
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(terminal)
        os.close(stdin)


def test_restore_asks_for_confirmation(stopped_product: Engine, archive: str) -> None:
    before = snapshot(stopped_product)
    assert_refused(restore(archive), "use --yes")
    refused = restore_at_terminal(archive, answer="\n")
    assert f"Replace everything in {CHROMA.absolute()}? [y/N]" in refused.stdout
    assert (refused.returncode, refused.stderr.splitlines()[1:]) == (1, ["Not confirmed", "Nothing was changed."])
    assert snapshot(stopped_product) == before
    assert restore_at_terminal(archive, answer="y\n").returncode == 0
    assert_restored(stopped_product)

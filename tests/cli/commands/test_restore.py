"""`course-search restore` on real Chroma directories: round trips, refusals and interruptions."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from cli.main import app
from cli.processes import free_port
from embedding.vector_store.archive import create_archive
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.directory_lock import lock_directory
from embedding.vector_store.offline import OfflineVectorStore
from embedding.vector_store.server import VectorStoreSettings
from models.database import DatabaseUnavailableError
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from tests.support.catalogue import Catalogue
from tests.support.courses import change_course, empty_catalogue, read_course
from tests.support.published import MODEL, SIGNATURE, add_courses, publish, records_of
from tests.support.servers.chroma import chroma_server

pytestmark = pytest.mark.integration

NOT_STARTED, PENDING, RUNNING, DONE, FAILED = EmbeddingStatus
PRESENT, SAVED = ["present"], ["saved one", "saved two", "saved three"]
CHROMA = Path("data/chroma")


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/catalogue.db")
    engine = empty_catalogue(tmp_path / "catalogue.db")
    yield engine
    engine.dispose()


@pytest.fixture
def stopped_product(engine: Engine) -> Engine:
    """The catalogue of a stopped product with the courses `kept`, `changed` and `new`; the first two are published."""
    add_courses(engine, "kept", "changed", "new")
    store = OfflineVectorStore(CHROMA)
    for course_id in ("kept", "changed"):
        publish(engine, store, course_id, PRESENT)
    store.close()
    return engine


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """An older backup, from a time when there was a course `gone` and no course `new`."""
    path = tmp_path / "backup.zip"
    with create_archive(path) as archive:
        for course_id in ("kept", "changed", "gone"):
            records, vectors, fingerprint = records_of(course_id, SAVED)
            with archive.spool([(records, vectors)], lambda _: None) as spool:
                archive.add(spool, CollectionInfo(course_id, MODEL, SIGNATURE), 1, fingerprint)
    return str(path)


def restore(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["restore", *arguments])


def collections() -> dict[str, list[str]]:
    """The texts of every collection in the directory, sorted."""
    store = OfflineVectorStore(CHROMA)
    try:
        return {
            collection.info.course_id: sorted(r.text for records, _ in collection.contents() for r in records)
            for collection in store.collections()
        }
    finally:
        store.close()


def status_and_fingerprint(engine: Engine, course_id: str) -> tuple[str, CourseFingerprint | None]:
    course = read_course(engine, course_id)
    return course.embedding_status, CourseFingerprint.parse(course.embedding_fingerprint)


def snapshot(engine: Engine) -> object:
    """The state of the product: all course rows, and all files except locks."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM course ORDER BY id")).all()
    files = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file() and path.suffix != ".lock"}
    return rows, files


def assert_restored(engine: Engine) -> None:
    assert collections() == {"kept": sorted(SAVED), "changed": sorted(SAVED)}
    for course_id in ("kept", "changed"):
        assert status_and_fingerprint(engine, course_id) == (DONE, records_of(course_id, SAVED)[2])
    assert status_and_fingerprint(engine, "new") == (NOT_STARTED, None)
    assert sorted(path.name for path in CHROMA.parent.iterdir()) == ["chroma", "dagster"]


def test_backup_and_restore_give_equal_collections_and_search_results(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        name: [f"{name} {number}" for number in range(5)]
        for name in ("plain", "课程 一", "a/b", "../up", "spaces in it ", "long" * 200)
    }
    add_courses(catalogue.engine, *texts)
    query = records_of("plain", ["query"])[1][0]

    def read_all(url: str) -> dict[str, tuple[Any, ...]]:
        monkeypatch.setenv("CHROMA_URL", url)
        store = VectorStore(VectorStoreSettings())
        try:
            contents = {}
            for name in texts:
                collection = store.open(name)
                chroma_collection = store.connect().get_collection(collection.name, embedding_function=None)
                raw = chroma_collection.get(include=["documents", "metadatas"])
                [(_, vectors)] = collection.contents()
                hits = collection.query(query, 5, {}), collection.query(query, 5, {"section_id": "1"})
                contents[name] = (collection.info, raw, vectors, hits)
        finally:
            store.close()
        return contents

    CHROMA.parent.mkdir()
    with chroma_server(CHROMA) as url:
        store = VectorStore(VectorStoreSettings(chroma_url=url))
        fingerprints = {name: publish(catalogue.engine, store, name, texts[name]) for name in texts}
        before = read_all(url)
        assert CliRunner().invoke(app, ["backup", "--output", "a.zip"]).exit_code == 0
        publish(catalogue.engine, store, "plain", ["another"])
        store.delete("a/b")
        store.close()
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    result = restore("a.zip", "--yes")
    assert result.exit_code == 0, result.stderr
    with chroma_server(CHROMA) as url:
        after = read_all(url)
    for name in texts:
        info, raw, vectors, hits = before[name]
        assert after[name][:2] == (info, raw)
        # Chroma normalizes the vectors again, so they may differ in the last place.
        np.testing.assert_allclose(after[name][2], vectors, rtol=0, atol=6e-8)
        for hits_before, hits_after in zip(hits, after[name][3], strict=True):
            assert [record for record, _ in hits_before] == [record for record, _ in hits_after]
            assert [cosine for _, cosine in hits_before] == pytest.approx(
                [cosine for _, cosine in hits_after], abs=1e-6
            )
        with catalogue.session() as session:
            course = session.execute(
                text("SELECT embedding_status, embedding_fingerprint, embedding_progress FROM course WHERE id = :id"),
                {"id": name},
            ).one()
        assert course == (DONE, str(fingerprints[name]), 1.0)


def test_courses_missing_from_backup_or_catalogue_are_reported(stopped_product: Engine, archive: str) -> None:
    result = restore(archive, "--yes")
    assert result.exit_code == 0
    assert "Left out: gone: it is not in the catalogue" in result.stderr
    assert "2 courses are restored" in result.stdout
    assert "1 courses are not in the backup" in result.stdout
    assert_restored(stopped_product)


@pytest.mark.parametrize("status", [NOT_STARTED, PENDING, RUNNING, FAILED])
def test_restored_course_is_done_whatever_its_status_was(stopped_product: Engine, archive: str, status: str) -> None:
    change_course(
        stopped_product,
        "kept",
        embedding_status=status,
        embedding_progress=0.5,
        embedding_error="an error",
        embedding_run_id="an ended run",
        embedding_attempted="a fingerprint",
        embedding_generation=7,
    )
    assert restore(archive, "--yes").exit_code == 0
    course = read_course(stopped_product, "kept")
    assert course.embedding_generation > 7
    assert course.model_dump() | {"embedding_generation": 0} == {
        "id": "kept",
        "embedding_status": DONE,
        "embedding_progress": 1.0,
        "embedding_error": None,
        "embedding_run_id": None,
        "embedding_requested_at": None,
        "embedding_generation": 0,
        "embedding_attempted": None,
        "embedding_fingerprint": str(records_of("kept", SAVED)[2]),
    }
    assert read_course(stopped_product, "new").embedding_generation > 0, (
        "launch reasons of the previous generation are obsolete"
    )


def test_restore_creates_a_missing_directory(engine: Engine, archive: str) -> None:
    add_courses(engine, "kept", "changed", "new")
    assert restore(archive, "--yes").exit_code == 0
    assert_restored(engine)


def test_symbolic_link_to_the_directory_is_kept(stopped_product: Engine, archive: str) -> None:
    CHROMA.rename("linked")
    CHROMA.symlink_to(Path("linked").absolute())
    assert restore(archive, "--yes").exit_code == 0
    assert CHROMA.is_symlink()
    assert_restored(stopped_product)


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


def test_directory_is_locked_until_the_end_of_the_restore(
    stopped_product: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No server may start between the swap of the directories and the update of the rows."""
    refusals = []
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("a server was started"))

    def start_server(*_: object) -> bool:
        refusals.append(CliRunner().invoke(app, ["vector-store"]).stderr)
        return True

    monkeypatch.setattr("maintenance.restore.mark_restored", start_server)
    assert restore(archive, "--yes").exit_code == 0
    assert "a Chroma server runs there already" in refusals[0]


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

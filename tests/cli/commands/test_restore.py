"""`course-search restore` on real Chroma directories: equal to what was saved, refused in time, killed at will."""

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
from tests.support.chroma import chroma_server
from tests.support.courses import change_course, empty_catalogue, read_course
from tests.support.published import MODEL, SIGNATURE, add_courses, publish, records_of

pytestmark = pytest.mark.integration

NOT_STARTED, PENDING, RUNNING, DONE, FAILED = EmbeddingStatus
OLD, SAVED = ["old"], ["saved one", "saved two", "saved three"]
CHROMA = Path("data/chroma")


@pytest.fixture(autouse=True)
def _nothing_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/catalogue.db")
    engine = empty_catalogue(tmp_path / "catalogue.db")
    yield engine
    engine.dispose()


@pytest.fixture
def site(engine: Engine) -> Engine:
    """A product that is stopped: of `kept`, `changed` and `new`, the first two are published, as of now."""
    add_courses(engine, "kept", "changed", "new")
    store = OfflineVectorStore(CHROMA)
    for course_id in ("kept", "changed"):
        publish(engine, store, course_id, OLD)
    store.close()
    return engine


@pytest.fixture
def archive(tmp_path: Path) -> str:
    """A backup of that product, of former days, when there was a course `gone`, and no course `new`."""
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


def row(engine: Engine, course_id: str) -> tuple[str, CourseFingerprint | None]:
    course = read_course(engine, course_id)
    return course.embedding_status, CourseFingerprint.parse(course.embedding_fingerprint)


def snapshot(engine: Engine) -> object:
    """All of the product: rows, and files but for locks."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM course ORDER BY id")).all()
    files = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file() and path.suffix != ".lock"}
    return rows, files


def assert_restored(engine: Engine) -> None:
    assert collections() == {"kept": sorted(SAVED), "changed": sorted(SAVED)}
    for course_id in ("kept", "changed"):
        assert row(engine, course_id) == (DONE, records_of(course_id, SAVED)[2])
    assert row(engine, "new") == (NOT_STARTED, None)
    assert sorted(path.name for path in CHROMA.parent.iterdir()) == ["chroma", "dagster"]


def test_a_round_trip_gives_the_same_collections_and_the_same_answers(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through real servers, from the first to the last command."""
    texts = {
        name: [f"{name} {number}" for number in range(5)]
        for name in ("plain", "课程 一", "a/b", "../up", "spaces in it ", "long" * 200)
    }
    add_courses(catalogue.engine, *texts)
    query = records_of("plain", ["query"])[1][0]

    def answers(url: str) -> dict[str, tuple[Any, ...]]:
        monkeypatch.setenv("CHROMA_URL", url)
        store = VectorStore(VectorStoreSettings())
        try:
            found = {}
            for name in texts:
                collection = store.open(name)
                raw = collection._collection.get(include=["documents", "metadatas"])
                [(_, vectors)] = collection.contents()
                hits = collection.query(query, 5, {}), collection.query(query, 5, {"section_id": "1"})
                found[name] = (collection.info, raw, vectors, hits)
        finally:
            store.close()
        return found

    CHROMA.parent.mkdir()
    with chroma_server(CHROMA) as url:
        store = VectorStore(VectorStoreSettings(chroma_url=url))
        prints = {name: publish(catalogue.engine, store, name, texts[name]) for name in texts}
        before = answers(url)
        assert CliRunner().invoke(app, ["backup", "--output", "a.zip"]).exit_code == 0
        publish(catalogue.engine, store, "plain", ["another"])
        store.delete("a/b")
        store.close()
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    result = restore("a.zip", "--yes")
    assert result.exit_code == 0, result.stderr
    with chroma_server(CHROMA) as url:
        after = answers(url)
    for name in texts:
        info, raw, vectors, hits = before[name]
        assert after[name][:2] == (info, raw)
        # Chroma normalizes what it is given, once more: a unit in the last place is all that may differ.
        np.testing.assert_allclose(after[name][2], vectors, rtol=0, atol=6e-8)
        for one, other in zip(hits, after[name][3], strict=True):
            assert [record for record, _ in one] == [record for record, _ in other]
            assert [cosine for _, cosine in one] == pytest.approx([cosine for _, cosine in other], abs=1e-6)
        with catalogue.session() as session:
            course = session.execute(
                text("SELECT embedding_status, embedding_fingerprint, embedding_progress FROM course WHERE id = :id"),
                {"id": name},
            ).one()
        assert course == (DONE, str(prints[name]), 1.0)


def test_what_the_backup_lacks_is_left_to_the_pipeline_and_what_the_catalogue_lacks_is_left_out(
    site: Engine, archive: str
) -> None:
    result = restore(archive, "--yes")
    assert result.exit_code == 0
    assert "Left out: gone: it is not in the catalogue" in result.stderr
    assert "2 courses are restored" in result.stdout
    assert "1 courses are not in the backup" in result.stdout
    assert_restored(site)


@pytest.mark.parametrize("status", [NOT_STARTED, PENDING, RUNNING, FAILED])
def test_whatever_a_course_was_doing_it_is_done_and_nobodys(site: Engine, archive: str, status: str) -> None:
    change_course(
        site,
        "kept",
        embedding_status=status,
        embedding_progress=0.5,
        embedding_error="trouble",
        embedding_run_id="a run that is no more",
        embedding_attempted="something",
        embedding_generation=7,
    )
    assert restore(archive, "--yes").exit_code == 0
    course = read_course(site, "kept")
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
    assert read_course(site, "new").embedding_generation > 0, "an old reason to embed it must not pass for a new one"


def test_a_machine_without_any_files_is_restored_too(engine: Engine, archive: str) -> None:
    add_courses(engine, "kept", "changed", "new")
    assert restore(archive, "--yes").exit_code == 0
    assert_restored(engine)


def test_a_link_to_the_directory_stays_one(site: Engine, archive: str) -> None:
    CHROMA.rename("elsewhere")
    CHROMA.symlink_to(Path("elsewhere").absolute())
    assert restore(archive, "--yes").exit_code == 0
    assert CHROMA.is_symlink()
    assert_restored(site)


def assert_refused(result: Result, reason: str) -> None:
    assert result.exit_code == 1
    assert "Traceback" not in result.stderr
    assert re.search(reason, result.stderr), result.stderr
    assert result.stderr.endswith("Nothing was changed.\n")


@pytest.mark.parametrize("damage", ["missing", "directory", "no archive", "cut short", "changed"])
def test_an_archive_that_is_not_whole_is_refused_before_anything_is_touched(
    site: Engine, archive: str, damage: str
) -> None:
    before, path = snapshot(site), Path(archive)
    content = path.read_bytes()
    match damage:
        case "missing":
            path, reason = Path("missing.zip"), "No such file"
        case "directory":
            path, reason = Path("data"), "Is a directory"
        case "no archive":
            path.write_bytes(b"x" * len(content))
            reason = "is no backup"
        case "cut short":
            path.write_bytes(content[: len(content) // 2])
            reason = "is no backup, or was cut short"
        case _:
            path.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
            reason = "SHA-256 differs"
    assert_refused(restore(str(path), "--yes"), reason)
    assert snapshot(site) == before


@pytest.mark.parametrize("running", ["product", "vector store", "server without a lock"])
def test_a_product_that_runs_is_not_disturbed(
    site: Engine, archive: str, running: str, chroma_url: str, monkeypatch: pytest.MonkeyPatch
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
    before = snapshot(site)
    assert_refused(restore(archive, "--yes"), reason)
    assert snapshot(site) == before
    for lock in locks:
        os.close(lock)
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    assert restore(archive, "--yes").exit_code == 0, "a refusal leaves no lock behind"


def test_the_directory_is_locked_until_all_is_done(site: Engine, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is started right after the swap must not be there when the rows are written."""
    refusals = []
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("a server was started"))

    def start_a_server(*_: object) -> bool:
        refusals.append(CliRunner().invoke(app, ["vector-store"]).stderr)
        return True

    monkeypatch.setattr("maintenance.restore.mark_restored", start_a_server)
    assert restore(archive, "--yes").exit_code == 0
    assert "a Chroma server runs there already" in refusals[0]


def test_another_catalogue_is_refused(site: Engine, archive: str) -> None:
    with site.begin() as connection:
        connection.execute(text("UPDATE course SET id = 'other ' || id"))
    before = snapshot(site)
    assert_refused(restore(archive, "--yes"), "has no course of this backup: is it the right one")
    assert snapshot(site) == before


def test_a_catalogue_that_is_away_is_one_line(archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    assert_refused(restore(archive, "--yes"), "Connection refused")


def test_a_disk_that_is_too_small_is_noticed_in_time(
    site: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = snapshot(site)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=2**20))
    assert_refused(restore(archive, "--yes"), "has 1 MB of free space, and the new files need about [2-9] MB")
    assert snapshot(site) == before


def test_a_mount_point_cannot_be_swapped(site: Engine, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(site)
    monkeypatch.setattr(Path, "is_mount", lambda path: path.name == "chroma")
    assert_refused(restore(archive, "--yes"), "is a mount point: set CHROMA_DB_DIR to a directory inside of it")
    assert snapshot(site) == before


def test_chroma_losing_a_document_is_noticed(site: Engine, archive: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(site)
    monkeypatch.setattr("embedding.vector_store.collections.CourseCollection.count", lambda _: 2)
    assert_refused(restore(archive, "--yes"), "Course kept has 2 documents, not 3")
    assert snapshot(site) == before


def at_a_terminal(*arguments: str, answer: str) -> subprocess.CompletedProcess[str]:
    """The command with somebody at the keyboard."""
    keyboard, stdin = os.openpty()
    os.write(keyboard, answer.encode())
    try:
        return subprocess.run(
            [sys.executable, "-m", "cli", "restore", *arguments],
            stdin=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
    finally:
        os.close(keyboard)
        os.close(stdin)


def test_it_asks_first(site: Engine, archive: str) -> None:
    before = snapshot(site)
    assert_refused(restore(archive), "say --yes")
    refused = at_a_terminal(archive, answer="\n")
    assert f"Replace everything in {CHROMA.absolute()}? [y/N]" in refused.stdout
    assert (refused.returncode, refused.stderr.splitlines()[1:]) == (1, ["Not confirmed", "Nothing was changed."])
    assert snapshot(site) == before
    assert at_a_terminal(archive, answer="y\n").returncode == 0
    assert_restored(site)


def test_a_database_that_goes_away_in_the_middle_is_told_and_mended_by_the_next_restore(
    site: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> bool:
        raise DatabaseUnavailableError("The database is away")

    with monkeypatch.context() as patched:
        patched.setattr("maintenance.restore.mark_restored", away)
        result = restore(archive, "--yes")
    assert result.exit_code == 1
    assert result.stderr.endswith(
        "The database is away\nThe restore is half done, and no course can be searched: run it again.\n"
    )
    assert row(site, "kept") == (NOT_STARTED, None)
    assert restore(archive, "--yes").exit_code == 0
    assert_restored(site)


def test_old_files_that_cannot_be_removed_do_not_undo_a_restore(
    site: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(path: Path, **_: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("shutil.rmtree", lambda path, **options: None if options else denied(path))
    result = restore(archive, "--yes")
    assert result.exit_code == 0
    assert "The old files are of no use any more, and remain" in result.stderr
    assert collections() == {"kept": sorted(SAVED), "changed": sorted(SAVED)}


KILLED = """
import os, signal, sys
from unittest.mock import patch
from cli.main import main

target, call, *sys.argv[1:] = sys.argv[1:]
calls = 0

def until_killed(original):
    def counted(*args, **kwargs):
        global calls
        calls += 1
        if calls == int(call):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)
    return counted

import maintenance.restore
import pkgutil
owner, name = target.rsplit(".", 1)
owner = pkgutil.resolve_name(owner)
with patch.object(owner, name, until_killed(getattr(owner, name))):
    main()
"""
MOMENTS = {
    "building": ("embedding.vector_store.collections.CourseCollection.upsert", 2),
    "built": ("maintenance.restore.reset_all", 1),
    "set back": ("pathlib.Path.rename", 1),
    "between the renames": ("pathlib.Path.rename", 2),
    "swapped": ("maintenance.restore.mark_restored", 1),
    "writing rows": ("maintenance.restore.mark_restored", 2),
    "rows written": ("shutil.rmtree", 1),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at_any_moment_it_claims_nothing_untrue_and_the_next_one_mends_it(
    site: Engine, archive: str, moment: str
) -> None:
    target, call = MOMENTS[moment]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, target, str(call), "restore", archive, "--yes"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    held = collections() if (CHROMA / "chroma.sqlite3").exists() else {}
    for course_id in ("kept", "changed", "new"):
        status, fingerprint = row(site, course_id)
        if status == DONE:
            texts = SAVED if fingerprint == records_of(course_id, SAVED)[2] else OLD
            assert held[course_id] == sorted(texts)
    assert restore(archive, "--yes").exit_code == 0
    assert_restored(site)

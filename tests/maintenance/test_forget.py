"""`course-search forget`: a deleted text is in no file afterwards, no vector is lost, and it may be killed anywhere."""

import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from cli.commands.vector_store import OVERWRITE_FREED_MEMORY
from cli.main import app
from cli.processes import free_port
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collection_names import copy_name
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.indexing import index_course
from embedding.vector_store.offline import OfflineVectorStore
from embedding.vector_store.server import VectorStoreSettings
from maintenance import forget
from models import course_state
from models.chunks import chunk_pages
from models.context import FORGOTTEN, NO_CONTEXT, ContextFields
from models.course_state import Retry
from models.database import transaction
from models.embedded_texts import count_texts, record_texts
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk, Course
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from tests.support.courses import change_course, read_course, write_course
from tests.support.indexed_course import StubEmbedder, vector_of
from tests.support.published import ANY_GENERATION
from tests.support.questions import ask, recorded_courses
from tests.support.servers.chroma import chroma_server, has_collection

pytestmark = pytest.mark.integration

MARKER = "ZQXJVKWQ"
SECRET = f"The password of the cleaning robot is {MARKER}."
TEXTS = {f"c{number}": f"Copper plate number {number}" for number in range(20)}
COURSE = "robots"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """CHROMA_DB_DIR. Servers overwrite freed memory, as `course-search vector-store` has them do."""
    monkeypatch.setenv("CHROMA_DB_DIR", str(tmp_path / "chroma"))
    monkeypatch.setenv("GLIBC_TUNABLES", OVERWRITE_FREED_MEMORY)
    return tmp_path / "chroma"


@pytest.fixture
def url(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Chroma server with its files in `directory`; CHROMA_URL is its URL."""
    with chroma_server(directory) as url:
        monkeypatch.setenv("CHROMA_URL", url)
        yield url


@pytest.fixture
def store(url: str) -> Iterator[VectorStore]:
    with closing(VectorStore(VectorStoreSettings(chroma_url=url))) as store:
        yield store


def run(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["forget", *arguments], input=answer)


def embed(
    engine: Engine, store: VectorStore, course_id: str = COURSE, context_fields: ContextFields = NO_CONTEXT
) -> StubEmbedder:
    """What a run does: claim, embed, publish, keep only the present snapshot."""
    embedder, snapshots = StubEmbedder(), SnapshotStore(SnapshotSettings())
    with transaction(engine) as session:
        assert course_state.claim_course(session, course_id, "run")
        pages = list(chunk_pages(session, course_id))
    report = index_course(course_id, pages, store, embedder, lambda _: None, context_fields=context_fields)
    snapshots.save(course_id, build_snapshot(store.open(course_id), 1))
    with transaction(engine) as session:
        assert course_state.publish(session, course_id, "run", str(report.fingerprint))
    snapshots.keep_only(course_id, report.fingerprint, ANY_GENERATION)
    return embedder


@pytest.fixture
def course(engine: Engine, store: VectorStore) -> Course:
    """A published course that contains the secret, and another one."""
    write_course(engine, "other", {f"o{number}": f"Solder {number}" for number in range(5)})
    embed(engine, store, "other")
    write_course(engine, COURSE, {**TEXTS, "secret": SECRET})
    embed(engine, store)
    return read_course(engine, COURSE)


def delete_secret(engine: Engine, texts: Mapping[str, str] = TEXTS) -> None:
    write_course(engine, COURSE, dict(texts))


def set_section_title(engine: Engine, chunk_id: str, title: str) -> None:
    with transaction(engine) as session:
        chunk = session.get_one(Chunk, chunk_id)
        chunk.extra = {**(chunk.extra or {}), "section_title": title}


def files_with_secret(*directories: Path) -> list[str]:
    """The files that contain the secret, or a part of it in a full-text index."""
    found = []
    for path in (path for directory in directories for path in directory.rglob("*") if path.is_file()):
        content = path.read_bytes().lower()
        if any(part in content for part in (MARKER.lower().encode(), b"zqxj", b"xjvk")):
            found.append(path.name)
        if path.name == "chroma.sqlite3":
            with closing(sqlite3.connect(path)) as database:
                blocks = database.execute("SELECT block FROM embedding_fulltext_search_data").fetchall()
            # The index stores trigrams; a first term of a page, or after another prefix, is stored in full.
            if any(trigram in block for (block,) in blocks for trigram in (b"zqx", b"xjv", b"jvk", b"vkw")):
                found.append("full-text index")
    return found


def assert_forgotten(engine: Engine, store: VectorStore, texts: Mapping[str, str] = TEXTS) -> None:
    """The course is published with exactly these texts, and its vectors belong to them."""
    row = read_course(engine, COURSE)
    assert row.embedding_status == "done"
    published = CourseFingerprint.parse(row.embedding_fingerprint)
    with transaction(engine) as session:
        assert published == FingerprintBuilder().add_all(chunk_pages(session, COURSE)).build("signature")
    stored = {}
    for records, vectors in store.open(COURSE).contents():
        for record, vector in zip(records, vectors, strict=True):
            np.testing.assert_allclose(vector, vector_of(record.text), atol=1e-6)
            stored[record.chunk_id] = record.text
    assert stored == dict(texts)


class TestForgetting:
    def test_deleted_text_is_in_no_file_while_the_server_runs(
        self, engine: Engine, store: VectorStore, course: Course, directory: Path, tmp_path: Path
    ) -> None:
        snapshots = SnapshotSettings().snapshot_dir
        assert {"chroma.sqlite3", "full-text index"} <= set(files_with_secret(directory))
        delete_secret(engine)
        result = run(COURSE, "--yes")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.splitlines()[0] == f"{COURSE}: 1 record forgotten, 20 kept"
        assert "purged" in result.stdout
        assert files_with_secret(directory, snapshots) == []
        assert_forgotten(engine, store)
        assert read_course(engine, COURSE).embedding_generation == course.embedding_generation + 1
        assert not has_copy(store)
        assert store.open("other").count() == 5
        assert embed(engine, store).embedded == [], "every vector was kept"

    def test_digests_of_texts_are_forgotten(self, engine: Engine, store: VectorStore, course: Course) -> None:
        for course_id in (COURSE, "other"):
            with transaction(engine) as session:
                record_texts(session, course_id, {"secret": 1})
        assert run(COURSE, "--yes").exit_code == 0
        with transaction(engine) as session:
            assert (count_texts(session, COURSE), count_texts(session, "other")) == (0, 1)

    def test_text_that_a_run_has_removed_before_is_purged_from_the_log(
        self, engine: Engine, store: VectorStore, course: Course, directory: Path
    ) -> None:
        delete_secret(engine)
        embed(engine, store)
        assert "chroma.sqlite3" in files_with_secret(directory), "Chroma keeps it"
        result = run(COURSE)
        assert result.stdout.splitlines()[0] == f"{COURSE}: nothing to forget in the collection, 20 kept"
        assert result.exit_code == 0
        assert files_with_secret(directory) == []
        assert_forgotten(engine, store)

    def test_earlier_version_of_an_edited_text_is_forgotten(
        self, engine: Engine, store: VectorStore, course: Course, directory: Path
    ) -> None:
        delete_secret(engine, {**TEXTS, "secret": "There is no password."})
        result = run(COURSE, "--yes")
        assert "1 record forgotten, 20 kept; the pipeline embeds what is missing" in result.stdout
        assert files_with_secret(directory) == []
        row = read_course(engine, COURSE)
        published = CourseFingerprint.parse(row.embedding_fingerprint)
        assert (row.embedding_status, published and published.chunks) == ("done", 20)
        assert embed(engine, store).embedded == ["There is no password."]

    def test_former_title_is_forgotten_and_its_chunk_keeps_its_vector_until_it_is_embedded(
        self, engine: Engine, store: VectorStore, course: Course, directory: Path
    ) -> None:
        fields = EmbeddingSettings().context
        delete_secret(engine)
        set_section_title(engine, "c1", SECRET)
        embed(engine, store, context_fields=fields)
        set_section_title(engine, "c1", "Copper")
        result = run(COURSE, "--yes")
        assert result.stdout.splitlines()[0] == f"{COURSE}: nothing to forget in the collection, 20 kept"
        assert files_with_secret(directory, SnapshotSettings().snapshot_dir) == []
        contexts = {
            record.chunk_id: record.context for records, _ in store.open(COURSE).contents() for record in records
        }
        assert contexts == {**dict.fromkeys(TEXTS, "Lecture > Section"), "c1": FORGOTTEN}
        assert embed(engine, store, context_fields=fields).embedded == [TEXTS["c1"], "Copper", "Lecture"]

    def test_deleted_course_is_forgotten(
        self, engine: Engine, store: VectorStore, course: Course, directory: Path
    ) -> None:
        delete_course(engine)
        ask(engine, COURSE, SECRET)
        ask(engine, "other", "What is copper?")
        result = run(COURSE, "--yes")
        assert recorded_courses(engine) == {"other"}
        assert result.stdout.splitlines()[0] == f"{COURSE}: not in the catalogue, 21 records deleted"
        assert not has_collection(store, COURSE)
        assert files_with_secret(directory, SnapshotSettings().snapshot_dir) == []

    def test_unknown_course_is_named_but_a_repetition_purges(
        self, engine: Engine, store: VectorStore, course: Course, directory: Path
    ) -> None:
        """The first command may have been killed before the purge."""
        delete_course(engine)
        store.delete(COURSE)
        SnapshotStore(SnapshotSettings()).delete(COURSE)
        result = run(COURSE, "--yes")
        assert (result.exit_code, "There is no course 'robots', and nothing of it is stored" in result.stderr) == (
            1,
            True,
        )
        assert files_with_secret(directory) == []

    def test_last_collection_leaves_no_directory(
        self, engine: Engine, store: VectorStore, course: Course, directory: Path
    ) -> None:
        delete_course(engine)
        store.delete("other")
        assert list(directory.glob("*/data_level0.bin"))
        assert run(COURSE, answer="y\n").exit_code == 0
        assert list(directory.glob("*/data_level0.bin")) == []

    def test_course_whose_chunks_are_all_deleted_is_withdrawn(
        self, engine: Engine, store: VectorStore, course: Course, directory: Path
    ) -> None:
        delete_secret(engine, {})
        assert "it has no chunks" in run(COURSE, "--yes").stdout
        row = read_course(engine, COURSE)
        assert (row.embedding_status, row.embedding_fingerprint, row.embedding_error) == (
            "failed",
            None,
            forget.NO_CHUNKS,
        )
        assert store.open(COURSE).count() == 0
        assert files_with_secret(directory) == []

    def test_course_that_was_not_done_is_searchable_as_before_and_embedded_again(
        self, engine: Engine, store: VectorStore, course: Course
    ) -> None:
        delete_secret(engine)
        change_course(engine, COURSE, embedding_status="failed", embedding_error="no luck")
        assert "20 kept; the pipeline embeds what is missing" in run(COURSE, "--yes").stdout
        row = read_course(engine, COURSE)
        assert (row.embedding_status, row.embedding_run_id) == ("pending", None)
        assert row.embedding_requested_at is not None
        published = CourseFingerprint.parse(row.embedding_fingerprint)
        assert published is not None
        assert published.chunks == 20

    def test_without_a_server_the_files_are_opened_directly(
        self, engine: Engine, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("embedding.vector_store.server.ChromaConnection.answers", lambda _: False)
        write_course(engine, COURSE, {**TEXTS, "secret": SECRET})
        with closing(OfflineVectorStore(directory)) as store:
            directory.mkdir()
            embed(engine, store)
        delete_secret(engine)
        with transaction(engine) as session:  # a killed `forget`, whose owner cannot live
            course_state.claim_course(session, COURSE, f"{course_state.FORGETTING}1")
        result = run(COURSE, "--yes")
        assert result.exit_code == 0, result.stderr
        assert files_with_secret(directory) == []
        with closing(OfflineVectorStore(directory)) as store:
            assert read_course(engine, COURSE).embedding_status == "pending"
            assert embed(engine, store).embedded == []
            assert_forgotten(engine, store)


class TestRefusal:
    def test_nothing_is_changed_unless_confirmed(self, engine: Engine, store: VectorStore, course: Course) -> None:
        delete_secret(engine)
        for answer in ("n\n", ""):
            result = run(COURSE, answer=answer)
            assert result.exit_code == 1
            assert "forget 1 record whose text is no longer in the catalogue" in result.stderr
            assert store.open(COURSE).count() == 21
            assert not has_copy(store)
        assert read_course(engine, COURSE).model_dump() == course.model_dump()
        delete_course(engine)
        assert "delete its collection of 21 records" in run(COURSE, answer="n\n").stderr
        assert has_collection(store, COURSE)

    def test_running_course_is_refused(self, engine: Engine, store: VectorStore, course: Course) -> None:
        with transaction(engine) as session:
            course_state.claim_course(session, COURSE, "run")
        result = run(COURSE, "--yes")
        assert result.exit_code == 1
        assert "is being embedded now: run this command again when it is done" in result.stderr
        assert "purged" not in result.stdout
        assert read_course(engine, COURSE).embedding_run_id == "run"

    def test_course_that_is_published_during_the_copy_is_copied_again(
        self, engine: Engine, store: VectorStore, course: Course
    ) -> None:
        delete_secret(engine)
        forgetting = forget.prepare(engine, store, COURSE)
        embed(engine, store)
        with pytest.raises(forget.ChangedMeanwhileError):
            forget.complete(engine, store, SnapshotStore(SnapshotSettings()), forgetting)
        row = read_course(engine, COURSE)
        assert (row.embedding_status, row.embedding_generation) == ("done", 2)
        assert store.open(COURSE).count() == 20
        assert not has_copy(store)

    def test_course_of_a_wrong_catalogue_is_deleted_only_if_confirmed(
        self, engine: Engine, store: VectorStore, course: Course
    ) -> None:
        delete_course(engine)
        change_course(engine, "other", embedding_fingerprint=course.embedding_fingerprint)  # another one's copy
        result = run(COURSE, "--yes")
        assert result.exit_code == 1
        assert "Is DATABASE_URL correct? If it is, run this command without --yes" in result.stderr
        assert "purged" not in result.stdout
        assert store.open(COURSE).count() == 21
        assert "Is DATABASE_URL correct?" in run(COURSE, answer="y\n").stderr
        assert not has_collection(store, COURSE)

    def test_course_that_is_added_meanwhile_is_not_deleted(self, engine: Engine, store: VectorStore) -> None:
        forgetting = forget.prepare(engine, store, COURSE)
        write_course(engine, COURSE, TEXTS)
        embed(engine, store)
        with pytest.raises(forget.ChangedMeanwhileError):
            forget.complete(engine, store, SnapshotStore(SnapshotSettings()), forgetting)
        assert store.open(COURSE).count() == 20

    def test_copy_of_another_command_is_never_published(
        self, engine: Engine, store: VectorStore, course: Course
    ) -> None:
        """It is still written, or its writer was killed."""
        delete_secret(engine)
        forgetting = forget.prepare(engine, store, COURSE)
        store.create_copy(COURSE, store.open(COURSE).info)
        with pytest.raises(forget.ChangedMeanwhileError):
            forget.complete(engine, store, SnapshotStore(SnapshotSettings()), forgetting)
        assert read_course(engine, COURSE).model_dump() == course.model_dump()
        assert store.open(COURSE).count() == 21
        assert has_copy(store), "it belongs to the other command"

    def test_copy_that_another_command_replaces_during_the_claim_is_not_published(
        self, engine: Engine, store: VectorStore, course: Course, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delete_secret(engine)
        forgetting = forget.prepare(engine, store, COURSE)
        replace = VectorStore.replace_by_copy

        def replace_by_other(store: VectorStore, course_id: str, *arguments: Callable[[], None]) -> None:
            store.create_copy(COURSE, store.open(COURSE).info)
            replace(store, course_id, *arguments)

        monkeypatch.setattr(VectorStore, "replace_by_copy", replace_by_other)
        snapshots = SnapshotStore(SnapshotSettings())
        with pytest.raises(VectorStoreError, match="replaced by another one"):
            forget.complete(engine, store, snapshots, forgetting)
        row = read_course(engine, COURSE)
        assert (row.embedding_status, row.embedding_generation) == ("failed", course.embedding_generation)
        assert row.embedding_retry_at is not None
        published = CourseFingerprint.parse(row.embedding_fingerprint)
        assert published is not None
        assert snapshots.find(COURSE, published, ANY_GENERATION) is not None, "searches still use it"

    def test_published_course_without_a_collection_stays_searchable(
        self, engine: Engine, store: VectorStore, course: Course
    ) -> None:
        store.delete(COURSE)
        result = run(COURSE, "--yes")
        assert (result.exit_code, "has no collection. The pipeline embeds it" in result.stderr) == (1, True)
        published = CourseFingerprint.parse(course.embedding_fingerprint)
        assert published is not None
        assert SnapshotStore(SnapshotSettings()).find(COURSE, published, ANY_GENERATION) is not None

    def test_course_of_a_killed_command_is_refused_while_the_server_runs(
        self, engine: Engine, store: VectorStore, course: Course
    ) -> None:
        with transaction(engine) as session:
            course_state.claim_course(session, COURSE, f"{course_state.FORGETTING}1")
        result = run(COURSE, "--yes")
        assert result.exit_code == 1
        assert "was claimed by `course-search forget`, which still runs or was killed" in result.stderr

    @pytest.mark.parametrize("course_id", ["", "\udcff"])
    def test_impossible_id_is_unknown(self, engine: Engine, store: VectorStore, course: Course, course_id: str) -> None:
        result = run(course_id, "--yes")
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr == f"There is no course {course_id!r}\n"

    def test_failed_copy_is_deleted(
        self, engine: Engine, store: VectorStore, course: Course, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("embedding.vector_store.rewriting.CourseCollection.find_mismatches", lambda *_: ["c1"])
        result = run(COURSE, "--yes")
        assert result.exit_code == 1
        assert "did not store 1 records correctly" in result.stderr
        assert not has_copy(store)

    def test_files_on_another_machine_are_named_as_not_purged(
        self, engine: Engine, store: VectorStore, course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        delete_secret(engine)
        monkeypatch.setenv("CHROMA_DB_DIR", str(tmp_path / "elsewhere"))
        result = run(COURSE, "--yes")
        assert result.exit_code == 1
        assert "Run this command again on the machine that has them" in result.stderr
        assert_forgotten(engine, store)

    def test_unreachable_chroma_changes_nothing(
        self, engine: Engine, course: Course, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
        result = run(COURSE, "--yes")
        assert result.exit_code == 1
        assert "cannot be reached" in result.stderr
        assert "No course was changed" in result.stderr
        assert ". ." not in result.stderr
        assert read_course(engine, COURSE).model_dump() == course.model_dump()


KILLED = """
import os, signal, sys
from embedding.vector_store import collections, purge
from maintenance import forget
from cli.main import app

def kill(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

{moment}
app(["forget", "robots", "--yes"])
"""
AFTER_CLAIM = """
original = collections.VectorStore.{method}
forget.course_state.owned = False
claim = forget.course_state.claim_course
def claimed(*arguments):
    forget.course_state.owned = True
    return claim(*arguments)
forget.course_state.claim_course = claimed
collections.VectorStore.{method} = lambda *args: kill() if forget.course_state.owned else original(*args)
"""
MOMENTS = {
    "while the copy is written": "collections.CourseCollection.find_mismatches = kill",
    "before the collection is deleted": "collections.VectorStore.replace_by_copy = kill",
    "between the renamings": AFTER_CLAIM.format(method="adopt_copy"),
    "before the publication": "forget.course_state.publish = kill",
    "before the former collection is deleted": AFTER_CLAIM.format(method="delete_copies"),
    "before the purge": "import cli.commands.forget as command; command.purge = kill",
}


@pytest.mark.parametrize(("moment", "repair"), list(zip(MOMENTS, itertools.cycle(["forget", "run"]), strict=False)))
def test_killed_at_any_moment_nothing_is_lost_and_a_repetition_completes_it(
    engine: Engine, store: VectorStore, course: Course, directory: Path, moment: str, repair: str
) -> None:
    """The vectors survive, and the sensor frees the row, because its owner is no run."""
    delete_secret(engine)
    killed = subprocess.run([sys.executable, "-c", KILLED.format(moment=MOMENTS[moment])], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    row = read_course(engine, COURSE)
    if row.embedding_status == "running":
        assert row.embedding_run_id is not None
        assert row.embedding_run_id.startswith("forget-")
        with transaction(engine) as session:  # as `course_status_sensor` does
            assert course_state.fail_course(session, COURSE, row.embedding_run_id, "gone", retry=Retry.LATER)
    if repair == "run":
        assert embed(engine, store).embedded == []
    result = run(COURSE, "--yes")
    assert result.exit_code == 0, result.stderr
    assert embed(engine, store).embedded == []
    assert_forgotten(engine, store)
    assert files_with_secret(directory, SnapshotSettings().snapshot_dir) == []
    assert not has_copy(store)


def test_error_of_chroma_after_the_claim_is_recorded_and_retried(
    engine: Engine, store: VectorStore, course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise VectorStoreError("no luck")

    delete_secret(engine)
    with monkeypatch.context() as patch:
        patch.setattr(VectorStore, "replace_by_copy", fail)
        result = run(COURSE, "--yes")
    assert result.exit_code == 1
    assert "no luck. Not everything is forgotten" in result.stderr
    row = read_course(engine, COURSE)
    assert row.embedding_status == "failed"
    assert row.embedding_retry_at is not None
    assert SECRET not in (row.embedding_error or "")
    assert run(COURSE, "--yes").exit_code == 0
    assert embed(engine, store).embedded == []
    assert_forgotten(engine, store)


def has_copy(store: VectorStore) -> bool:
    return copy_name(COURSE) in {collection.name for collection in store.collections()}


def delete_course(engine: Engine) -> None:
    with transaction(engine) as session:
        for table, column in (("chunk", "course_id"), ("resource", "course_id"), ("course", "id")):
            session.execute(text(f"DELETE FROM {table} WHERE {column} = :course"), {"course": COURSE})

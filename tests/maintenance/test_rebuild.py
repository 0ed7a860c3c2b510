"""`course-search rebuild` deletes the collection and requests an embedding, while it owns the course."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.records import Record
from models.course_state import REBUILD_OWNER_PREFIX, claim_course, fail_unfinished
from retrieval.keywords.index import KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.support.catalogue import Catalogue
from tests.support.commands import Pipeline
from tests.support.courses import read_course
from tests.support.published import publish_row
from tests.support.servers.chroma import has_collection

pytestmark = pytest.mark.integration


def rebuild(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["rebuild", *arguments], input=answer)


@pytest.fixture
def courses(
    catalogue: Catalogue, vector_store: VectorStore, chroma_url: str, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Two published courses with a collection each. Their ids are unique, because the Chroma server is shared."""
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    ids = sorted(f"{uuid4()}" for _ in range(2))
    for course_id in ids:
        catalogue.add_course(course_id)
        publish_row(catalogue.engine, course_id)
        collection = vector_store.create(CollectionInfo(course_id, "model", "m"))
        collection.upsert([Record("c", "text", {}, "hash")], np.eye(4, dtype=np.float32)[:1])
        KeywordStore(KeywordSettings()).save(course_id, "0" * 64, KeywordIndexBuilder().build())
    return ids


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A server at CHROMA_URL that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_rebuild_deletes_the_collection_and_requests_an_embedding(
    catalogue: Catalogue, vector_store: VectorStore, courses: list[str]
) -> None:
    course_id, other_id = courses
    result = rebuild(course_id)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{course_id}: collection deleted, embedding_started\n"
    assert not has_collection(vector_store, course_id)
    row = read_course(catalogue.engine, course_id)
    assert (row.embedding_status, row.embedding_progress, row.embedding_run_id) == ("pending", 0.0, None)
    assert (row.embedding_fingerprint, row.embedding_attempted, row.embedding_generation) == (None, None, 1)
    assert row.embedding_requested_at is not None
    assert has_collection(vector_store, other_id)
    assert KeywordStore(KeywordSettings()).directories() == [directory_name(other_id)]
    assert read_course(catalogue.engine, other_id).embedding_status == "done"


def test_keyword_index_that_cannot_be_deleted_fails_the_course(
    catalogue: Catalogue, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    result = rebuild(courses[0])
    assert result.exit_code == 1
    assert "A keyword index cannot be deleted: Permission denied" in result.stderr
    row = read_course(catalogue.engine, courses[0])
    assert row.embedding_status == "failed"
    assert "The rebuild failed: A keyword index cannot be deleted" in (row.embedding_error or "")
    assert row.embedding_requested_at is not None


def test_wait_reports_the_outcome_of_the_embedding(
    catalogue: Catalogue, courses: list[str], pipeline: Pipeline
) -> None:
    course_id, other_id = courses
    with pipeline():
        assert f"{course_id}: done\n" in rebuild(course_id, "--wait").stdout
    assert read_course(catalogue.engine, course_id).embedding_generation == 2
    with pipeline(**{other_id: "no luck"}):
        result = rebuild(other_id, "--wait")
    assert result.exit_code == 1
    assert f"{other_id}: failed: no luck\n" in result.stdout


def test_running_course_is_refused_and_others_are_rebuilt(
    catalogue: Catalogue, vector_store: VectorStore, courses: list[str]
) -> None:
    running_id, other_id = courses
    with catalogue.session() as session:
        claim_course(session, running_id, "run")
    result = rebuild(running_id, "unknown", other_id, "--yes")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:2] == [
        f"Course '{running_id}' is being embedded now",
        "There is no course 'unknown'",
    ]
    assert has_collection(vector_store, running_id)
    assert read_course(catalogue.engine, running_id).embedding_run_id == "run"
    assert not has_collection(vector_store, other_id)


def test_several_courses_need_a_confirmation(
    catalogue: Catalogue, vector_store: VectorStore, courses: list[str]
) -> None:
    for answer in ("n\n", ""):
        result = rebuild("--all", answer=answer)
        assert result.exit_code == 1
        assert "Delete the collections of 2 courses" in result.stderr
        assert all(has_collection(vector_store, course_id) for course_id in courses)
        assert all(read_course(catalogue.engine, course_id).embedding_status == "done" for course_id in courses)
    assert rebuild("--all", answer="y\n").exit_code == 0
    assert not any(has_collection(vector_store, course_id) for course_id in courses)


def test_unreachable_chroma_fails_the_first_course_and_skips_the_others(
    catalogue: Catalogue, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    course_id, other_id = courses
    result = rebuild("--all", "--yes")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr
    assert f"0 of 2 courses were rebuilt; those after {course_id} were not changed" in result.stderr
    row = read_course(catalogue.engine, course_id)
    assert row.embedding_status == "failed"
    assert "The rebuild failed: Chroma at" in (row.embedding_error or "")
    assert row.embedding_requested_at is not None, "the pipeline embeds it when Chroma is reachable again"
    assert read_course(catalogue.engine, other_id).embedding_status == "done"


def test_no_run_can_claim_the_course_during_the_deletion(
    catalogue: Catalogue, courses: list[str], silent_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_TIMEOUT_SECONDS", "300")
    rebuilding = threading.Thread(target=rebuild, args=[courses[0]])
    rebuilding.start()
    connection, _ = silent_server.accept()
    with catalogue.session() as session:
        assert not claim_course(session, courses[0], "run")
    connection.close()  # ends the rebuild with an error
    rebuilding.join()
    assert read_course(catalogue.engine, courses[0]).embedding_status == "failed"


@pytest.fixture
def killed_course(catalogue: Catalogue, courses: list[str], silent_server: socket.socket) -> str:
    """A course whose rebuild was killed while it waited for Chroma."""
    command = [sys.executable, "-m", "cli", "rebuild", courses[0]]
    with subprocess.Popen(command, env=dict(os.environ)) as rebuilding:
        connection, _ = silent_server.accept()
        rebuilding.kill()
    connection.close()
    return courses[0]


def test_killed_rebuild_leaves_a_running_course_that_the_pipeline_can_fail(
    catalogue: Catalogue, killed_course: str
) -> None:
    row = read_course(catalogue.engine, killed_course)
    assert row.embedding_status == "running"
    owner = row.embedding_run_id or ""
    assert owner.startswith(REBUILD_OWNER_PREFIX)
    refused = CliRunner().invoke(app, ["embed", killed_course])
    assert "is being rebuilt now; if that was interrupted, `make up` releases the course" in refused.stderr
    with catalogue.session() as session:
        assert fail_unfinished(session, killed_course, owner, "the rebuild was interrupted")


def test_course_taken_over_during_the_deletion_is_an_error_and_requested(
    catalogue: Catalogue, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline treats a slow rebuild like a killed rebuild."""
    delete = VectorStore.delete

    def delete_slowly(store: VectorStore, course_id: str, before_write: Callable[[], None]) -> None:
        delete(store, course_id, before_write)
        with catalogue.session() as session:
            fail_unfinished(
                session, course_id, read_course(catalogue.engine, course_id).embedding_run_id or "", "interrupted"
            )

    monkeypatch.setattr(VectorStore, "delete", delete_slowly)
    result = rebuild(courses[0])
    assert result.exit_code == 1
    assert "was taken over while its collection was deleted: rebuild it again" in result.stderr
    row = read_course(catalogue.engine, courses[0])
    assert row.embedding_status == "pending", "its collection was deleted"
    assert row.embedding_requested_at is not None


def test_course_published_before_the_deletion_keeps_its_collection(
    catalogue: Catalogue, vector_store: VectorStore, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild was suspended after it claimed the course, and resumes after the pipeline published the course."""
    delete = VectorStore.delete

    def delete_late(store: VectorStore, course_id: str, *before_write: Callable[[], None]) -> None:
        with catalogue.session() as session:
            fail_unfinished(
                session, course_id, read_course(catalogue.engine, course_id).embedding_run_id or "", "interrupted"
            )
        publish_row(catalogue.engine, course_id)
        delete(store, course_id, *before_write)

    monkeypatch.setattr(VectorStore, "delete", delete_late)
    result = rebuild(courses[0])
    assert result.exit_code == 1
    assert "was taken over: rebuild it again" in result.stderr
    assert has_collection(vector_store, courses[0])
    row = read_course(catalogue.engine, courses[0])
    assert (row.embedding_status, row.embedding_generation, row.embedding_error) == ("done", 2, None)

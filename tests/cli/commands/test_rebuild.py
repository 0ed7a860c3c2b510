"""`course-search rebuild`: the collection goes, the course is asked for again, and nobody gets in between."""

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
from tests.cli.conftest import Pipeline, course, published
from tests.support.catalogue import Catalogue
from tests.support.chroma import has_collection

pytestmark = pytest.mark.integration


def rebuild(*arguments: str, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["rebuild", *arguments], input=answer)


@pytest.fixture
def courses(
    catalogue: Catalogue, vector_store: VectorStore, chroma_url: str, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """Two published courses with a collection each; the Chroma server is shared, so their ids are their own."""
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    ids = sorted(f"{uuid4()}" for _ in range(2))
    for course_id in ids:
        catalogue.add_course(course_id)
        published(catalogue, course_id)
        collection = vector_store.create(CollectionInfo(course_id, "model", "m"))
        collection.upsert([Record("c", "text", {}, "hash")], np.eye(4, dtype=np.float32)[:1])
        KeywordStore(KeywordSettings()).save(course_id, "0" * 64, KeywordIndexBuilder().build())
    return ids


@pytest.fixture
def silent_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Stands where Chroma should, accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        yield server


def test_the_collection_is_deleted_and_the_course_asked_for(
    catalogue: Catalogue, vector_store: VectorStore, courses: list[str]
) -> None:
    one, other = courses
    result = rebuild(one)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{one}: collection deleted, embedding_started\n"
    assert not has_collection(vector_store, one)
    row = course(catalogue, one)
    assert (row.embedding_status, row.embedding_progress, row.embedding_run_id) == ("pending", 0.0, None)
    assert (row.embedding_fingerprint, row.embedding_attempted, row.embedding_generation) == (None, None, 1)
    assert row.embedding_requested_at is not None
    assert has_collection(vector_store, other)
    assert KeywordStore(KeywordSettings()).directories() == [directory_name(other)]
    assert course(catalogue, other).embedding_status == "done"


def test_a_keyword_index_that_cannot_be_deleted_fails_the_course_with_the_reason(
    catalogue: Catalogue, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    result = rebuild(courses[0])
    assert result.exit_code == 1
    assert "A keyword index cannot be deleted: Permission denied" in result.stderr
    row = course(catalogue, courses[0])
    assert row.embedding_status == "failed"
    assert "The rebuild failed: A keyword index cannot be deleted" in (row.embedding_error or "")
    assert row.embedding_requested_at is not None


def test_it_can_be_waited_for(catalogue: Catalogue, courses: list[str], pipeline: Pipeline) -> None:
    one, other = courses
    with pipeline():
        assert f"{one}: done\n" in rebuild(one, "--wait").stdout
    assert course(catalogue, one).embedding_generation == 2
    with pipeline(**{other: "no luck"}):
        result = rebuild(other, "--wait")
    assert result.exit_code == 1
    assert f"{other}: failed: no luck\n" in result.stdout


def test_a_course_that_is_embedded_now_is_refused_and_the_others_go_on(
    catalogue: Catalogue, vector_store: VectorStore, courses: list[str]
) -> None:
    running, other = courses
    with catalogue.session() as session:
        claim_course(session, running, "run")
    result = rebuild(running, "nobody", other, "--yes")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:2] == [
        f"Course '{running}' is being embedded now",
        "There is no course 'nobody'",
    ]
    assert has_collection(vector_store, running)
    assert course(catalogue, running).embedding_run_id == "run"
    assert not has_collection(vector_store, other)


def test_more_than_one_course_needs_a_yes(catalogue: Catalogue, vector_store: VectorStore, courses: list[str]) -> None:
    for answer in ("n\n", ""):
        result = rebuild("--all", answer=answer)
        assert result.exit_code == 1
        assert "Delete the collections of 2 courses" in result.stderr
        assert all(has_collection(vector_store, course_id) for course_id in courses)
        assert all(course(catalogue, course_id).embedding_status == "done" for course_id in courses)
    assert rebuild("--all", answer="y\n").exit_code == 0
    assert not any(has_collection(vector_store, course_id) for course_id in courses)


def test_without_chroma_the_course_fails_with_the_reason_and_the_rest_is_left_alone(
    catalogue: Catalogue, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    one, other = courses
    result = rebuild("--all", "--yes")
    assert result.exit_code == 1
    assert "cannot be reached" in result.stderr
    assert f"0 of 2 courses were rebuilt; those after {one} were left alone" in result.stderr
    row = course(catalogue, one)
    assert row.embedding_status == "failed"
    assert "The rebuild failed: Chroma at" in (row.embedding_error or "")
    assert row.embedding_requested_at is not None, "the pipeline takes it up when Chroma is back"
    assert course(catalogue, other).embedding_status == "done"


def test_no_run_takes_the_course_while_its_collection_is_deleted(
    catalogue: Catalogue, courses: list[str], silent_server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_TIMEOUT_SECONDS", "1")
    rebuilding = threading.Thread(target=rebuild, args=[courses[0]])
    rebuilding.start()
    connection, _ = silent_server.accept()
    with catalogue.session() as session:
        assert not claim_course(session, courses[0], "run")
    rebuilding.join()
    connection.close()
    assert course(catalogue, courses[0]).embedding_status == "failed"


@pytest.fixture
def killed(catalogue: Catalogue, courses: list[str], silent_server: socket.socket) -> str:
    """A course whose rebuild was killed while Chroma deleted its collection."""
    command = [sys.executable, "-m", "cli", "rebuild", courses[0]]
    with subprocess.Popen(command, env=dict(os.environ)) as rebuilding:
        connection, _ = silent_server.accept()
        rebuilding.kill()
    connection.close()
    return courses[0]


def test_killed_half_way_it_leaves_a_course_that_the_pipeline_can_tell(catalogue: Catalogue, killed: str) -> None:
    row = course(catalogue, killed)
    assert row.embedding_status == "running"
    owner = row.embedding_run_id or ""
    assert owner.startswith(REBUILD_OWNER_PREFIX)
    refused = CliRunner().invoke(app, ["embed", killed])
    assert "is being rebuilt now; if that was interrupted, `make up` sets it free" in refused.stderr
    with catalogue.session() as session:
        assert fail_unfinished(session, killed, owner, "the rebuild was interrupted")


def test_a_course_that_was_taken_over_meanwhile_is_told(
    catalogue: Catalogue, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline cannot tell a slow rebuild from one that was killed."""
    delete = VectorStore.delete

    def slow(store: VectorStore, course_id: str, before_write: Callable[[], None]) -> None:
        delete(store, course_id, before_write)
        with catalogue.session() as session:
            fail_unfinished(session, course_id, course(catalogue, course_id).embedding_run_id or "", "interrupted")

    monkeypatch.setattr(VectorStore, "delete", slow)
    result = rebuild(courses[0])
    assert result.exit_code == 1
    assert "was taken over while its collection was deleted: rebuild it again" in result.stderr
    row = course(catalogue, courses[0])
    assert row.embedding_status == "pending", "its collection is gone, whatever was published meanwhile"
    assert row.embedding_requested_at is not None


def test_a_course_that_was_published_before_its_collection_was_deleted_keeps_it(
    catalogue: Catalogue, vector_store: VectorStore, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rebuild that was frozen right after it claimed the course goes on when nobody waits for it any more."""
    delete = VectorStore.delete

    def late(store: VectorStore, course_id: str, *before_write: Callable[[], None]) -> None:
        with catalogue.session() as session:
            fail_unfinished(session, course_id, course(catalogue, course_id).embedding_run_id or "", "interrupted")
        published(catalogue, course_id)
        delete(store, course_id, *before_write)

    monkeypatch.setattr(VectorStore, "delete", late)
    result = rebuild(courses[0])
    assert result.exit_code == 1
    assert "was taken over, and nothing was deleted" in result.stderr
    assert has_collection(vector_store, courses[0])
    row = course(catalogue, courses[0])
    assert (row.embedding_status, row.embedding_generation, row.embedding_error) == ("done", 2, None)

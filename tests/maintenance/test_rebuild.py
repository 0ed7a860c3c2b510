"""`course-search rebuild` only requests: the run deletes the collection, so that a killed rebuild stays a rebuild."""

from uuid import uuid4

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from cli.processes import free_port
from embedding.vector_store.collections import CollectionInfo, VectorStore
from embedding.vector_store.records import Record
from models.course_state import claim_course
from models.tables import Course
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore, directory_name
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
    """Two published courses, each with collection and snapshot. Their ids are unique: the Chroma server is shared."""
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    ids = sorted(f"{uuid4()}" for _ in range(2))
    for course_id in ids:
        catalogue.add_course(course_id)
        publish_row(catalogue.engine, course_id)
        collection = vector_store.create(CollectionInfo(course_id, "model", "m"))
        collection.upsert([Record("c", "text", {}, "hash")], np.eye(4, dtype=np.float32)[:1])
        SnapshotStore(SnapshotSettings()).save(course_id, build_snapshot(collection, 1))
    return ids


def row(catalogue: Catalogue, course_id: str) -> Course:
    return read_course(catalogue.engine, course_id)


def test_rebuild_is_recorded_and_the_course_stays_searchable_until_a_run_claims_it(
    catalogue: Catalogue, vector_store: VectorStore, courses: list[str]
) -> None:
    course_id, other_id = courses
    before = row(catalogue, course_id)
    result = rebuild(course_id)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"{course_id}: rebuild requested, embedding_started\n"
    assert "while `course-search up` runs" in result.stderr
    after = row(catalogue, course_id)
    assert (after.embedding_status, after.embedding_run_id, after.embedding_rebuild) == ("pending", None, True)
    assert after.embedding_requested_at is not None
    assert (after.embedding_fingerprint, after.embedding_generation) == (before.embedding_fingerprint, 1)
    assert has_collection(vector_store, course_id)
    assert sorted(SnapshotStore(SnapshotSettings()).directories()) == sorted(map(directory_name, courses))
    other = row(catalogue, other_id)
    assert (other.embedding_status, other.embedding_rebuild) == ("done", False)


def test_ordinary_request_after_it_keeps_the_rebuild(catalogue: Catalogue, courses: list[str]) -> None:
    rebuild(courses[0])
    assert CliRunner().invoke(app, ["embed", courses[0]]).exit_code == 0
    assert row(catalogue, courses[0]).embedding_rebuild is True


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


def test_running_course_is_refused_and_others_are_rebuilt(catalogue: Catalogue, courses: list[str]) -> None:
    running_id, other_id = courses
    with catalogue.session() as session:
        claim_course(session, running_id, "run")
    result = rebuild(running_id, "unknown", other_id, "--yes")
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:2] == [
        f"Course '{running_id}' is being embedded now",
        "There is no course 'unknown'",
    ]
    running = row(catalogue, running_id)
    assert (running.embedding_status, running.embedding_run_id, running.embedding_rebuild) == ("running", "run", False)
    assert row(catalogue, other_id).embedding_rebuild is True


def test_several_courses_need_a_confirmation(catalogue: Catalogue, courses: list[str]) -> None:
    for answer in ("n\n", ""):
        result = rebuild("--all", answer=answer)
        assert result.exit_code == 1
        assert "Delete the collections of 2 courses" in result.stderr
        assert [row(catalogue, course_id).embedding_status for course_id in courses] == ["done", "done"]
    assert rebuild("--all", answer="y\n").exit_code == 0
    assert all(row(catalogue, course_id).embedding_rebuild for course_id in courses)


def test_unreachable_chroma_refuses_the_rebuild_and_changes_nothing(
    catalogue: Catalogue, courses: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run would fail for each of them, for nothing."""
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    before = [row(catalogue, course_id).model_dump() for course_id in courses]
    for arguments in ([courses[0]], ["--all", "--yes"]):
        result = rebuild(*arguments)
        assert result.exit_code == 1
        assert result.stdout == ""
        [line] = result.stderr.splitlines()
        assert "cannot be reached" in line
        assert line.endswith("No course was changed.")
    assert [row(catalogue, course_id).model_dump() for course_id in courses] == before

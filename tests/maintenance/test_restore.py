"""`course-search restore` on real Chroma directories: round trips, and the rows of the courses."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Engine, text
from starlette.testclient import TestClient
from typer.testing import CliRunner

from cli.main import app
from cli.processes import free_port
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.offline import OfflineVectorStore
from embedding.vector_store.server import VectorStoreSettings
from retrieval.filters import parse_filter
from retrieval.search import Query, SearchOptions, search_snapshot
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.app import create_app
from tests.maintenance.restoring import (
    CHROMA,
    DONE,
    FAILED,
    NOT_STARTED,
    PENDING,
    PRESENT,
    RUNNING,
    SAVED,
    assert_restored,
    restore,
)
from tests.support.catalogue import Catalogue
from tests.support.courses import change_course, read_course
from tests.support.published import add_courses, publish, records_of
from tests.support.servers.chroma import chroma_server

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("no_server")]


def test_backup_and_restore_give_equal_collections_and_search_results(
    catalogue: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        name: [f"{name} {number}" for number in range(5)]
        for name in ("plain", "课程 一", "a/b", "../up", "spaces in it ", "long" * 200)
    }
    add_courses(catalogue.engine, *texts)
    query = Query("plain 1", records_of("plain", ["query"])[1][0])

    def search(snapshot: CourseSnapshot) -> list[tuple[list[int], list[float]]]:
        """Rows and scores of a search without and with a filter."""
        filters = [None, parse_filter({"section_id": ["1"]})]
        found = [search_snapshot(snapshot, [query], SearchOptions(filters=each), 5).hits for each in filters]
        return [([hit.row for hit in hits], [hit.score for hit in hits]) for hits in found]

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
                contents[name] = (collection.info, raw, vectors, search(build_snapshot(collection, 1).in_memory()))
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
        for (rows, scores), (rows_after, scores_after) in zip(hits, after[name][3], strict=True):
            assert rows == rows_after
            assert len(rows) > 1
            assert scores == pytest.approx(scores_after, abs=1e-6)
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
        embedding_rebuild=True,
        embedding_attempts=3,
        embedding_retry_at=datetime(2026, 3, 1, 12, tzinfo=UTC),
        embedding_due_since=datetime(2026, 3, 1, 12, tzinfo=UTC),
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
        "embedding_rebuild": False,
        "embedding_attempts": 0,
        "embedding_retry_at": None,
        "embedding_due_since": None,
        "embedding_calibration": None,
        "embedding_fingerprint": str(records_of("kept", SAVED)[2]),
    }
    assert read_course(stopped_product, "new").embedding_generation > 0, (
        "launch reasons of the previous generation are obsolete"
    )


def test_searches_use_what_was_restored_although_the_snapshots_are_of_the_present(
    stopped_product: Engine, archive: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Chroma is away, the present answers, as stale. A course that was not saved cannot be searched."""
    monkeypatch.setattr("search_api.search.snapshots.SHORT_PATIENCE_SECONDS", 120.0)  # on a busy machine
    vectors, snapshots = OfflineVectorStore(CHROMA), SnapshotStore(SnapshotSettings())
    publish(stopped_product, vectors, "new", PRESENT)
    for course_id in ("kept", "changed", "new"):
        snapshots.save(course_id, build_snapshot(vectors.open(course_id), 1))
    vectors.close()
    assert restore(archive, "--yes").exit_code == 0

    def search(course_id: str) -> tuple[list[str], bool]:
        with TestClient(create_app()) as client:
            body = {"query": "present saved", "method": "keyword"}
            answer = client.post(f"/courses/{course_id}/search", json=body).json()
        if "error" in answer:
            return [answer["error"]["code"]], False
        return sorted(result["text"] for result in answer["results"]), answer["stale"]

    assert search("kept") == (PRESENT, True)
    assert search("new") == (["embedding_not_ready"], False)
    with chroma_server(CHROMA) as url:
        monkeypatch.setenv("CHROMA_URL", url)
        assert search("kept") == (sorted(SAVED), False)
        assert search("new") == (["embedding_not_ready"], False)


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

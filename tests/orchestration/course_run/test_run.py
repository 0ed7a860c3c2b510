"""A run of one course with a real catalogue, Chroma server and model: what it writes, and how it fails."""

import resource
from contextlib import closing, suppress
from pathlib import Path

import dagster as dg
import psutil
import pytest
from sqlalchemy import Engine, text

from cli.processes import free_port
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.indexing import EMBED_BATCH
from embedding.vector_store.server import VectorStoreSettings
from models import course_state
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from orchestration.partitions import KEYWORD_INDEX
from orchestration.ui_metadata import CHECK_SPECS, EVERY_CHUNK_IS_SEARCHABLE
from tests.orchestration.ticks import (
    Resources,
    all_resources,
    create_run,
    failed_checks,
    materialize,
    metadata_of,
)
from tests.support.courses import change_course, read_course, write_course
from tests.support.servers.chroma import chroma_process, has_collection
from tests.support.servers.foreign_server import foreign_server

pytestmark = pytest.mark.integration


def texts(course_id: str, count: int = 3) -> dict[str, str]:
    return {f"{course_id}/{number}": f"Copper of board number {number}" for number in range(count)}


@pytest.fixture
def _course(catalogue: Engine, course_id: str) -> None:
    """Create an ingested course with three chunks."""
    write_course(catalogue, course_id, texts(course_id))


@pytest.mark.usefixtures("_course")
def test_a_run_publishes_the_course(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, vector_store: VectorStore, course_id: str
) -> None:
    result = materialize(instance, resources, course_id)
    assert result.success
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_progress, course.embedding_error) == ("done", 1.0, None)
    assert (course.embedding_generation, course.embedding_run_id) == (1, result.run_id)
    collection = vector_store.open(course_id)
    assert collection.count() == 3
    published = CourseFingerprint.parse(course.embedding_fingerprint)
    assert published is not None
    assert published.model == collection.info.model_signature
    checks = result.get_asset_check_evaluations()
    assert {check.check_name for check in checks} == {spec.name for spec in CHECK_SPECS}
    assert {(check.passed, check.partition) for check in checks} == {(True, course_id)}


def test_a_run_embeds_only_new_and_changed_texts(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, vector_store: VectorStore, course_id: str
) -> None:
    before = texts(course_id, EMBED_BATCH + 10)
    write_course(catalogue, course_id, before)
    first = metadata_of(materialize(instance, resources, course_id))
    assert (first["embedded"], first["kept"], first["removed"]) == (EMBED_BATCH + 10, 0, 0)
    changed, deleted, *_ = before
    after = {chunk_id: text for chunk_id, text in before.items() if chunk_id != deleted}
    write_course(catalogue, course_id, {**after, changed: "Solder", f"{course_id}/new": "Flux"})
    second = metadata_of(materialize(instance, resources, course_id))
    assert (second["embedded"], second["kept"], second["removed"]) == (2, EMBED_BATCH + 8, 1)
    assert vector_store.open(course_id).count() == EMBED_BATCH + 10
    assert read_course(catalogue, course_id).embedding_generation == 2


@pytest.mark.usefixtures("_course")
def test_another_model_embeds_every_chunk_again_and_keeps_the_keyword_index(
    instance: dg.DagsterInstance,
    resources: Resources,
    vector_store: VectorStore,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    materialize(instance, resources, course_id)
    before = vector_store.open(course_id).info.model_signature
    monkeypatch.setenv("EMBEDDING_MAX_TOKENS", str(EmbeddingSettings().embedding_max_tokens - 1))
    result = materialize(instance, all_resources(), course_id)
    assert metadata_of(result)["embedded"] == 3
    assert metadata_of(result, KEYWORD_INDEX)["kept"] is True
    assert vector_store.open(course_id).info.model_signature != before


def test_a_run_after_a_dead_run_embeds_only_the_missing_chunks(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    """The row still shows the dead run, and the collection contains its first batch."""
    all_texts = texts(course_id, EMBED_BATCH * 2)
    write_course(catalogue, course_id, dict(sorted(all_texts.items())[:EMBED_BATCH]))
    materialize(instance, resources, course_id)
    write_course(catalogue, course_id, all_texts)
    dead = create_run(instance, {})
    instance.report_run_failed(dead)
    change_course(catalogue, course_id, embedding_status="running", embedding_run_id=dead.run_id)
    assert metadata_of(materialize(instance, resources, course_id))["embedded"] == EMBED_BATCH
    assert read_course(catalogue, course_id).embedding_status == EmbeddingStatus.DONE


@pytest.mark.usefixtures("_course")
def test_a_run_does_not_change_a_course_of_an_unfinished_run(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    other = create_run(instance, {})
    change_course(catalogue, course_id, embedding_status="running", embedding_run_id=other.run_id)
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_run_id) == ("running", other.run_id)


@pytest.mark.usefixtures("_course")
def test_a_run_that_lost_its_claim_does_not_change_the_row(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report_progress = course_state.report_progress

    def lose_claim(*args: object) -> bool:
        change_course(catalogue, course_id, embedding_run_id="another run")
        return report_progress(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(course_state, "report_progress", lose_claim)
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_run_id) == ("running", "another run")


@pytest.mark.parametrize(
    ("statuses", "chunks", "reason"),
    [
        pytest.param(("succeeded", "processing"), 3, "1 of 2 resources succeeded", id="ingestion unfinished"),
        pytest.param((), 3, "0 of 0 resources succeeded", id="no resources"),
        pytest.param(("succeeded",), 0, "has no chunks", id="no chunks"),
    ],
)
def test_a_course_that_cannot_be_embedded_is_failed_with_the_reason(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    course_id: str,
    statuses: tuple[str, ...],
    chunks: int,
    reason: str,
) -> None:
    write_course(catalogue, course_id, texts(course_id, chunks), statuses)
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert reason in (course.embedding_error or "")
    assert not has_collection(vector_store, course_id)


@pytest.mark.usefixtures("_course")
def test_a_run_that_cannot_decode_a_chunk_requests_no_other(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    with catalogue.begin() as connection:
        connection.execute(text("UPDATE chunk SET text = CAST(X'636166e9' AS TEXT)"))
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "text that cannot be decoded" in (course.embedding_error or "")
    assert course.embedding_requested_at is None


@pytest.mark.usefixtures("resources", "_course")
def test_a_run_that_cannot_reach_the_vector_store_requests_another(
    instance: dg.DagsterInstance, catalogue: Engine, course_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("orchestration.course_run.run.PATIENCE_SECONDS", 0.0)
    assert not materialize(instance, all_resources(), course_id).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "cannot be reached" in (course.embedding_error or "")
    assert course.embedding_requested_at is not None


@pytest.mark.usefixtures("resources")
def test_a_full_disk_of_the_vector_store_publishes_nothing(
    instance: dg.DagsterInstance, catalogue: Engine, tmp_path: Path, course_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, port = tmp_path / "chroma", free_port()
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr("orchestration.course_run.run.PATIENCE_SECONDS", 0.0)
    write_course(catalogue, course_id, texts(course_id))
    with chroma_process(directory, port) as (_, process):
        assert materialize(instance, all_resources(), course_id).success
        published = read_course(catalogue, course_id)
        write_course(catalogue, course_id, texts(course_id, EMBED_BATCH * 2))
        size = (directory / "chroma.sqlite3").stat().st_size
        process.rlimit(psutil.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))  # no file may grow
        assert not materialize(instance, all_resources(), course_id).success
    failed = read_course(catalogue, course_id)
    assert failed.embedding_status == EmbeddingStatus.FAILED
    assert "Chroma at" in (failed.embedding_error or "")
    assert failed.embedding_generation == published.embedding_generation
    assert failed.embedding_fingerprint == published.embedding_fingerprint
    with chroma_process(directory, port):
        assert materialize(instance, all_resources(), course_id).success
        with closing(VectorStore(VectorStoreSettings())) as store:
            assert store.open(course_id).count() == EMBED_BATCH * 2


@pytest.mark.usefixtures("_course")
@pytest.mark.parametrize("cancelled", [True, False])
def test_an_interrupted_run_requests_another_unless_it_was_cancelled(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
    cancelled: bool,
) -> None:
    def interrupt(*_: object) -> bool:
        [run] = instance.get_runs()
        if cancelled:
            instance.report_run_canceling(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(course_state, "report_progress", interrupt)
    with suppress(KeyboardInterrupt):
        materialize(instance, resources, course_id)
    course = read_course(catalogue, course_id)
    reason = "cancelled" if cancelled else "interrupted"
    assert (course.embedding_status, course.embedding_error) == ("failed", reason)
    assert (course.embedding_requested_at is None) == cancelled


@pytest.mark.usefixtures("_course")
def test_a_collection_with_a_wrong_count_is_not_published(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("embedding.vector_store.collections.CourseCollection.count", lambda _: 2)
    result = materialize(instance, resources, course_id)
    assert not result.success
    assert failed_checks(result) == [EVERY_CHUNK_IS_SEARCHABLE]
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
    assert "2 documents, but the course has 3 chunks" in (course.embedding_error or "")
    assert not result.get_asset_materialization_events()


@pytest.mark.usefixtures("resources", "_course")
def test_a_run_can_embed_with_an_embedding_service(
    instance: dg.DagsterInstance,
    catalogue: Engine,
    course_id: str,
    vector_store: VectorStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "missing"))
    with foreign_server() as server:
        monkeypatch.setenv("EMBEDDING_SERVICE_URL", server.url)
        assert metadata_of(materialize(instance, all_resources(), course_id))["device"] == "remote"
        signature = RemoteEmbedder(EmbeddingSettings()).signature
    assert vector_store.open(course_id).info.model_signature == signature
    assert not materialize(instance, all_resources(), course_id).success
    failed = read_course(catalogue, course_id)
    assert "cannot be reached" in (failed.embedding_error or "")
    assert failed.embedding_requested_at is not None, "the service may be reachable again later"

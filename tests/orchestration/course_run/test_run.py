"""A run of one course with a real catalogue, Chroma server and model: what it writes, and how it fails."""

import resource
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
import psutil
import pytest
from sqlalchemy import Engine, text

from cli.processes import free_port
from embedding.errors import EmbeddingError
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.indexing import EMBED_BATCH
from embedding.vector_store.server import VectorStoreSettings
from models import course_state
from models.database import DatabaseUnavailableError, Session
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from orchestration.course_status.endings import CANCELLED, INTERRUPTED
from orchestration.partitions import SNAPSHOT
from orchestration.run_config import PARENT_TAG
from orchestration.ui_metadata import CHECK_SPECS, EVERY_CHUNK_IS_SEARCHABLE
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from tests.orchestration.ticks import (
    Resources,
    all_resources,
    course_status_tick,
    create_run,
    fail_unfinished_runs,
    failed_checks,
    materialize,
    metadata_of,
    request_embedding,
    run_config,
    stage_one_tick,
)
from tests.support.courses import change_course, numbered_texts, read_course, write_course
from tests.support.published import ANY_GENERATION
from tests.support.servers.chroma import chroma_process, has_collection
from tests.support.servers.foreign_server import foreign_server

pytestmark = pytest.mark.integration


@pytest.fixture
def _course(catalogue: Engine, course_id: str) -> None:
    """Create an ingested course with three chunks."""
    write_course(catalogue, course_id, numbered_texts(course_id))


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
    before = numbered_texts(course_id, EMBED_BATCH + 10)
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
def test_another_model_embeds_every_chunk_again_and_writes_another_snapshot(
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
    assert metadata_of(result, SNAPSHOT)["kept"] is False, "it contains the vectors"
    assert vector_store.open(course_id).info.model_signature != before


@pytest.mark.usefixtures("_course")
def test_what_is_published_has_a_snapshot_before_its_collection_changes(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After an upgrade, its file may be of an older format, and the search app not yet have come to it."""
    materialize(instance, resources, course_id)
    published = CourseFingerprint.parse(read_course(catalogue, course_id).embedding_fingerprint)
    assert published is not None
    snapshots = SnapshotStore(SnapshotSettings())
    snapshots.delete(course_id)

    def index_course(*_: object, **__: object) -> None:
        raise EmbeddingError("the run ends here")

    monkeypatch.setattr("orchestration.course_run.run.index_course", index_course)
    monkeypatch.setenv("EMBEDDING_MAX_TOKENS", str(EmbeddingSettings().embedding_max_tokens - 1))
    for rebuild in (False, True):
        snapshots.delete(course_id)
        request_embedding(catalogue, course_id, rebuild=rebuild)
        assert not materialize(instance, all_resources(), course_id).success
        assert len(snapshots.open(course_id, published, ANY_GENERATION)) == 3
        assert snapshots.open(course_id, published, ANY_GENERATION).generation == 1


def test_a_run_after_a_dead_run_embeds_only_the_missing_chunks(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    """The row still shows the dead run, and the collection contains its first batch."""
    all_texts = numbered_texts(course_id, EMBED_BATCH * 2)
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
    write_course(catalogue, course_id, numbered_texts(course_id, chunks), statuses)
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert reason in (course.embedding_error or "")
    assert not has_collection(vector_store, course_id)


@pytest.mark.usefixtures("_course")
def test_a_run_that_cannot_decode_a_chunk_is_not_tried_again(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    with catalogue.begin() as connection:
        connection.execute(text("UPDATE chunk SET text = CAST(X'636166e9' AS TEXT)"))
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "text that cannot be decoded" in (course.embedding_error or "")
    assert course.embedding_retry_at is None


def unreachable_chroma(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")


def unreachable_embedding_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDDING_SERVICE_URL", f"http://127.0.0.1:{free_port()}")


def unavailable_catalogue(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise DatabaseUnavailableError("The database cannot be reached.")

    monkeypatch.setattr(course_state, "record_attempt", fail)


@pytest.mark.usefixtures("resources", "_course")
@pytest.mark.parametrize("fail", [unreachable_chroma, unreachable_embedding_service, unavailable_catalogue])
def test_a_temporary_failure_is_counted_and_tried_again_with_growing_pauses_and_lowest_priority(
    instance: dg.DagsterInstance,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[pytest.MonkeyPatch], None],
) -> None:
    [request] = stage_one_tick(instance).requests
    fail_unfinished_runs(instance)
    for attempts in (0, 1, len(course_state.RETRY_SECONDS)):
        change_course(catalogue, course_id, embedding_attempts=attempts)
        with monkeypatch.context() as patch:
            fail(patch)
            before = datetime.now(UTC)
            assert not materialize(instance, all_resources(), course_id, run_config=request.run_config).success
        course = read_course(catalogue, course_id)
        assert course.embedding_status == EmbeddingStatus.FAILED
        assert "cannot be reached" in (course.embedding_error or "")
        assert stage_one_tick(instance).launched == [], "not before the pause is over"
        if attempts == len(course_state.RETRY_SECONDS):
            break
        assert course.embedding_attempts == attempts + 1
        assert course.embedding_retry_at is not None
        assert course.embedding_retry_at >= before + timedelta(seconds=course_state.RETRY_SECONDS[attempts])
        change_course(catalogue, course_id, embedding_retry_at=before)
        [request] = stage_one_tick(instance).requests
        assert request.tags["dagster/priority"] == "-1"
        fail_unfinished_runs(instance)
    assert course.embedding_retry_at is None, "it was the last retry"


@pytest.mark.usefixtures("resources", "_course")
def test_an_embedding_service_that_does_not_answer_in_time_is_a_temporary_failure(
    instance: dg.DagsterInstance, catalogue: Engine, course_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with foreign_server() as server:
        monkeypatch.setenv("EMBEDDING_SERVICE_URL", server.url)
        [request] = stage_one_tick(instance).requests
        fail_unfinished_runs(instance)
        monkeypatch.setenv("EMBEDDING_SERVICE_TIMEOUT_SECONDS", "0.2")
        server.hangs = lambda texts: any("Copper" in text for text in texts)
        assert not materialize(instance, all_resources(), course_id, run_config=request.run_config).success
        server.hangs = lambda _: False
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "EMBEDDING_SERVICE_TIMEOUT_SECONDS" in (course.embedding_error or "")
    assert course.embedding_attempts == 1
    assert course.embedding_retry_at is not None


@pytest.mark.usefixtures("resources")
def test_a_full_disk_of_the_vector_store_publishes_nothing(
    instance: dg.DagsterInstance, catalogue: Engine, tmp_path: Path, course_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, port = tmp_path / "chroma", free_port()
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{port}")
    write_course(catalogue, course_id, numbered_texts(course_id))
    with chroma_process(directory, port) as (_, process):
        assert materialize(instance, all_resources(), course_id).success
        published = read_course(catalogue, course_id)
        write_course(catalogue, course_id, numbered_texts(course_id, EMBED_BATCH * 2))
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
def test_an_interrupted_run_is_continued_at_once_unless_it_was_cancelled(
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
    reason = CANCELLED if cancelled else INTERRUPTED
    assert (course.embedding_status, course.embedding_error) == ("failed", reason)
    assert (course.embedding_retry_at is None, course.embedding_attempts) == (cancelled, 0), "it is not counted"
    tick = stage_one_tick(instance)
    assert tick.launched == ([] if cancelled else [[course_id]])
    assert [request.tags["dagster/priority"] for request in tick.requests] == ([] if cancelled else ["0"])


def test_a_rebuild_that_is_killed_stays_a_rebuild(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next run deletes the collection again, whoever launches it."""
    write_course(catalogue, course_id, numbered_texts(course_id, EMBED_BATCH + 10))
    assert materialize(instance, resources, course_id).success
    published = read_course(catalogue, course_id).embedding_fingerprint
    report_progress = course_state.report_progress

    def kill(session: Session, course_id: str, run_id: str, progress: float) -> bool:
        if progress:
            raise KeyboardInterrupt
        return report_progress(session, course_id, run_id, progress)

    def leave_the_row(*_: object, **__: object) -> bool:
        return False

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(course_state, "report_progress", kill)
        patch.setattr(course_state, "fail_course", leave_the_row)
        materialize(instance, resources, course_id, run_config=run_config(rebuild=True))
    assert vector_store.open(course_id).count() == EMBED_BATCH, "the first batch was written"
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_rebuild) == ("running", True)
    assert course.embedding_fingerprint == published, "its snapshot is searched meanwhile"
    course_status_tick(instance)
    assert read_course(catalogue, course_id).embedding_rebuild
    assert metadata_of(materialize(instance, resources, course_id))["embedded"] == EMBED_BATCH + 10
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_rebuild) == ("done", False)
    assert metadata_of(materialize(instance, resources, course_id))["embedded"] == 0


@pytest.mark.usefixtures("_course")
@pytest.mark.parametrize("by", ["launchpad", "row"])
def test_a_rebuild_embeds_every_chunk_again(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str, by: str
) -> None:
    assert materialize(instance, resources, course_id).success
    if by == "row":
        request_embedding(catalogue, course_id, rebuild=True)
    result = materialize(instance, resources, course_id, run_config=run_config(rebuild=by == "launchpad"))
    assert metadata_of(result)["embedded"] == 3
    assert metadata_of(result, SNAPSHOT)["kept"] is False
    course = read_course(catalogue, course_id)
    assert (course.embedding_generation, course.embedding_rebuild) == (2, False)


@pytest.mark.usefixtures("_course")
def test_a_run_does_nothing_if_the_course_was_published_after_its_launch(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    """An operator who executes it again wants the course to be embedded."""
    [request] = stage_one_tick(instance).requests
    fail_unfinished_runs(instance)
    assert materialize(instance, resources, course_id).success
    late = materialize(instance, resources, course_id, run_config=request.run_config)
    assert late.success
    assert late.get_asset_materialization_events() == []
    again = {PARENT_TAG: late.run_id}
    assert materialize(instance, resources, course_id, again, run_config=request.run_config).success
    assert read_course(catalogue, course_id).embedding_generation == 2


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
    assert failed.embedding_retry_at is not None, "the service may be reachable again later"


@pytest.mark.parametrize("error", [GeneratorExit, BaseException], ids=["Dagster stopped the step", "panic"])
def test_what_is_neither_an_error_nor_a_signal_is_counted(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    """Otherwise a course whose text makes a library panic would be launched again without end."""
    write_course(catalogue, course_id, numbered_texts(course_id, 1))

    def fail(*_: object) -> bool:
        raise error

    monkeypatch.setattr(course_state, "report_progress", fail)
    with suppress(error):
        materialize(instance, resources, course_id)
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_attempts) == ("failed", 1)
    assert course.embedding_error not in (CANCELLED, INTERRUPTED)

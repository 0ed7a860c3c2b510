"""A run of the pipeline on real parts: what it writes, what it publishes, and how it fails."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import dagster as dg
import pytest
from sqlalchemy import Engine

from cli.processes import free_port
from embedding.loader import load_embedding_model
from embedding.model_settings import EmbeddingSettings
from embedding.service.remote_embedder import RemoteEmbedder
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.errors import CollectionNotFoundError
from embedding.vector_store.indexing import EMBED_BATCH
from models import course_state
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from orchestration.assets import course_chunks, course_collection
from orchestration.definitions import defs
from orchestration.partitions import COLLECTION, KEYWORD_INDEX, RANGE_END_TAG, RANGE_START_TAG, course_partitions
from orchestration.ui_metadata import CHECK_SPECS, EVERY_CHUNK_IS_SEARCHABLE, KEYWORD_INDEX_IS_COMPLETE
from retrieval.keywords.index import KeywordIndex, KeywordIndexBuilder
from retrieval.keywords.store import KeywordSettings, KeywordStore, directory_name
from tests.orchestration.conftest import all_resources
from tests.support.courses import change_course, read_course, write_course
from tests.support.foreign_server import foreign_server

pytestmark = pytest.mark.integration

Resources = dict[str, dg.ConfigurableResource[None]]


def materialize(
    instance: dg.DagsterInstance,
    resources: Resources,
    partition_key: str | None = None,
    tags: Mapping[str, str] | None = None,
    selection: Sequence[dg.AssetKey] | None = None,
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [course_chunks, course_collection],
        instance=instance,
        resources=resources,
        partition_key=partition_key,
        tags=tags,
        selection=selection,
        raise_on_error=False,
    )


def numbers(result: dg.ExecuteInProcessResult, asset: dg.AssetKey = COLLECTION) -> dict[str, object]:
    [event] = [event for event in result.get_asset_materialization_events() if event.asset_key == asset]
    return {name: value.value for name, value in event.materialization.metadata.items()}


def texts(course_id: str, count: int = 3) -> dict[str, str]:
    return {f"{course_id}/{number}": f"Copper of board number {number}" for number in range(count)}


def test_the_code_location_loads() -> None:
    dg.Definitions.validate_loadable(defs)
    assert defs.resolve_job_def("embed_course").partitions_def == course_partitions


def test_a_course_becomes_searchable(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    course_id: str,
) -> None:
    write_course(catalogue, course_id, texts(course_id))
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


def test_only_what_changed_is_embedded_again(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    course_id: str,
) -> None:
    before = texts(course_id, EMBED_BATCH + 10)
    write_course(catalogue, course_id, before)
    first = numbers(materialize(instance, resources, course_id))
    assert (first["embedded"], first["kept"], first["removed"]) == (EMBED_BATCH + 10, 0, 0)
    changed, gone, *_ = before
    after = {chunk_id: text for chunk_id, text in before.items() if chunk_id != gone}
    write_course(catalogue, course_id, {**after, changed: "Solder", f"{course_id}/new": "Flux"})
    second = numbers(materialize(instance, resources, course_id))
    assert (second["embedded"], second["kept"], second["removed"]) == (2, EMBED_BATCH + 8, 1)
    assert vector_store.open(course_id).count() == EMBED_BATCH + 10
    assert read_course(catalogue, course_id).embedding_generation == 2


def test_another_model_embeds_all_anew(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_course(catalogue, course_id, texts(course_id))
    materialize(instance, resources, course_id)
    before = vector_store.open(course_id).info.model_signature
    monkeypatch.setenv("EMBEDDING_MAX_TOKENS", str(EmbeddingSettings().embedding_max_tokens - 1))
    fresh = {name: type(resource)() for name, resource in resources.items()}
    result = materialize(instance, fresh, course_id)
    assert numbers(result)["embedded"] == 3
    assert numbers(result, KEYWORD_INDEX)["kept"] is True, "the terms are the same"
    assert vector_store.open(course_id).info.model_signature != before


def test_an_interrupted_run_is_taken_up_where_it_stopped(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    """The dead run's row still says `running`; its first page is in the collection."""
    all_texts = texts(course_id, EMBED_BATCH * 2)
    write_course(catalogue, course_id, dict(sorted(all_texts.items())[:EMBED_BATCH]))
    materialize(instance, resources, course_id)
    write_course(catalogue, course_id, all_texts)
    dead = instance.create_run_for_job(defs.resolve_job_def("embed_course"))
    instance.report_run_failed(dead)
    change_course(catalogue, course_id, embedding_status="running", embedding_run_id=dead.run_id)
    assert numbers(materialize(instance, resources, course_id))["embedded"] == EMBED_BATCH
    assert read_course(catalogue, course_id).embedding_status == EmbeddingStatus.DONE


def test_a_course_that_another_run_embeds_is_not_touched(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    write_course(catalogue, course_id, texts(course_id))
    other = instance.create_run_for_job(defs.resolve_job_def("embed_course"))
    change_course(catalogue, course_id, embedding_status="running", embedding_run_id=other.run_id)
    result = materialize(instance, resources, course_id)
    assert not result.success
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_run_id) == ("running", other.run_id)


def test_a_run_that_lost_its_course_stops_and_leaves_the_row_to_the_new_owner(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_course(catalogue, course_id, texts(course_id))
    report_progress = course_state.report_progress

    def lose_it_first(*args: object) -> bool:
        change_course(catalogue, course_id, embedding_run_id="another")
        return report_progress(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(course_state, "report_progress", lose_it_first)
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_run_id) == ("running", "another")


@pytest.mark.parametrize(
    ("statuses", "count", "reason"),
    [
        (("succeeded", "processing"), 3, "1 of 2 resources succeeded"),
        ((), 3, "0 of 0 resources succeeded"),
        (("succeeded",), 0, "has no chunks"),
    ],
)
def test_a_course_that_cannot_be_embedded_says_why(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    course_id: str,
    statuses: tuple[str, ...],
    count: int,
    reason: str,
) -> None:
    write_course(catalogue, course_id, texts(course_id, count), statuses)
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert reason in (course.embedding_error or "")
    with pytest.raises(CollectionNotFoundError):
        vector_store.open(course_id)


def test_a_run_without_the_vector_store_asks_for_another(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_course(catalogue, course_id, texts(course_id))
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr("orchestration.course_run.run.PATIENCE_SECONDS", 2.0)
    assert not materialize(instance, all_resources(), course_id).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == EmbeddingStatus.FAILED
    assert "cannot be reached" in (course.embedding_error or "")
    assert course.embedding_requested_at is not None


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_terminated_run_is_cancelled_or_taken_up_again(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
    cancelled: bool,
) -> None:
    """An operator's Terminate ends the matter; an interruption, as by a shutdown, does not."""
    write_course(catalogue, course_id, texts(course_id))

    def interrupt(*_: object) -> bool:
        [run] = instance.get_runs()
        if cancelled:
            instance.report_run_canceling(run)
        raise KeyboardInterrupt

    monkeypatch.setattr(course_state, "report_progress", interrupt)
    with suppress(KeyboardInterrupt):
        materialize(instance, resources, course_id)
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_error) == (
        "failed",
        "cancelled" if cancelled else "interrupted",
    )
    assert (course.embedding_requested_at is None) == cancelled


def test_a_wrong_count_is_never_published(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_course(catalogue, course_id, texts(course_id))
    monkeypatch.setattr("embedding.vector_store.collections.CourseCollection.count", lambda _: 2)
    result = materialize(instance, resources, course_id)
    assert not result.success
    assert [check.check_name for check in result.get_asset_check_evaluations() if not check.passed] == [
        EVERY_CHUNK_IS_SEARCHABLE
    ]
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
    assert "2 documents where the course has 3 chunks" in (course.embedding_error or "")
    assert not result.get_asset_materialization_events()


def test_one_bad_course_does_not_fail_the_others_of_its_run(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine
) -> None:
    names = [f"{uuid4()}" for _ in range(4)]
    instance.add_dynamic_partitions("courses", names)
    for name in names[:3]:
        write_course(catalogue, name, texts(name, 0 if name == names[1] else 2))
    result = materialize(instance, resources, tags={RANGE_START_TAG: names[0], RANGE_END_TAG: names[3]})
    assert not result.success
    assert [read_course(catalogue, name).embedding_status for name in names[:3]] == ["done", "failed", "done"]
    [failure] = [event for event in result.all_events if event.is_step_failure]
    error = failure.step_failure_data.error
    assert error is not None
    assert "2 of 4 courses failed" in error.message
    assert names[1] in error.message
    assert f"There is no course {names[3]}" in error.message
    materialized = instance.get_materialized_partitions(COLLECTION)
    assert materialized == {names[0], names[2]}


def test_a_service_may_have_the_model(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    vector_store: VectorStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_course(catalogue, course_id, texts(course_id))
    monkeypatch.setenv("EMBEDDING_MODEL_PATH", str(tmp_path / "nothing"))
    with foreign_server() as server:
        monkeypatch.setenv("EMBEDDING_SERVICE_URL", server.url)
        assert numbers(materialize(instance, all_resources(), course_id))["device"] == "remote"
        signature = RemoteEmbedder(EmbeddingSettings()).signature
    assert vector_store.open(course_id).info.model_signature == signature
    assert not materialize(instance, all_resources(), course_id).success
    failed = read_course(catalogue, course_id)
    assert "cannot be reached" in (failed.embedding_error or "")
    assert failed.embedding_requested_at is not None, "it goes on by itself when the service is back"


def test_the_model_is_loaded_once_a_run(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[EmbeddingSettings] = []

    def load(settings: EmbeddingSettings) -> object:
        loads.append(settings)
        return load_embedding_model(settings)

    monkeypatch.setattr("embedding.embedder.load_embedding_model", load)
    names = [f"{uuid4()}" for _ in range(3)]
    instance.add_dynamic_partitions("courses", names)
    for name in names:
        write_course(catalogue, name, texts(name))
    assert materialize(instance, resources, tags={RANGE_START_TAG: names[0], RANGE_END_TAG: names[2]}).success
    assert len(loads) == 1


class TestKeywords:
    """The keyword index is made, kept and replaced with the collection."""

    @pytest.fixture(autouse=True)
    def _written(self, catalogue: Engine, course_id: str) -> None:
        write_course(catalogue, course_id, texts(course_id))

    @staticmethod
    def files(course_id: str) -> dict[str, Path]:
        directory = KeywordSettings().keyword_index_dir / directory_name(course_id)
        return {path.name: path for path in directory.iterdir()}

    @staticmethod
    def published(catalogue: Engine, course_id: str) -> str:
        """The name of the file of the content that was published."""
        fingerprint = CourseFingerprint.parse(read_course(catalogue, course_id).embedding_fingerprint)
        assert fingerprint is not None
        return f"{fingerprint.content}.npz"

    @staticmethod
    def index(catalogue: Engine, course_id: str) -> KeywordIndex:
        name = TestKeywords.published(catalogue, course_id)
        return KeywordStore(KeywordSettings()).load(course_id, name.removesuffix(".npz"))

    def test_it_holds_the_chunks_that_were_published_and_is_kept_while_they_stay(
        self, instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
    ) -> None:
        first = materialize(instance, resources, course_id)
        index = self.index(catalogue, course_id)
        assert index.chunk_ids == tuple(sorted(texts(course_id)))
        assert list(index.scores({"number": 1, "2": 1}).argsort()) == [0, 1, 2]
        shown = numbers(first, KEYWORD_INDEX)
        assert {name: shown[name] for name in ("chunks", "terms", "bytes", "kept")} == {
            "chunks": 3,
            "terms": 6,
            "bytes": index.bytes,
            "kept": False,
        }
        [(_, file)] = self.files(course_id).items()
        before = file.stat()
        assert numbers(materialize(instance, resources, course_id), KEYWORD_INDEX)["kept"] is True
        assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def test_another_content_replaces_it_with_whatever_killed_writers_left(
        self, instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
    ) -> None:
        materialize(instance, resources, course_id)
        [(old, file)] = self.files(course_id).items()
        file.with_name(f".{old}.0123").write_bytes(b"half an index")
        write_course(catalogue, course_id, texts(course_id, 2))
        materialize(instance, resources, course_id)
        assert self.files(course_id).keys() == {self.published(catalogue, course_id)}
        assert old not in self.files(course_id)
        assert len(self.index(catalogue, course_id).chunk_ids) == 2

    @pytest.mark.parametrize(
        "damage",
        [
            pytest.param(Path.unlink, id="deleted"),
            pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-100]), id="cut short"),
            pytest.param(lambda file: KeywordIndexBuilder().build().save(file), id="of other chunks"),
        ],
    )
    def test_one_that_was_damaged_is_made_anew(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        damage: Callable[[Path], object],
    ) -> None:
        materialize(instance, resources, course_id)
        damage(*self.files(course_id).values())
        result = materialize(instance, resources, course_id)
        assert (numbers(result)["embedded"], numbers(result, KEYWORD_INDEX)["kept"]) == (0, False)
        assert len(self.index(catalogue, course_id).chunk_ids) == 3

    @pytest.mark.parametrize("selected", [COLLECTION, KEYWORD_INDEX], ids=str)
    def test_a_run_makes_both_whichever_was_selected(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        selected: dg.AssetKey,
    ) -> None:
        assert materialize(instance, resources, course_id, selection=[selected]).success
        assert read_course(catalogue, course_id).embedding_status == EmbeddingStatus.DONE
        assert len(self.index(catalogue, course_id).chunk_ids) == 3
        for asset in (COLLECTION, KEYWORD_INDEX):
            assert instance.get_materialized_partitions(asset) == {course_id}

    def test_a_course_whose_index_cannot_be_written_is_not_published(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "a file").touch()
        with monkeypatch.context() as patch:
            patch.setenv("KEYWORD_INDEX_DIR", str(tmp_path / "a file" / "keywords"))
            assert not materialize(instance, all_resources(), course_id).success
        course = read_course(catalogue, course_id)
        assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
        assert "cannot be written" in (course.embedding_error or "")
        assert "KEYWORD_INDEX_DIR" in (course.embedding_error or "")
        assert materialize(instance, resources, course_id).success

    def test_one_without_every_chunk_is_never_published(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(KeywordIndex, "load", lambda _: KeywordIndexBuilder().build())
        result = materialize(instance, resources, course_id)
        assert [check.check_name for check in result.get_asset_check_evaluations() if not check.passed] == [
            KEYWORD_INDEX_IS_COMPLETE
        ]
        course = read_course(catalogue, course_id)
        assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
        assert "holds 0 chunks where the course has 3" in (course.embedding_error or "")

    def test_until_another_is_published_the_old_one_stays(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        materialize(instance, resources, course_id)
        write_course(catalogue, course_id, texts(course_id, 2))
        monkeypatch.setattr(course_state, "publish", lambda *_: False)
        assert not materialize(instance, resources, course_id).success
        assert self.published(catalogue, course_id) in self.files(course_id)
        assert len(self.index(catalogue, course_id).chunk_ids) == 3

    def test_chunks_written_after_it_was_found_to_be_there_are_in_it(
        self,
        instance: dg.DagsterInstance,
        resources: Resources,
        catalogue: Engine,
        course_id: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        materialize(instance, resources, course_id)
        record_attempt = course_state.record_attempt

        def write_more(*arguments: object) -> bool:
            write_course(catalogue, course_id, texts(course_id) | {f"{course_id}/new": "Flux"})
            return record_attempt(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(course_state, "record_attempt", write_more)
        assert materialize(instance, resources, course_id).success
        index = self.index(catalogue, course_id)
        assert index.chunk_ids[index.scores({"flux": 1}).argmax()] == f"{course_id}/new"

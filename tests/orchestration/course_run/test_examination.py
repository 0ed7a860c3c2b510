"""The examination of a new generation in a run: it withholds a course that cannot be searched, and shows no text."""

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import dagster as dg
import numpy as np
import pytest
from sqlalchemy import Engine

from embedding.embedder import LocalEmbedder
from embedding.errors import EmbeddingServiceUnreachableError
from embedding.interface import Embeddings
from models.fingerprint import CourseFingerprint
from orchestration.course_run.examination import NOTE, VERSION
from orchestration.partitions import SNAPSHOT
from orchestration.ui_metadata import SEARCH_FINDS_ITS_OWN_PASSAGES
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore, directory_name
from tests.orchestration.ticks import Resources, all_resources, failed_checks, materialize, run_config
from tests.support.courses import read_course, write_course
from tests.support.published import ANY_GENERATION
from tests.support.word_courses import WORDS, prose

pytestmark = pytest.mark.integration

CHUNKS = 40


@pytest.fixture(autouse=True)
def _readable_course(catalogue: Engine, course_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ingested course that the model reads, so that its vectors are judged."""
    monkeypatch.setattr(LocalEmbedder, "legibility", lambda *_: 1.0)
    write_course(catalogue, course_id, {f"{course_id}/{number}": prose(number) for number in range(CHUNKS)})


def break_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every text gets the same vector."""

    def compute(embedder: LocalEmbedder, batch: Sequence[object], **_: object) -> np.ndarray[tuple[int, ...], np.dtype]:
        vectors = np.zeros((len(batch), embedder.dimensions), np.float32)
        vectors[:, 0] = 1
        return vectors

    monkeypatch.setattr(LocalEmbedder, "_compute", compute)


def check_of(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    checks = result.get_asset_check_evaluations()
    [check] = [check for check in checks if check.check_name == SEARCH_FINDS_ITS_OWN_PASSAGES]
    assert check.asset_key == SNAPSHOT
    return check


def figures(check: dg.AssetCheckEvaluation) -> dict[str, object]:
    return {name: value.value for name, value in check.metadata.items()}


def store() -> SnapshotStore:
    return SnapshotStore(SnapshotSettings())


def published_snapshot(catalogue: Engine, course_id: str) -> CourseSnapshot:
    published = CourseFingerprint.parse(read_course(catalogue, course_id).embedding_fingerprint)
    assert published is not None
    return store().open(course_id, published, ANY_GENERATION)


def test_a_course_that_works_passes_and_its_figures_are_numbers(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    result = materialize(instance, resources, course_id)
    assert result.success
    check = check_of(result)
    assert check.passed
    assert check.partition == course_id
    shown = figures(check)
    assert shown["keyword_found_sentence"] == 1.0
    assert shown["hybrid_found_typo"] in [found / 12 for found in range(7, 13)] or shown["hybrid_found_typo"]
    assert isinstance(shown["vector_found"], float)
    assert "vector_lost" not in shown
    again = check_of(materialize(instance, resources, course_id))
    assert (figures(again)["vector_lost"], figures(again)["hybrid_gained"]) == (0, 0)


def test_a_first_publication_by_a_broken_model_is_withheld(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    break_the_model(monkeypatch)
    result = materialize(instance, resources, course_id)
    assert not result.success
    check = check_of(result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
    assert course.embedding_error == (
        "By vector search, the course's own passages are not found: check the embedding model and its settings, then "
        f"run `course-search rebuild {course_id}`, or set EXAMINATION_BLOCKS=false to publish the course nevertheless"
    )
    assert course.embedding_retry_at is None
    assert list((SnapshotSettings().snapshot_dir / directory_name(course_id)).iterdir()) == []


def test_a_withheld_generation_leaves_the_last_one_searchable(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also if content and model are the same, so that only its file tells the generations apart."""
    assert materialize(instance, resources, course_id).success
    before = published_snapshot(catalogue, course_id)
    note = store().read_note(course_id, NOTE)
    with monkeypatch.context() as broken:
        break_the_model(broken)
        result = materialize(instance, resources, course_id, run_config=run_config(rebuild=True))
        assert failed_checks(result) == [SEARCH_FINDS_ITS_OWN_PASSAGES]
    assert read_course(catalogue, course_id).embedding_generation == 1
    after = published_snapshot(catalogue, course_id)
    vector = np.eye(1, before.cosines.size // CHUNKS, dtype=np.float32)[0]
    assert after.cosines.product(vector).tolist() == before.cosines.product(vector).tolist()
    assert store().read_note(course_id, NOTE) == note
    assert materialize(instance, resources, course_id, run_config=run_config(rebuild=True)).success


def test_a_kept_snapshot_that_is_published_is_not_deleted(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queries have become wrong, but the vectors of the chunks have not."""
    assert materialize(instance, resources, course_id).success
    break_the_model(monkeypatch)
    assert not materialize(instance, resources, course_id).success
    assert len(published_snapshot(catalogue, course_id)) == CHUNKS


def test_by_setting_a_broken_channel_is_only_a_warning(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("EXAMINATION_BLOCKS", "false")
    break_the_model(monkeypatch)
    result = materialize(instance, all_resources() | {"gpu": resources["gpu"]}, course_id)
    assert result.success
    check = check_of(result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert read_course(catalogue, course_id).embedding_status == "done"


def test_a_worse_generation_is_published_with_a_warning(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A third of the queries has become wrong."""
    assert materialize(instance, resources, course_id).success
    embed_queries = LocalEmbedder.embed_queries

    def embed(embedder: LocalEmbedder, texts: Sequence[str]) -> Embeddings:
        embedded = embed_queries(embedder, texts)
        embedded.vectors[::3] = -embedded.vectors[::3]
        return embedded

    monkeypatch.setattr(LocalEmbedder, "embed_queries", embed)
    result = materialize(instance, resources, course_id)
    assert result.success
    check = check_of(result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "vector search finds fewer than in the last generation" in (check.description or "")
    assert read_course(catalogue, course_id).embedding_generation == 2
    assert check_of(materialize(instance, resources, course_id)).passed, "it is compared with the last generation"


@pytest.mark.parametrize("note", ["", "null", "[]", '{"version": 0}', f'{{"version": {VERSION}, "found": 1}}'])
def test_an_unreadable_outcome_is_ignored(
    instance: dg.DagsterInstance, resources: Resources, course_id: str, note: str
) -> None:
    directory = SnapshotSettings().snapshot_dir / directory_name(course_id)
    directory.mkdir(parents=True)
    (directory / f"{NOTE}.json").write_text(note)
    assert check_of(materialize(instance, resources, course_id)).passed


def test_an_embedding_service_that_goes_away_before_the_questions_is_temporary(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> NoReturn:
        raise EmbeddingServiceUnreachableError("The embedding service does not answer")

    monkeypatch.setattr(LocalEmbedder, "embed_queries", fail)
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert course.embedding_status == "failed"
    assert course.embedding_retry_at is not None


def test_a_course_without_words_is_published(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    write_course(catalogue, course_id, {f"{course_id}/{number}": "?!" for number in range(3)})
    assert materialize(instance, resources, course_id).success


def test_a_deleted_course_leaves_no_outcome(instance: dg.DagsterInstance, resources: Resources, course_id: str) -> None:
    assert materialize(instance, resources, course_id).success
    store().delete(course_id)
    assert not (SnapshotSettings().snapshot_dir / directory_name(course_id)).exists()


def test_no_text_is_shown_or_kept(
    tmp_path: Path, instance: dg.DagsterInstance, resources: Resources, course_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither that of a question nor a title, also where chunks are missed."""
    monkeypatch.setenv("EXAMINATION_BLOCKS", "false")
    break_the_model(monkeypatch)
    result = materialize(instance, all_resources() | {"gpu": resources["gpu"]}, course_id)
    events = " ".join(str(entry) for entry in instance.all_logs(result.run_id))
    outcome = (SnapshotSettings().snapshot_dir / directory_name(course_id) / f"{NOTE}.json").read_text()
    told = {word for word in WORDS if len(word) > 8}
    assert not [word for word in told if word in events or word in outcome]

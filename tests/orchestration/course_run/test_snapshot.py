"""The snapshot of a course: written and verified before the publication, kept while the content is unchanged."""

import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from sqlalchemy import Engine

from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models import course_state
from models.database import Session
from models.fingerprint import CourseFingerprint
from orchestration.course_run.snapshot import write_snapshot
from orchestration.partitions import SNAPSHOT
from orchestration.ui_metadata import SNAPSHOT_IS_COMPLETE
from orchestration.workers import Worker
from retrieval.snapshots import store as snapshot_store
from retrieval.snapshots.file import write_arrays
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore, SnapshotStoreError, directory_name
from tests.orchestration.ticks import (
    Resources,
    all_resources,
    course_status_tick,
    failed_checks,
    materialize,
    metadata_of,
    run_config,
)
from tests.support.courses import numbered_texts, read_course, write_course
from tests.support.published import ANY_GENERATION
from tests.support.snapshots import build

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _course(catalogue: Engine, course_id: str) -> None:
    """Create an ingested course with three chunks."""
    write_course(catalogue, course_id, numbered_texts(course_id))


@pytest.fixture
def store() -> SnapshotStore:
    return SnapshotStore(SnapshotSettings())


def files(course_id: str) -> set[Path]:
    """All files in the directory of the course's snapshots, but for notes."""
    directory = SnapshotSettings().snapshot_dir / directory_name(course_id)
    return {path for path in directory.iterdir() if path.suffix != ".json"}


def published(catalogue: Engine, course_id: str) -> CourseFingerprint:
    fingerprint = CourseFingerprint.parse(read_course(catalogue, course_id).embedding_fingerprint)
    assert fingerprint is not None
    return fingerprint


def published_snapshot(catalogue: Engine, store: SnapshotStore, course_id: str) -> CourseSnapshot:
    """What a search reads. Asserts that its file is not damaged."""
    path = store.find(course_id, published(catalogue, course_id), ANY_GENERATION)
    assert path is not None
    assert not store.is_damaged(path)
    return store.open(course_id, published(catalogue, course_id), ANY_GENERATION)


@pytest.fixture
def files_at_publication(course_id: str, monkeypatch: pytest.MonkeyPatch) -> list[set[Path]]:
    """The files of the course just before each publication."""
    found: list[set[Path]] = []
    publish = course_state.publish

    def look_and_publish(*arguments: Any, **named: Any) -> bool:
        found.append(files(course_id))
        return publish(*arguments, **named)

    monkeypatch.setattr(course_state, "publish", look_and_publish)
    return found


def test_the_snapshot_is_written_before_the_publication_and_contains_the_collection(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    store: SnapshotStore,
    course_id: str,
    files_at_publication: list[set[Path]],
) -> None:
    metadata = metadata_of(materialize(instance, resources, course_id), SNAPSHOT)
    snapshot = published_snapshot(catalogue, store, course_id)
    assert list(snapshot.chunk_ids) == sorted(numbered_texts(course_id))
    assert list(snapshot.texts) == list(numbered_texts(course_id).values())
    collection = vector_store.open(course_id)
    assert snapshot.info == collection.info
    assert (snapshot.generation, snapshot.cosines.size) == (1, 3 * collection.dimensions())
    [file] = files(course_id)
    assert files_at_publication == [{file}]
    assert {name: metadata[name] for name in ("chunks", "terms", "bytes", "kept")} == {
        "chunks": 3,
        "terms": 9,  # two of them in the titles
        "bytes": file.stat().st_size,
        "kept": False,
    }


def test_an_unchanged_course_keeps_its_file_and_gets_a_new_generation(
    instance: dg.DagsterInstance, resources: Resources, catalogue: Engine, course_id: str
) -> None:
    materialize(instance, resources, course_id)
    [file] = files(course_id)
    before = file.stat()
    assert metadata_of(materialize(instance, resources, course_id), SNAPSHOT)["kept"] is True
    assert files(course_id) == {file}
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert read_course(catalogue, course_id).embedding_generation == 2


def test_the_superseded_file_and_those_of_killed_processes_are_deleted_after_the_publication(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    store: SnapshotStore,
    course_id: str,
    files_at_publication: list[set[Path]],
) -> None:
    materialize(instance, resources, course_id)
    [old] = files(course_id)
    old.with_name(f".{'0' * 32}.tmp").write_bytes(b"incomplete snapshot of a killed process")
    write_course(catalogue, course_id, numbered_texts(course_id, 2))
    materialize(instance, resources, course_id)
    [new] = files(course_id)
    assert new != old
    assert files_at_publication[1] >= {old, new}
    assert len(published_snapshot(catalogue, store, course_id)) == 2


def test_a_rebuild_writes_another_file_and_keeps_the_old_one_until_its_publication(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    store: SnapshotStore,
    course_id: str,
    files_at_publication: list[set[Path]],
) -> None:
    """The content is the same, but the vectors may not be."""
    materialize(instance, resources, course_id)
    [old] = files(course_id)
    materialize(instance, resources, course_id, run_config=run_config(rebuild=True))
    [new] = files(course_id)
    assert new != old
    assert files_at_publication[1] == {old, new}
    assert published_snapshot(catalogue, store, course_id).generation == 2


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def replace_by_another(file: Path) -> None:
    """Write the snapshot of another course under the name of this one."""
    store = SnapshotStore(SnapshotSettings())
    built = build({"1": "text"}, course_id="another")
    store.save("another", built)
    path = store.find("another", built.fingerprint, ANY_GENERATION)
    assert path is not None
    path.replace(file)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(Path.unlink, id="deleted"),
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-100]), id="truncated"),
        pytest.param(flip_a_byte, id="one byte"),
        pytest.param(replace_by_another, id="another course"),
    ],
)
def test_a_damaged_file_is_replaced_although_the_course_is_unchanged(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    store: SnapshotStore,
    course_id: str,
    damage: Callable[[Path], object],
) -> None:
    materialize(instance, resources, course_id)
    damage(*files(course_id))
    result = materialize(instance, resources, course_id)
    assert metadata_of(result)["embedded"] == 0
    can_be_opened = damage is flip_a_byte
    assert metadata_of(result, SNAPSHOT)["kept"] is not can_be_opened, "otherwise it is written before all else"
    assert len(published_snapshot(catalogue, store, course_id)) == 3
    assert len(files(course_id)) == 1


@pytest.fixture
def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a few bytes of a snapshot can be written."""

    def write(*arguments: Any) -> str:
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            return write_arrays(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    monkeypatch.setattr(snapshot_store, "write_arrays", write)


def test_a_full_disk_fails_the_course_and_keeps_the_last_generation(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    store: SnapshotStore,
    course_id: str,
    request: pytest.FixtureRequest,
) -> None:
    materialize(instance, resources, course_id)
    before = files(course_id)
    write_course(catalogue, course_id, numbered_texts(course_id, 2))
    request.getfixturevalue("full_disk")
    assert not materialize(instance, resources, course_id).success
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_generation) == ("failed", 1)
    assert "Check the free disk space and the write permission of SNAPSHOT_DIR" in (course.embedding_error or "")
    assert files(course_id) == before
    assert len(published_snapshot(catalogue, store, course_id)) == 3


def test_a_course_is_not_published_if_its_directory_cannot_be_made(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a file").touch()
    with monkeypatch.context() as patch:
        patch.setenv("SNAPSHOT_DIR", str(tmp_path / "a file" / "snapshots"))
        assert not materialize(instance, all_resources(), course_id).success
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
    assert "cannot be written" in (course.embedding_error or "")
    assert materialize(instance, resources, course_id).success


def test_a_course_is_not_published_if_its_collection_changed_after_the_check(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents = CourseCollection.contents

    def without_the_first(collection: CourseCollection) -> Iterator[tuple[list[Record], Vectors]]:
        for records, vectors in contents(collection):
            yield records[1:], vectors[1:]

    monkeypatch.setattr(CourseCollection, "contents", without_the_first)
    assert failed_checks(materialize(instance, resources, course_id)) == [SNAPSHOT_IS_COMPLETE]
    course = read_course(catalogue, course_id)
    assert (course.embedding_status, course.embedding_generation) == ("failed", 0)
    assert "contains 2 chunks, which are not the 3 of the course" in (course.embedding_error or "")


def test_a_course_is_not_published_if_its_file_is_damaged_while_it_is_written(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    save = SnapshotStore.save

    def save_damaged(store: SnapshotStore, *arguments: Any) -> None:
        save(store, *arguments)
        flip_a_byte(*files(course_id))

    monkeypatch.setattr(SnapshotStore, "save", save_damaged)
    assert failed_checks(materialize(instance, resources, course_id)) == [SNAPSHOT_IS_COMPLETE]
    assert read_course(catalogue, course_id).embedding_generation == 0


def test_a_run_that_dies_before_its_publication_leaves_the_last_generation_and_the_next_one_continues(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    store: SnapshotStore,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    materialize(instance, resources, course_id)
    [old] = files(course_id)
    write_course(catalogue, course_id, numbered_texts(course_id, 2))

    def die(*_: object, **__: object) -> bool:
        raise KeyboardInterrupt

    def leave_the_row(*_: object, **__: object) -> bool:
        return False

    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(course_state, "publish", die)
        patch.setattr(course_state, "fail_course", leave_the_row)
        materialize(instance, resources, course_id)
    assert read_course(catalogue, course_id).embedding_status == "running"
    assert len(files(course_id)) == 2
    assert old in files(course_id)
    assert len(published_snapshot(catalogue, store, course_id)) == 3
    course_status_tick(instance)
    assert metadata_of(materialize(instance, resources, course_id), SNAPSHOT)["kept"] is True
    assert (len(files(course_id)), old in files(course_id)) == (1, False)
    assert len(published_snapshot(catalogue, store, course_id)) == 2


def test_an_old_file_that_cannot_be_deleted_does_not_fail_the_course(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    store: SnapshotStore,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    materialize(instance, resources, course_id)
    write_course(catalogue, course_id, numbered_texts(course_id, 2))

    def fail(*_: object) -> None:
        raise SnapshotStoreError("A snapshot cannot be deleted")

    with monkeypatch.context() as patch:
        patch.setattr(SnapshotStore, "keep_only", fail)
        assert materialize(instance, resources, course_id).success
    assert len(files(course_id)) == 2
    assert len(published_snapshot(catalogue, store, course_id)) == 2
    assert materialize(instance, resources, course_id).success
    assert len(files(course_id)) == 1


def test_chunks_written_after_the_content_was_recorded_are_in_the_snapshot(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    store: SnapshotStore,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    materialize(instance, resources, course_id)
    record_attempt = course_state.record_attempt

    def write_another_chunk(session: Session, course: str, run_id: str, fingerprint: str) -> bool:
        write_course(catalogue, course_id, numbered_texts(course_id) | {f"{course_id}/new": "Flux"})
        return record_attempt(session, course, run_id, fingerprint)

    monkeypatch.setattr(course_state, "record_attempt", write_another_chunk)
    assert materialize(instance, resources, course_id).success
    assert f"{course_id}/new" in published_snapshot(catalogue, store, course_id).chunk_ids


def test_the_worker_shows_a_sign_of_life_after_each_page_of_the_collection(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    course_id: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A worker without a sign of life is killed, and a large collection has a hundred pages."""
    beats: list[int] = []
    beats_before_page: list[int] = []
    contents = CourseCollection.contents

    def small_pages(collection: CourseCollection) -> Iterator[tuple[list[Record], Vectors]]:
        for page in contents(collection, page_size=1):
            beats_before_page.append(len(beats))
            yield page

    monkeypatch.setattr(Worker, "beat", lambda _: beats.append(1))
    monkeypatch.setattr(CourseCollection, "contents", small_pages)
    assert materialize(instance, resources, course_id).success
    assert len(beats_before_page) == len(set(beats_before_page)) == 3
    assert len(beats) > beats_before_page[-1]


def test_two_runs_can_write_the_same_snapshot(
    instance: dg.DagsterInstance,
    resources: Resources,
    catalogue: Engine,
    vector_store: VectorStore,
    store: SnapshotStore,
    course_id: str,
) -> None:
    """A run that has lost its claim writes the file before it notices."""
    materialize(instance, resources, course_id)
    content, collection = published(catalogue, course_id), vector_store.open(course_id)
    for generation in (2, 2, 3):
        report = write_snapshot(
            store, course_id, content, collection, generation=generation, keep=False, on_page=lambda: None
        )
        assert (report.complete, report.stored) == (True, 3)
    store.keep_only(course_id, content, ANY_GENERATION)
    assert published_snapshot(catalogue, store, course_id).generation == 3

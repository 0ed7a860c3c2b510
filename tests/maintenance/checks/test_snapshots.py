"""The check of the snapshots, and their repair."""

from collections.abc import Callable
from pathlib import Path

import pytest

from embedding.model_files.model_directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from maintenance.checks.all_checks import repair
from maintenance.ownership import SMALL_REMOVAL
from models.fingerprint import CourseFingerprint
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore, directory_name
from tests.maintenance.checks.installation import (
    add_published_course,
    chroma_collection,
    doctor,
    find_warning,
    on_sqlite,
    published_content,
)
from tests.support.catalogue import Catalogue
from tests.support.courses import read_course
from tests.support.published import ANY_GENERATION, publish_row
from tests.support.snapshots import build

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("intact_course")]


@pytest.fixture
def snapshots() -> SnapshotStore:
    return SnapshotStore(SnapshotSettings())


def save_orphan(snapshots: SnapshotStore, course_id: str) -> None:
    snapshots.save(course_id, build({"1": "text"}, course_id=course_id))


def file_of(catalogue: Catalogue, snapshots: SnapshotStore, course_id: str) -> Path:
    path = snapshots.find(course_id, published_content(catalogue, course_id), ANY_GENERATION)
    assert path is not None
    return path


def flip_a_byte(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


@on_sqlite
@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        pytest.param(Path.unlink, "There is no snapshot", id="missing"),
        pytest.param(lambda file: file.write_bytes(b""), "cannot be read", id="empty"),
        pytest.param(lambda file: file.write_bytes(file.read_bytes()[:-1]), "cannot be read", id="truncated"),
        pytest.param(flip_a_byte, "is damaged", id="one byte"),
    ],
)
def test_unusable_snapshot_is_built_from_the_collection(
    catalogue: Catalogue, store: VectorStore, snapshots: SnapshotStore, damage: Callable[[Path], object], fault: str
) -> None:
    add_published_course(catalogue, store, "bare", 3)
    damage(file_of(catalogue, snapshots, "bare"))
    finding = doctor().of("snapshots", "warning")
    assert finding["subjects"] == ["bare"]
    assert fault in finding["message"]
    assert "The search app builds it" in finding["advice"]
    assert not finding["repairs"], "nothing is changed without --repair"
    assert doctor("--repair").of("snapshots", "warning")["repairs"] == ["bare: built from its collection"]
    assert list(snapshots.open("bare", published_content(catalogue, "bare"), ANY_GENERATION).chunk_ids) == [
        "0",
        "1",
        "2",
    ]
    assert not snapshots.is_damaged(file_of(catalogue, snapshots, "bare"))
    assert doctor().problems == []
    assert read_course(catalogue.engine, "bare").embedding_status == "done", "no embedding is needed"


@on_sqlite
def test_snapshot_of_unpublished_chunks_is_not_built(
    catalogue: Catalogue, store: VectorStore, snapshots: SnapshotStore
) -> None:
    collection = add_published_course(catalogue, store, "odd")
    file_of(catalogue, snapshots, "odd").unlink()
    finding = find_warning("snapshots")
    chroma_collection(store, collection).update(["1"], metadatas=[{"content_hash": "another"}])
    assert "odd could not be repaired" in repair(finding).repairs[0]
    assert snapshots.find("odd", published_content(catalogue, "odd"), ANY_GENERATION) is None


def test_course_embedded_during_the_check_is_not_reported(
    catalogue: Catalogue, store: VectorStore, snapshots: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_of(catalogue, snapshots, "intact").unlink()
    open_snapshot = SnapshotStore.open

    def open_after_publication(
        store: SnapshotStore, course_id: str, content: CourseFingerprint, generation: int
    ) -> CourseSnapshot:
        publish_row(catalogue.engine, "intact", 2, model_signature(EmbeddingSettings()))
        return open_snapshot(store, course_id, content, generation)

    monkeypatch.setattr(SnapshotStore, "open", open_after_publication)
    assert doctor().problems == []


def test_repair_deletes_snapshots_without_a_course(
    catalogue: Catalogue, store: VectorStore, snapshots: SnapshotStore
) -> None:
    for course_id in ("gone", "x" * 600):
        save_orphan(snapshots, course_id)
    finding = doctor().of("snapshots", "warning")
    assert set(finding["subjects"]) == {directory_name("gone"), directory_name("x" * 600)}
    assert len(snapshots.directories()) == 3, "nothing is changed without --repair"
    assert "course_gone deleted" in doctor("--repair").of("snapshots", "warning")["repairs"]
    assert snapshots.directories() == ["course_intact"]


@on_sqlite
def test_repair_deletes_what_a_killed_process_wrote_for_a_course_without_snapshot(
    catalogue: Catalogue, store: VectorStore, snapshots: SnapshotStore
) -> None:
    """It contains texts. A directory of another program is kept."""
    directories = {name: SnapshotSettings().snapshot_dir / name for name in ("course_gone", "course_materials")}
    for directory in directories.values():
        directory.mkdir()
    (directories["course_gone"] / f".{'0' * 32}.tmp").write_bytes(b"incomplete snapshot")
    (directories["course_materials"] / "slides.pdf").write_bytes(b"a file of another program")
    assert doctor("--repair").of("snapshots", "warning")["repairs"] == ["course_gone deleted"]
    assert [directory.exists() for directory in directories.values()] == [False, True]


@on_sqlite
def test_course_added_before_the_repair_keeps_its_snapshot(
    catalogue: Catalogue, store: VectorStore, snapshots: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_orphan(snapshots, "back")
    finding = find_warning("snapshots")
    catalogue.add_course("back")
    assert repair(finding).repairs == ["course_back kept: its course is in the catalogue now"]
    assert "course_back" in snapshots.directories()


@on_sqlite
def test_nothing_is_deleted_if_more_would_be_deleted_than_remain(
    catalogue: Catalogue, store: VectorStore, snapshots: SnapshotStore
) -> None:
    names = [f"gone-{number}" for number in range(SMALL_REMOVAL + 1)]
    for name in names:
        save_orphan(snapshots, name)
    finding = doctor("--repair").of("snapshots", "warning")
    assert "only 1 would remain" in finding["advice"]
    assert finding["repairs"] == []
    assert set(map(directory_name, names)) < set(snapshots.directories())


def test_nothing_is_deleted_if_no_course_matches(
    catalogue: Catalogue, store: VectorStore, snapshots: SnapshotStore
) -> None:
    snapshots.delete("intact")
    save_orphan(snapshots, "physics")
    [finding] = [finding for finding in doctor("--repair") if "course_physics" in finding["subjects"]]
    assert "DATABASE_URL" in finding["advice"]
    assert finding["repairs"] == []
    assert "course_physics" in snapshots.directories()

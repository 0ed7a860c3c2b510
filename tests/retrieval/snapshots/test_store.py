"""The files of snapshots: saving, opening, verifying and deleting, also beside other processes."""

import logging
import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import save_file

from models.fingerprint import CourseFingerprint
from retrieval import cosines
from retrieval.filters import parse_filter
from retrieval.search import SearchOptions, search_snapshot
from retrieval.snapshots import file as file_module
from retrieval.snapshots import store as store_module
from retrieval.snapshots.build import BuiltSnapshot
from retrieval.snapshots.file import file_digest, write_arrays
from retrieval.snapshots.store import (
    LONGEST_NAME,
    SnapshotError,
    SnapshotSettings,
    SnapshotStore,
    SnapshotStoreError,
    directory_name,
)
from tests.support.published import ANY_GENERATION
from tests.support.snapshots import build, fingerprint, query

UNUSUAL_IDS = ("1", "a/b", "..", "课程", "x" * 300, "/" * 80, "x" * 600, "a\0b", "A", "a", ".", "a b\n", "%2F")
"""Course ids; the long ones exceed the maximum length of a directory name, or even of a collection name."""
OLD_TEXTS, NEW_TEXTS = {"1": "copper"}, {"1": "copper", "2": "solder"}
OLD, NEW = build(OLD_TEXTS), build(NEW_TEXTS)


def files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def path_of(store: SnapshotStore, course_id: str = "1", published: CourseFingerprint = OLD.fingerprint) -> Path:
    path = store.find(course_id, published, ANY_GENERATION)
    assert path is not None
    return path


def make_older(path: Path, seconds: int = 100) -> None:
    """Set the time of a file back, because two files may be written within the resolution of the clock."""
    written = path.stat().st_mtime - seconds
    os.utime(path, (written, written))


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("course_id", UNUSUAL_IDS, ids=lambda name: repr(name)[:20])
def test_saved_snapshot_is_opened_for_any_course_id(store: SnapshotStore, root: Path, course_id: str) -> None:
    store.save(course_id, OLD)
    store.save("another", NEW)
    snapshot = store.open(course_id, OLD.fingerprint, ANY_GENERATION)
    assert (snapshot.info.course_id, snapshot.info.model_name, snapshot.generation) == (course_id, "model", 1)
    assert list(snapshot.texts) == ["copper"]
    assert directory_name(course_id) in store.directories()
    assert {path.split("/")[0] for path in files(root)} == {directory_name(name) for name in (course_id, "another")}
    store.delete(course_id)
    assert store.directories() == ["course_another"]
    assert store.find(course_id, OLD.fingerprint, ANY_GENERATION) is None


def test_directory_names_are_unique() -> None:
    assert len({directory_name(course_id) for course_id in UNUSUAL_IDS}) == len(UNUSUAL_IDS)


def test_directory_name_is_hashed_only_if_too_long() -> None:
    longest = "x" * (LONGEST_NAME - len("course_"))
    assert directory_name(longest) == f"course_{longest}"
    assert directory_name(f"{longest}x").startswith("course_.h")


def test_name_of_a_file_contains_its_digest(store: SnapshotStore) -> None:
    store.save("1", OLD)
    path = path_of(store)
    assert path.name.split(".")[1:] == [file_digest(path), "safetensors"]
    assert not store.is_damaged(path)


def test_each_content_has_a_separate_file(store: SnapshotStore) -> None:
    store.save("1", OLD)
    before = path_of(store).read_bytes()
    store.save("1", NEW)
    assert path_of(store).read_bytes() == before
    assert [len(store.open("1", built.fingerprint, ANY_GENERATION)) for built in (OLD, NEW)] == [1, 2]


def test_each_model_has_a_separate_file(store: SnapshotStore) -> None:
    store.save("1", OLD)
    with pytest.raises(SnapshotError, match="There is no snapshot"):
        store.open("1", replace(OLD.fingerprint, model="another"), ANY_GENERATION)


@pytest.mark.parametrize("constant", ["_FORMAT", "ANALYSIS_VERSION"])
def test_file_of_another_version_is_not_opened_but_may_be_superseded(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, constant: str
) -> None:
    store.save("1", OLD)
    monkeypatch.setattr(store_module, constant, 99)
    with pytest.raises(SnapshotError, match="There is no snapshot"):
        store.open("1", OLD.fingerprint, ANY_GENERATION)
    store.save("1", OLD)
    store.keep_only("1", OLD.fingerprint, ANY_GENERATION)
    monkeypatch.undo()
    assert store.find("1", OLD.fingerprint, ANY_GENERATION) is None


@pytest.mark.parametrize(("constant", "answers"), [("_FORMAT", False), ("ANALYSIS_VERSION", True)])
def test_older_file_answers_after_a_change_of_the_analyser_but_not_of_the_format(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, constant: str, *, answers: bool
) -> None:
    """Arrays of another format may have the same names and mean something else."""
    store.save("1", OLD)
    monkeypatch.setattr(store_module, constant, 99)
    assert (store.open_latest("1", 9) is not None) == answers


def test_snapshot_that_is_saved_twice_is_one_file(store: SnapshotStore, root: Path) -> None:
    """A run and an app may both write it."""
    store.save("1", OLD)
    opened = store.open("1", OLD.fingerprint, ANY_GENERATION)
    store.save("1", OLD)
    assert len(files(root)) == 1
    assert list(opened.texts) == ["copper"]


def test_missing_snapshot_is_an_error(store: SnapshotStore) -> None:
    with pytest.raises(SnapshotError, match=r"There is no snapshot in .*course_1"):
        store.open("1", OLD.fingerprint, ANY_GENERATION)
    assert store.open_latest("1", 9) is None


def test_latest_snapshot_is_the_newest_that_can_be_opened(
    store: SnapshotStore, caplog: pytest.LogCaptureFixture
) -> None:
    store.save("1", OLD)
    make_older(path_of(store))
    store.save("1", replace(NEW, generation=2))
    newest = store.open_latest("1", 9)
    assert newest is not None
    assert (len(newest), newest.generation) == (2, 2)
    published = store.open_latest("1", 1)
    assert published is not None
    assert published.generation == 1, "a run has not published the other one yet"
    path = path_of(store, published=NEW.fingerprint)
    path.write_bytes(path.read_bytes()[:-1])
    older = store.open_latest("1", 9)
    assert older is not None
    assert (len(older), older.generation) == (1, 1)


class TestUnusableFiles:
    """Noticed when the file is opened, or by its digest."""

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.9, 0.9999])
    def test_truncated_file(self, store: SnapshotStore, share: float) -> None:
        store.save("1", OLD)
        path = path_of(store)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
        with pytest.raises(SnapshotError, match="is not a snapshot of this version"):
            store.open("1", OLD.fingerprint, ANY_GENERATION)
        assert store.open_latest("1", 9) is None
        assert store.is_damaged(path)
        store.save("1", OLD)
        assert len(store.open("1", OLD.fingerprint, ANY_GENERATION)) == 1

    def test_foreign_file(self, store: SnapshotStore) -> None:
        store.save("1", OLD)
        path = path_of(store)
        foreign: list[dict[str, NDArray[Any]]] = [
            {"a": np.zeros(3)},
            {"a": np.zeros(3, np.int8)},
            {"origin.data": np.zeros(3, np.uint8), "origin.starts": np.arange(4)},
        ]
        for arrays in foreign:
            save_file(arrays, path)
            with pytest.raises(SnapshotError, match="is not a snapshot of this version"):
                store.open("1", OLD.fingerprint, ANY_GENERATION)

    def test_file_without_some_array(self, store: SnapshotStore) -> None:
        for name in OLD.arrays:
            arrays = {other: array for other, array in OLD.arrays.items() if other != name}
            store.save("1", replace(OLD, arrays=arrays))
            with pytest.raises(SnapshotError, match="is not a snapshot of this version"):
                store.open("1", OLD.fingerprint, ANY_GENERATION)
            store.delete("1")

    def test_file_of_another_course_or_content(self, store: SnapshotStore) -> None:
        store.save("1", OLD)
        store.save("1", NEW)
        store.save("2", OLD)
        path = path_of(store)
        for other in (path_of(store, "1", NEW.fingerprint), path_of(store, "2")):
            path.write_bytes(other.read_bytes())
            with pytest.raises(SnapshotError, match=r"is of course [12] or of another content"):
                store.open("1", OLD.fingerprint, ANY_GENERATION)

    def test_directory_with_the_name_of_a_file(self, store: SnapshotStore) -> None:
        store.save("1", OLD)
        path = path_of(store)
        path.unlink()
        path.mkdir()
        with pytest.raises(SnapshotError, match="is not a snapshot of this version"):
            store.open("1", OLD.fingerprint, ANY_GENERATION)

    @settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 2**32))
    def test_damaged_file(self, store: SnapshotStore, seed: int) -> None:
        """It is rejected or opened, and its digest reveals it; a search in it is never a crash of the process."""
        built = build({f"{number:02}": f"copper {number}" for number in range(20)}, metadata={"03": {"section_id": 1}})
        store.delete("1")
        store.save("1", built)
        path = path_of(store, published=built.fingerprint)
        rng, content = random.Random(seed), bytearray(path.read_bytes())
        header = 8 + int.from_bytes(content[:8], "little")
        for _ in range(rng.randint(1, 4)):
            place = rng.randrange(header if rng.random() < 0.7 else len(content))
            content[place] = rng.choice([rng.randrange(256), *b'0123456789[]{},":FIU8'])
        is_changed = bytes(content) != path.read_bytes()
        path.write_bytes(content)
        assert store.is_damaged(path) == is_changed
        try:
            snapshot = store.open("1", built.fingerprint, ANY_GENERATION)
        except SnapshotError:
            return
        with np.errstate(all="ignore"), pytest.MonkeyPatch.context() as patch:
            patch.setattr(cosines, "CODES_FROM", rng.choice([0, cosines.CODES_FROM]))
            try:
                search_snapshot(
                    snapshot, [query("copper 7")], SearchOptions(filters=parse_filter({"section_id": ["1"]})), 5
                )
                search_snapshot(snapshot, [query("copper 7")], SearchOptions(), 5)
            except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeWarning):
                assert is_changed


def test_damaged_file_is_deleted_after_it_was_opened(
    store: SnapshotStore, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store.save("1", OLD)
    store.save("2", OLD)
    damage(path_of(store))
    assert not store.delete_damaged(), "no file was opened"
    damaged = store.open("1", OLD.fingerprint, ANY_GENERATION)
    store.open("2", OLD.fingerprint, ANY_GENERATION)
    caplog.set_level(logging.ERROR)
    assert store.delete_damaged()
    assert "course_1" in caplog.text
    assert "was damaged: it is deleted, and built again" in caplog.text
    assert {path.split("/")[0] for path in files(root)} == {"course_2"}
    assert not store.delete_damaged()
    assert len(damaged) == 1, "it is still mapped"


def test_file_is_verified_once_and_again_after_it_was_damaged(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []

    def digest(path: Path) -> str:
        read.append(path)
        return file_digest(path)

    monkeypatch.setattr(store_module, "file_digest", digest)
    for _ in range(2):
        store.save("1", OLD)
        damage(path_of(store))
        store.open("1", OLD.fingerprint, ANY_GENERATION)
        assert store.delete_damaged()
    assert len(read) == 2
    store.save("1", OLD)
    for _ in range(2):
        store.open("1", OLD.fingerprint, ANY_GENERATION)
        assert not store.delete_damaged()
    assert len(read) == 3


def test_file_that_was_deleted_meanwhile_is_not_damaged(store: SnapshotStore) -> None:
    store.save("1", OLD)
    path = path_of(store)
    store.open("1", OLD.fingerprint, ANY_GENERATION)
    store.delete("1")
    assert not store.is_damaged(path)
    assert not store.delete_damaged()


def test_file_that_cannot_be_verified_is_an_error(store: SnapshotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("1", OLD)
    store.open("1", OLD.fingerprint, ANY_GENERATION)

    def fail(_: Path) -> str:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(store_module, "file_digest", fail)
    with pytest.raises(SnapshotStoreError, match="cannot be verified: Permission denied"):
        store.delete_damaged()


def test_keep_only_deletes_other_snapshots_and_temporary_files(store: SnapshotStore, root: Path) -> None:
    """Other courses and foreign files are kept."""
    for course_id, built in (("1", OLD), ("1", NEW), ("2", OLD)):
        store.save(course_id, built)
    for leftover in (f".{'0a' * 16}.tmp", ".tmpoxKQ6o"):
        (root / "course_1" / leftover).touch()
    (root / "course_1" / "notes.txt").touch()
    kept, other = path_of(store, "1", NEW.fingerprint), path_of(store, "2")
    opened = store.open("1", OLD.fingerprint, ANY_GENERATION)
    store.keep_only("1", NEW.fingerprint, ANY_GENERATION)
    assert files(root) == {str(path.relative_to(root)) for path in (kept, other, root / "course_1" / "notes.txt")}
    assert list(opened.texts) == ["copper"], "a deleted file can still be read"
    store.keep_only("unknown", NEW.fingerprint, ANY_GENERATION)


def test_keep_only_deletes_nothing_if_there_is_no_such_snapshot(store: SnapshotStore, root: Path) -> None:
    store.save("1", OLD)
    store.keep_only("1", NEW.fingerprint, ANY_GENERATION)
    assert len(files(root)) == 1


def test_keep_only_may_keep_newer_snapshots(store: SnapshotStore) -> None:
    """A run has written one that it has not published yet."""
    oldest = build({"0": "drill"})
    for age, built in ((200, oldest), (100, OLD), (0, NEW)):
        store.save("1", built)
        make_older(path_of(store, "1", built.fingerprint), age)
    store.keep_only("1", OLD.fingerprint, ANY_GENERATION, keep_newer=True)
    found = [store.find("1", built.fingerprint, ANY_GENERATION) is not None for built in (oldest, OLD, NEW)]
    assert found == [False, True, True]
    store.keep_only("1", OLD.fingerprint, ANY_GENERATION)
    assert store.find("1", NEW.fingerprint, ANY_GENERATION) is None


def test_file_of_a_generation_that_is_not_published_is_neither_opened_nor_kept_instead(
    store: SnapshotStore, root: Path
) -> None:
    """A rebuild writes it. Its content is the same, but its vectors may be wrong."""
    store.save("1", OLD)
    published = path_of(store)
    make_older(published)
    store.save("1", replace(OLD, generation=2))
    assert store.open("1", OLD.fingerprint, 1).generation == 1
    assert store.find("1", OLD.fingerprint, 1) == published
    store.keep_only("1", OLD.fingerprint, 1, keep_newer=True)
    assert len(files(root)) == 2
    store.discard("1", 2)
    assert list(published.parent.iterdir()) == [published]
    published.unlink()
    store.save("1", replace(OLD, generation=2))
    assert store.find("1", OLD.fingerprint, 1) is None
    with pytest.raises(SnapshotError, match="There is no snapshot"):
        store.open("1", OLD.fingerprint, 1)


def test_keep_only_keeps_the_newest_file_of_one_content(store: SnapshotStore, root: Path) -> None:
    """A course that was published again without changes may have a file for each generation."""
    store.save("1", OLD)
    make_older(path_of(store))
    store.save("1", replace(OLD, generation=2))
    assert len(files(root)) == 2
    assert store.open("1", OLD.fingerprint, ANY_GENERATION).generation == 2
    store.keep_only("1", OLD.fingerprint, ANY_GENERATION)
    assert len(files(root)) == 1
    assert store.open("1", OLD.fingerprint, ANY_GENERATION).generation == 2


def test_delete_removes_all_files_of_a_course(store: SnapshotStore, root: Path) -> None:
    for course_id, built in (("1", OLD), ("1", NEW), ("2", OLD)):
        store.save(course_id, built)
    (root / "course_1" / f".{'0a' * 16}.tmp").touch()
    (root / "course_1" / ".tmpoxKQ6o").touch()
    store.delete("1")
    store.delete("1")
    assert [path.name for path in root.iterdir()] == ["course_2"]


def test_foreign_files_are_neither_listed_nor_deleted(store: SnapshotStore, root: Path) -> None:
    name = f"{'0' * 32}.{'0' * 64}.safetensors"
    for other in ("course_of_study/film.mp4", "course_models/model.safetensors", "pictures/a.png", f"stray/{name}"):
        (root / other).parent.mkdir(parents=True)
        (root / other).touch()
    (root / "course_file").touch()
    (root / "course_left empty").mkdir()
    (root / "course_left_by_a_killed_writer").mkdir()
    (root / "course_left_by_a_killed_writer" / ".tmpoxKQ6o").touch()
    before = files(root)
    assert store.directories() == ["course_left empty", "course_left_by_a_killed_writer"]
    for course_id in ("of_study", "models"):
        store.delete(course_id)
    assert files(root) == before


def test_store_without_directory_is_empty(store: SnapshotStore) -> None:
    assert store.directories() == []
    assert store.open_latest("1", 9) is None
    store.delete("1")
    store.keep_only("1", OLD.fingerprint, ANY_GENERATION)


def test_errors_name_the_cause(store: SnapshotStore, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.save("1", OLD)
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(PermissionError("Permission denied")))
    with pytest.raises(SnapshotStoreError, match="cannot be deleted: Permission denied"):
        store.delete("1")
    monkeypatch.undo()
    (root / "course_2").touch()
    with pytest.raises(SnapshotStoreError, match=r"cannot be written.*SNAPSHOT_DIR"):
        store.save("2", OLD)


@pytest.mark.parametrize("broken", ["save_file", "fsync"])
def test_failed_save_leaves_nothing_behind(
    store: SnapshotStore, root: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    store.save("1", OLD)
    before = files(root)

    def fail(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(*((file_module, "save_file") if broken == "save_file" else (os, "fsync")), fail)
    with pytest.raises(SnapshotStoreError, match=r"No space left on device. Check the free disk space"):
        store.save("1", NEW)
    assert files(root) == before
    assert len(store.open("1", OLD.fingerprint, ANY_GENERATION)) == 1


def test_directory_that_cannot_be_read_is_like_a_missing_one(
    store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search then reads the collection. A deletion must not seem to have succeeded."""
    store.save("1", OLD)

    def fail(_: Path) -> None:
        raise PermissionError("Permission denied")

    monkeypatch.setattr(Path, "iterdir", fail)
    with pytest.raises(SnapshotError, match="There is no snapshot"):
        store.open("1", OLD.fingerprint, ANY_GENERATION)
    assert store.open_latest("1", 9) is None
    with pytest.raises(SnapshotStoreError, match="Permission denied"):
        store.delete("1")


def test_file_that_another_process_deletes_meanwhile_is_no_error(
    store: SnapshotStore, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.save("1", OLD)
    find, files = store.find, store_module._files

    def delete() -> None:
        for each in (root / "course_1").iterdir():
            each.unlink()

    def find_and_delete(course_id: str, published: CourseFingerprint, generation: int) -> Path | None:
        path = find(course_id, published, generation)
        delete()
        return path

    def list_and_delete(directory: Path) -> list[Path]:
        paths = files(directory)
        delete()
        return paths

    with monkeypatch.context() as patch:
        patch.setattr(store, "find", find_and_delete)
        store.keep_only("1", OLD.fingerprint, ANY_GENERATION, keep_newer=True)
    store.save("1", OLD)
    monkeypatch.setattr(store_module, "_files", list_and_delete)
    with pytest.raises(SnapshotError, match="is not a snapshot of this version"):
        store.open("1", OLD.fingerprint, ANY_GENERATION)


def _replace_and_delete(root: Path, built: BuiltSnapshot, stop: Event) -> None:
    store = SnapshotStore(SnapshotSettings(snapshot_dir=root))
    while not stop.is_set():
        store.save("1", built)
        store.keep_only("1", built.fingerprint, ANY_GENERATION)
        store.delete("1")


def test_snapshots_are_opened_while_other_processes_replace_and_delete_them(store: SnapshotStore, root: Path) -> None:
    """What is opened is complete; the only error is that there is none."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    others = [context.Process(target=_replace_and_delete, args=(root, built, stop)) for built in (OLD, NEW)]
    for process in others:
        process.start()
    try:
        deadline, opened = time.monotonic() + 60, 0
        while opened < 10 and time.monotonic() < deadline:
            for built, texts in ((OLD, OLD_TEXTS), (NEW, NEW_TEXTS)):
                try:
                    snapshot = store.open("1", built.fingerprint, ANY_GENERATION)
                except SnapshotError:
                    continue
                opened += 1
                assert list(snapshot.texts) == list(texts.values())
                assert search_snapshot(snapshot, [query("copper")], SearchOptions(), 5).hits[0].row == 0
    finally:
        stop.set()
        for process in others:
            process.join(60)
    assert opened >= 10


def _write_a_large_file(path: Path) -> None:
    write_arrays(path, {"a": np.ones(30_000_000, dtype=np.float32)})


def test_file_of_a_killed_writer_is_deleted(store: SnapshotStore, root: Path) -> None:
    """safetensors writes to a temporary file whose name it chooses."""
    store.save("1", OLD)
    kept = set((root / "course_1").iterdir())
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=_write_a_large_file, args=(root / "course_1" / f".{'0a' * 16}.tmp",))
    process.start()
    deadline = time.monotonic() + 60
    while set((root / "course_1").iterdir()) == kept and time.monotonic() < deadline:
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert set((root / "course_1").iterdir()) > kept
    store.keep_only("1", OLD.fingerprint, ANY_GENERATION)
    assert set((root / "course_1").iterdir()) == kept


def test_fingerprint_of_a_built_snapshot_is_that_of_its_texts() -> None:
    """Guards the helper of these tests."""
    assert fingerprint(OLD_TEXTS) == OLD.fingerprint != NEW.fingerprint

"""The backup archive: round trips, and rejection of damaged and inconsistent files."""

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedding.vector_store.archive import MANIFEST, ArchiveError, create_archive, open_archive, seal
from embedding.vector_store.collection_names import collection_name
from embedding.vector_store.collections import WRITE_BATCH, CollectionInfo
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models.fingerprint import CourseFingerprint, FingerprintBuilder

DIMENSIONS = 3
ODD_IDS = ["plain", "课程 一", "a/b", "../../etc/passwd", "trailing-", "long" * 200, "zeilen\numbruch"]

Page = tuple[list[Record], Vectors]


def page(number: int, first: int = 0) -> Page:
    """Records with non-ASCII texts and nested metadata, and random unit vectors."""
    records = [
        Record(f"c{index}", f"文 {index}\n", {"course_id": "c", "nested": {"a": [1, None, 0.1]}}, f"{index:064x}")
        for index in range(first, first + number)
    ]
    rows = np.random.default_rng(first).standard_normal((number, DIMENSIONS)).astype(np.float32)
    return records, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def fingerprint(pages: list[Page]) -> CourseFingerprint:
    content = FingerprintBuilder()
    for records, _ in pages:
        for record in records:
            content.add_hashed(record.chunk_id, record.content_hash, len(record.text))
    return content.build("signature")


def write_archive(path: Path, courses: Mapping[str, list[Page]]) -> Path:
    with create_archive(path) as archive:
        for course_id, pages in courses.items():
            with archive.spool(pages, lambda _: None) as spool:
                archive.add(spool, CollectionInfo(course_id, "model", "signature"), 7, fingerprint(pages))
    return path


def read_archive(path: Path) -> dict[str, list[Page]]:
    with open_archive(path) as archive:
        return {course.course_id: list(archive.pages(course)) for course in archive.manifest.courses}


def assert_equal(pages: list[Page], expected: list[Page]) -> None:
    assert [record for records, _ in pages for record in records] == [r for records, _ in expected for r in records]
    assert np.array_equal(np.concatenate([rows for _, rows in pages]), np.concatenate([rows for _, rows in expected]))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    courses = {course_id: [page(number + 1)] for number, course_id in enumerate(ODD_IDS)}
    return write_archive(tmp_path_factory.mktemp("archives") / "good.zip", courses)


def test_round_trip_is_exact_for_any_course_id(good: Path) -> None:
    courses = read_archive(good)
    assert list(courses) == ODD_IDS
    for number, pages in enumerate(courses.values()):
        assert_equal(pages, [page(number + 1)])


def test_pages_returns_pages_of_fixed_size(tmp_path: Path) -> None:
    pages = [page(700), page(1, first=700), page(400, first=701)]
    [pages_read] = read_archive(write_archive(tmp_path / "a.zip", {"c": pages})).values()
    assert [len(records) for records, _ in pages_read] == [WRITE_BATCH, WRITE_BATCH, 101]
    assert_equal(pages_read, pages)


def test_manifest_describes_the_courses(good: Path) -> None:
    with open_archive(good) as archive:
        course = archive.manifest.courses[1]
        assert archive.manifest.format == 2
    assert (course.course_id, course.generation, course.chunks, course.dimensions) == ("课程 一", 7, 2, DIMENSIONS)
    assert course.info == CollectionInfo("课程 一", "model", "signature")
    assert CourseFingerprint.parse(course.fingerprint) == fingerprint([page(2)])


def test_archive_is_readable_by_zipfile_and_numpy(good: Path) -> None:
    name = collection_name("课程 一")
    with ZipFile(good) as archive:
        assert archive.testzip() is None
        with archive.open(f"{name}.npy") as member:
            assert np.array_equal(np.load(member), page(2)[1])
        assert json.loads(archive.read(f"{name}.jsonl").splitlines()[1])["text"] == "文 1\n"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_any_changed_byte_is_detected(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    broken = tmp_path / "broken.zip"
    broken.write_bytes(content)
    with pytest.raises(ArchiveError), open_archive(broken):
        pass


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_missing_or_additional_bytes_are_detected(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = good.read_bytes()
    broken = tmp_path / "broken.zip"
    position = data.draw(st.integers(0, len(content) - 1))
    variants = [content[:position], content[position + 1 :], content + content[: position + 1]]
    broken.write_bytes(data.draw(st.sampled_from(variants)))
    with pytest.raises(ArchiveError), open_archive(broken):
        pass


def forge(good: Path, path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """Copy an archive with changed members and a valid seal."""
    with ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    seal(path)
    return path


def change_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    """A change of the manifest, for `forge`."""

    def apply(members: dict[str, bytes]) -> None:
        manifest = json.loads(members[MANIFEST])
        change(manifest)
        members[MANIFEST] = json.dumps(manifest).encode()

    return apply


def replace(name: str, old: bytes, new: bytes) -> Callable[[dict[str, bytes]], None]:
    def apply(members: dict[str, bytes]) -> None:
        assert old in members[name]
        members[name] = members[name].replace(old, new, 1)

    return apply


FIRST_NUMBER = page(1)[1].tobytes()[:4]
FORGERIES: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "no manifest": (lambda members: members.pop(MANIFEST), "not written by"),
    "manifest not JSON": (lambda members: members.update({MANIFEST: b"{"}), "not written by"),
    "manifest nested too deeply": (lambda members: members.update({MANIFEST: b"[" * 100_000}), "not written by"),
    "manifest of another shape": (lambda members: members.update({MANIFEST: b"[]"}), "not written by"),
    "another format": (change_manifest(lambda manifest: manifest.update(format=3)), "has format 3"),
    "no courses": (change_manifest(lambda manifest: manifest.pop("courses")), "not written by"),
    "course twice": (change_manifest(lambda m: m["courses"].append(m["courses"][0])), "contains a course twice"),
    "no vectors": (lambda members: members.pop("course_plain.npy"), "does not contain course_plain.npy"),
    "no records": (lambda members: members.pop("course_plain.jsonl"), "does not contain course_plain.jsonl"),
    "other count": (change_manifest(lambda m: m["courses"][0].update(chunks=2)), "do not have the size"),
    "other dimensions": (change_manifest(lambda m: m["courses"][0].update(dimensions=2)), "do not have the size"),
    "zero dimensions": (change_manifest(lambda m: m["courses"][0].update(dimensions=0)), "greater than 0"),
    "too many dimensions": (change_manifest(lambda m: m["courses"][0].update(dimensions=2**40)), "less than or equal"),
    "other model": (
        change_manifest(lambda m: m["courses"][0].update(model_signature="x")),
        "not those that were published",
    ),
    "other id": (replace("course_plain.jsonl", b'"c0"', b'"c9"'), "not those that were published"),
    "too many records": (
        lambda members: members.update({"course_plain.jsonl": members["course_plain.jsonl"] * 2}),
        "not written by",
    ),
    "no records in file": (lambda members: members.update({"course_plain.jsonl": b""}), "more vectors than records"),
    "record of another shape": (replace("course_plain.jsonl", b'"text"', b'"txt"'), "not written by"),
    "vector not finite": (
        replace("course_plain.npy", FIRST_NUMBER, np.float32("nan").tobytes()),
        "finite and of unit length",
    ),
    "vector not of unit length": (
        replace("course_plain.npy", FIRST_NUMBER, np.float32(2).tobytes()),
        "finite and of unit length",
    ),
    "truncated vectors": (
        lambda members: members.update({"course_plain.npy": members["course_plain.npy"][:-4]}),
        "not written by",
    ),
    "not an array": (replace("course_plain.npy", b"NUMPY", b"numpy"), "not written by"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_inconsistent_archive_with_valid_seal_is_rejected(good: Path, tmp_path: Path, forgery: str) -> None:
    change, message = FORGERIES[forgery]
    with pytest.raises(ArchiveError, match=message), open_archive(forge(good, tmp_path / "forged.zip", change)):
        pass


ENCRYPTED, ODD_COMPRESSION = (8, 1), (10, 99)
"""Offset in the central directory entry of a member, and the byte written there."""


@pytest.mark.parametrize("entry", [ENCRYPTED, ODD_COMPRESSION])
def test_members_that_cannot_be_unpacked_are_rejected(good: Path, tmp_path: Path, entry: tuple[int, int]) -> None:
    path = forge(good, tmp_path / "forged.zip", lambda members: None)
    content = bytearray(path.read_bytes())
    offset, value = entry
    content[content.index(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)
    seal(path)
    with pytest.raises(ArchiveError, match="not written by"), open_archive(path):
        pass


@pytest.mark.parametrize("member", [MANIFEST, "course_plain.jsonl"])
def test_member_that_unpacks_to_more_than_the_limit_is_rejected(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    limit = 10_000
    monkeypatch.setattr("embedding.vector_store.archive.READ_LIMIT", limit)
    path = forge(good, tmp_path / "bomb.zip", lambda members: members.update({member: b" " * limit + members[member]}))
    with pytest.raises(ArchiveError, match="longer than 10000 bytes"), open_archive(path):
        pass


def test_pages_of_long_records_have_fewer_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding.vector_store.archive.READ_LIMIT", 10_000)
    records, vectors = page(5)
    long_records = [Record(record.chunk_id, "x" * 6_000, {}, record.content_hash) for record in records]
    [pages_read] = read_archive(write_archive(tmp_path / "a.zip", {"c": [(long_records, vectors)]})).values()
    assert [len(records) for records, _ in pages_read] == [2, 2, 1]
    assert_equal(pages_read, [(long_records, vectors)])


def test_forged_archive_without_a_change_is_accepted(good: Path, tmp_path: Path) -> None:
    assert list(read_archive(forge(good, tmp_path / "forged.zip", lambda members: None))) == ODD_IDS


@pytest.mark.parametrize("content", [b"", b"x" * 1000], ids=["empty", "text"])
def test_other_file_is_rejected(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="not a backup"), open_archive(path):
        pass


def test_ordinary_zip_is_rejected(tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "other"), "zip", Path(__file__).parent))
    with pytest.raises(ArchiveError, match="SHA-256 differs"), open_archive(path):
        pass


def test_course_with_other_fingerprint_is_left_out_and_others_are_saved(tmp_path: Path) -> None:
    with create_archive(tmp_path / "a.zip") as archive:
        with (
            archive.spool([page(1)], lambda _: None) as spool,
            pytest.raises(ArchiveError, match="it has 1 chunks, but 2 were published"),
        ):
            archive.add(spool, CollectionInfo("incomplete", "model", "signature"), 1, fingerprint([page(2)]))
        with archive.spool([page(2)], lambda _: None) as spool:
            archive.add(spool, CollectionInfo("complete", "model", "signature"), 1, fingerprint([page(2)]))
    assert list(read_archive(tmp_path / "a.zip")) == ["complete"]


def test_incomplete_archive_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no course"), create_archive(tmp_path / "new" / "empty.zip"):
        pass
    with suppress(KeyboardInterrupt), create_archive(tmp_path / "new" / "interrupted.zip"):
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["interrupted.zip.partial"]
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("factor", [0, 1.01, np.inf, np.nan])
def test_course_with_unsound_vectors_is_left_out_and_others_are_saved(tmp_path: Path, factor: float) -> None:
    records, vectors = page(1)
    with create_archive(tmp_path / "a.zip") as archive:
        unsound: list[Page] = [(records, vectors * np.float32(factor))]
        with pytest.raises(ArchiveError, match="of unit length"), archive.spool(unsound, lambda _: None):
            pass
        with archive.spool([page(2)], lambda _: None) as spool:
            archive.add(spool, CollectionInfo("sound", "model", "signature"), 1, fingerprint([page(2)]))
    assert list(read_archive(tmp_path / "a.zip")) == ["sound"]


def test_archive_that_fails_verification_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding.vector_store.archive.READ_LIMIT", 10)
    with pytest.raises(ArchiveError, match="longer than"):
        write_archive(tmp_path / "a.zip", {"c": [page(1)]})
    assert list(tmp_path.iterdir()) == []


def test_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    path = write_archive(tmp_path / "a.zip", {"c": [page(1)]})
    with pytest.raises(ArchiveError, match="exists already"):
        write_archive(path, {"c": [page(2)]})
    assert_equal(read_archive(path)["c"], [page(1)])
    assert list(tmp_path.iterdir()) == [path]

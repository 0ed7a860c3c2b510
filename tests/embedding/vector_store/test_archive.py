"""The backup archive: what goes in comes out, and what is not whole is refused."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
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
    """Records with everything a record may have, and vectors that no decimal notation would survive."""
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


def write(path: Path, courses: Mapping[str, list[Page]]) -> Path:
    with create_archive(path) as archive:
        for course_id, pages in courses.items():
            with archive.spooled(pages, lambda _: None) as spool:
                archive.add(spool, CollectionInfo(course_id, "model", "signature"), 7, fingerprint(pages))
    return path


def read(path: Path) -> dict[str, list[Page]]:
    with open_archive(path) as archive:
        return {course.course_id: list(archive.pages(course)) for course in archive.manifest.courses}


def assert_same(pages: list[Page], others: list[Page]) -> None:
    assert [record for records, _ in pages for record in records] == [r for records, _ in others for r in records]
    assert np.array_equal(np.concatenate([rows for _, rows in pages]), np.concatenate([rows for _, rows in others]))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    courses = {course_id: [page(number + 1)] for number, course_id in enumerate(ODD_IDS)}
    return write(tmp_path_factory.mktemp("archives") / "good.zip", courses)


def test_what_goes_in_comes_out_to_the_last_bit_under_any_course_id(good: Path) -> None:
    courses = read(good)
    assert list(courses) == ODD_IDS
    for number, pages in enumerate(courses.values()):
        assert_same(pages, [page(number + 1)])


def test_pages_of_any_size_come_out_in_pages_of_one_size(tmp_path: Path) -> None:
    pages = [page(700), page(1, first=700), page(400, first=701)]
    [back] = read(write(tmp_path / "a.zip", {"c": pages})).values()
    assert [len(records) for records, _ in back] == [WRITE_BATCH, WRITE_BATCH, 101]
    assert_same(back, pages)


def test_the_manifest_tells_what_is_in_it(good: Path) -> None:
    with open_archive(good) as archive:
        course = archive.manifest.courses[1]
        assert archive.manifest.format == 1
    assert (course.course_id, course.generation, course.chunks, course.dimensions) == ("课程 一", 7, 2, DIMENSIONS)
    assert course.info == CollectionInfo("课程 一", "model", "signature")
    assert CourseFingerprint.parse(course.fingerprint) == fingerprint([page(2)])


def test_usual_tools_can_read_it(good: Path) -> None:
    name = collection_name("课程 一")
    with ZipFile(good) as archive:
        assert archive.testzip() is None
        with archive.open(f"{name}.npy") as member:
            assert np.array_equal(np.load(member), page(2)[1])
        assert json.loads(archive.read(f"{name}.jsonl").splitlines()[1])["text"] == "文 1\n"


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_changed_byte_anywhere_is_noticed(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good.read_bytes())
    position = data.draw(st.integers(0, len(content) - 1))
    content[position] ^= data.draw(st.integers(1, 255))
    broken = tmp_path / "broken.zip"
    broken.write_bytes(content)
    with pytest.raises(ArchiveError), open_archive(broken):
        pass


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_end_that_is_missing_or_too_much_is_noticed(good: Path, tmp_path: Path, data: st.DataObject) -> None:
    content = good.read_bytes()
    broken = tmp_path / "broken.zip"
    cut = data.draw(st.integers(0, len(content) - 1))
    broken.write_bytes(data.draw(st.sampled_from([content[:cut], content[cut + 1 :], content + content[: cut + 1]])))
    with pytest.raises(ArchiveError), open_archive(broken):
        pass


def forge(good: Path, path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """An archive with other members, and a seal that fits."""
    with ZipFile(good) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    change(members)
    with ZipFile(path, "w", ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
        archive.comment = b"0" * 64
    seal(path)
    return path


def describe(change: Callable[[dict[str, Any]], object]) -> Callable[[dict[str, bytes]], None]:
    """A change of the manifest."""

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
    "manifest is no JSON": (lambda members: members.update({MANIFEST: b"{"}), "not written by"),
    "manifest too deep": (lambda members: members.update({MANIFEST: b"[" * 100_000}), "not written by"),
    "manifest of another shape": (lambda members: members.update({MANIFEST: b"[]"}), "not written by"),
    "another format": (describe(lambda manifest: manifest.update(format=2)), "has format 2"),
    "no courses": (describe(lambda manifest: manifest.pop("courses")), "not written by"),
    "a course twice": (describe(lambda m: m["courses"].append(m["courses"][0])), "in it twice"),
    "no vectors": (lambda members: members.pop("course_plain.npy"), "lacks course_plain.npy"),
    "no records": (lambda members: members.pop("course_plain.jsonl"), "lacks course_plain.jsonl"),
    "other count": (describe(lambda m: m["courses"][0].update(chunks=2)), "not of the size"),
    "other dimensions": (describe(lambda m: m["courses"][0].update(dimensions=2)), "not of the size"),
    "zero dimensions": (describe(lambda m: m["courses"][0].update(dimensions=0)), "greater than 0"),
    "too many dimensions": (describe(lambda m: m["courses"][0].update(dimensions=2**40)), "less than or equal"),
    "other model": (describe(lambda m: m["courses"][0].update(model_signature="x")), "not those that were published"),
    "other id": (replace("course_plain.jsonl", b'"c0"', b'"c9"'), "not those that were published"),
    "a record too many": (
        lambda members: members.update({"course_plain.jsonl": members["course_plain.jsonl"] * 2}),
        "not written by",
    ),
    "no record": (lambda members: members.update({"course_plain.jsonl": b""}), "more vectors than records"),
    "a record of another shape": (replace("course_plain.jsonl", b'"text"', b'"txt"'), "not written by"),
    "a number that is none": (
        replace("course_plain.npy", FIRST_NUMBER, np.float32("nan").tobytes()),
        "finite and of length one",
    ),
    "a vector of another length": (
        replace("course_plain.npy", FIRST_NUMBER, np.float32(2).tobytes()),
        "finite and of length one",
    ),
    "a vector cut short": (
        lambda members: members.update({"course_plain.npy": members["course_plain.npy"][:-4]}),
        "not written by",
    ),
    "no array": (replace("course_plain.npy", b"NUMPY", b"numpy"), "not written by"),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_seal_does_not_excuse_what_disagrees(good: Path, tmp_path: Path, forgery: str) -> None:
    change, complaint = FORGERIES[forgery]
    with pytest.raises(ArchiveError, match=complaint), open_archive(forge(good, tmp_path / "forged.zip", change)):
        pass


ENCRYPTED, ODD_COMPRESSION = (8, 1), (10, 99)
"""Offset in a member's entry in the zip's directory, and what is written there."""


@pytest.mark.parametrize("entry", [ENCRYPTED, ODD_COMPRESSION])
def test_members_that_cannot_be_unpacked_are_refused(good: Path, tmp_path: Path, entry: tuple[int, int]) -> None:
    path = forge(good, tmp_path / "forged.zip", lambda members: None)
    content = bytearray(path.read_bytes())
    offset, value = entry
    content[content.index(b"PK\x01\x02") + offset] = value
    path.write_bytes(content)
    seal(path)
    with pytest.raises(ArchiveError, match="not written by"), open_archive(path):
        pass


@pytest.mark.parametrize("member", [MANIFEST, "course_plain.jsonl"])
def test_what_unpacks_to_more_than_can_be_read_at_once_is_refused(
    good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, member: str
) -> None:
    limit = 10_000
    monkeypatch.setattr("embedding.vector_store.archive.READ_LIMIT", limit)
    path = forge(good, tmp_path / "bomb.zip", lambda members: members.update({member: b" " * limit + members[member]}))
    with pytest.raises(ArchiveError, match="longer than 10000 bytes"), open_archive(path):
        pass


def test_pages_of_long_records_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding.vector_store.archive.READ_LIMIT", 10_000)
    records, vectors = page(5)
    long = [Record(record.chunk_id, "x" * 6_000, {}, record.content_hash) for record in records]
    [back] = read(write(tmp_path / "a.zip", {"c": [(long, vectors)]})).values()
    assert [len(records) for records, _ in back] == [2, 2, 1]
    assert_same(back, [(long, vectors)])


def test_a_forged_archive_is_refused_for_its_change_alone(good: Path, tmp_path: Path) -> None:
    assert list(read(forge(good, tmp_path / "forged.zip", lambda members: None))) == ODD_IDS


@pytest.mark.parametrize("content", [b"", b"x" * 1000], ids=["empty", "text"])
def test_another_file_is_no_archive(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ArchiveError, match="no backup"), open_archive(path):
        pass


def test_an_ordinary_zip_is_no_archive(tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "other"), "zip", Path(__file__).parent))
    with pytest.raises(ArchiveError, match="SHA-256 differs"), open_archive(path):
        pass


def test_a_course_that_is_not_what_was_published_stays_out_and_the_others_go_in(tmp_path: Path) -> None:
    half: Iterator[Page] = iter([page(1)])
    with create_archive(tmp_path / "a.zip") as archive:
        with (
            archive.spooled(half, lambda _: None) as spool,
            pytest.raises(ArchiveError, match="there are 1 chunks where 2 were published"),
        ):
            archive.add(spool, CollectionInfo("half", "model", "signature"), 1, fingerprint([page(2)]))
        with archive.spooled([page(2)], lambda _: None) as spool:
            archive.add(spool, CollectionInfo("whole", "model", "signature"), 1, fingerprint([page(2)]))
    assert list(read(tmp_path / "a.zip")) == ["whole"]


def test_a_file_gets_its_name_only_when_it_is_complete(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="no course"), create_archive(tmp_path / "new" / "empty.zip"):
        pass
    with suppress(KeyboardInterrupt), create_archive(tmp_path / "new" / "interrupted.zip"):
        assert [file.name for file in (tmp_path / "new").iterdir()] == ["interrupted.zip.partial"]
        raise KeyboardInterrupt
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("factor", [0, 1.01, np.inf, np.nan])
def test_a_course_with_unsound_vectors_stays_out_and_the_others_go_in(tmp_path: Path, factor: float) -> None:
    records, vectors = page(1)
    with create_archive(tmp_path / "a.zip") as archive:
        unsound: list[Page] = [(records, vectors * np.float32(factor))]
        with pytest.raises(ArchiveError, match="of length one"), archive.spooled(unsound, lambda _: None):
            pass
        with archive.spooled([page(2)], lambda _: None) as spool:
            archive.add(spool, CollectionInfo("sound", "model", "signature"), 1, fingerprint([page(2)]))
    assert list(read(tmp_path / "a.zip")) == ["sound"]


def test_what_cannot_be_read_back_is_no_backup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedding.vector_store.archive.READ_LIMIT", 10)
    with pytest.raises(ArchiveError, match="longer than"):
        write(tmp_path / "a.zip", {"c": [page(1)]})
    assert list(tmp_path.iterdir()) == []


def test_a_backup_is_never_overwritten(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zip", {"c": [page(1)]})
    with pytest.raises(ArchiveError, match="exists already"):
        write(path, {"c": [page(2)]})
    assert_same(read(path)["c"], [page(1)])
    assert list(tmp_path.iterdir()) == [path]

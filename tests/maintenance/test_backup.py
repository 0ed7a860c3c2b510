"""`course-search backup` with a real Chroma server, also during concurrent writes."""

import json
import re
import threading
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from sqlalchemy import Engine
from typer.testing import CliRunner, Result

from cli.main import app
from cli.processes import free_port
from embedding.vector_store.archive import open_archive
from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.records import Record
from embedding.vector_store.server import VectorStoreSettings
from models.tables import EmbeddingStatus
from tests.support.catalogue import Catalogue
from tests.support.courses import change_course
from tests.support.published import MODEL, SIGNATURE, add_courses, publish

pytestmark = pytest.mark.integration

TEXTS = ["copper foil", "焊膏", "", "a \n line"]


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch, chroma_url: str) -> None:
    monkeypatch.setattr("maintenance.backup.PAUSES_SECONDS", (0.0, 0.05, 0.05, 0.05))
    monkeypatch.setenv("CHROMA_URL", chroma_url)


def unique(name: str) -> str:
    """A unique course id, because all tests share the Chroma server."""
    return f"{name} {uuid4()}"


def backup(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["backup", *arguments])


def saved_texts(path: Path) -> dict[str, list[str]]:
    """The texts in an archive by course id."""
    with open_archive(path) as archive:
        return {
            course.course_id: [record.text for records, _ in archive.pages(course) for record in records]
            for course in archive.manifest.courses
        }


def read_collection(collection: CourseCollection) -> tuple[list[Record], Any]:
    pages = list(collection.contents())
    return [record for records, _ in pages for record in records], np.concatenate([rows for _, rows in pages])


def test_archive_equals_the_collections_exactly(
    catalogue: Catalogue, vector_store: VectorStore, tmp_path: Path
) -> None:
    courses = [unique(name) for name in ("plain", "课程 一", "a/b", "../up", "long" * 200)]
    add_courses(catalogue.engine, *courses)
    fingerprints = {course_id: publish(catalogue.engine, vector_store, course_id, TEXTS) for course_id in courses}
    result = backup("--output", "a.zip")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"a\.zip: 5 courses, 20 chunks, \d+\.\d kB\n", result.stdout)
    with open_archive(tmp_path / "a.zip") as archive:
        assert [course.course_id for course in archive.manifest.courses] == sorted(courses)
        for course in archive.manifest.courses:
            assert course.fingerprint == str(fingerprints[course.course_id])
            assert (course.model_name, course.model_signature, course.generation) == (MODEL, SIGNATURE, 1)
            [(records, vectors)] = archive.pages(course)
            stored, stored_vectors = read_collection(vector_store.open(course.course_id))
            assert records == stored
            assert np.array_equal(vectors, stored_vectors)


def test_default_directory_and_file_name(engine: Engine, vector_store: VectorStore) -> None:
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)
    assert backup().exit_code == 0
    [path] = Path("data/backups").iterdir()
    assert re.fullmatch(r"course-search-\d{8}T\d{6}Z\.zip", path.name)
    Path("other").mkdir()
    assert backup("--output", "other").exit_code == 0
    [path] = Path("other").iterdir()
    assert path.name.startswith("course-search-")


def test_courses_that_are_not_embedded_are_left_out_and_named(engine: Engine, vector_store: VectorStore) -> None:
    good, new, failed_id, running, pending = map(unique, ("good", "new", "failed", "running", "pending"))
    add_courses(engine, good, new, failed_id, running, pending)
    for course_id in (good, running, pending):
        publish(engine, vector_store, course_id, TEXTS)
    change_course(engine, failed_id, embedding_status=EmbeddingStatus.FAILED)
    change_course(engine, running, embedding_status=EmbeddingStatus.RUNNING)
    change_course(engine, pending, embedding_status=EmbeddingStatus.PENDING)
    result = backup("--output", "a.zip", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "archive": "a.zip",
        "bytes": Path("a.zip").stat().st_size,
        "courses": [{"course_id": good, "chunks": 4, "dimensions": 8}],
        "left_out": {
            new: "it is not embedded (not_started)",
            failed_id: "it is not embedded (failed)",
            running: "it is being embedded (running)",
            pending: "it is being embedded (pending)",
        },
        "damaged": {},
    }
    assert f"Left out: {running}: it is being embedded (running)" in result.stderr
    assert list(saved_texts(Path("a.zip"))) == [good]


def test_running_course_is_saved_when_it_is_done(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)
    change_course(engine, course_id, embedding_status=EmbeddingStatus.RUNNING)
    monkeypatch.setattr("time.sleep", lambda _: change_course(engine, course_id, embedding_status=EmbeddingStatus.DONE))
    assert backup("--output", "a.zip").exit_code == 0
    assert list(saved_texts(Path("a.zip"))) == [course_id]


@pytest.mark.parametrize("rebuilt", [False, True])
def test_course_embedded_while_it_is_read_is_read_again(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch, rebuilt: bool
) -> None:
    """The texts are the same, so only the row shows that the reading may have mixed two generations."""
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)
    contents = CourseCollection.contents
    readings = []

    def contents_and_publication(collection: CourseCollection) -> Any:
        yield from contents(collection)
        readings.append(collection)
        if len(readings) == 1:
            if rebuilt:
                vector_store.delete(course_id)
            publish(engine, vector_store, course_id, TEXTS)
            collection.count()  # as for the next page; it fails if the collection was rebuilt

    monkeypatch.setattr(CourseCollection, "contents", contents_and_publication)
    result = backup("--output", "a.zip")
    assert (result.exit_code, result.stderr) == (0, "Waiting 0.05 s: 1 of 1 courses are being embedded …\n")
    with open_archive(Path("a.zip")) as archive:
        assert archive.manifest.courses[0].generation == 2
    assert len(readings) == 2


def test_backup_never_mixes_generations(engine: Engine, vector_store: VectorStore) -> None:
    """A course is published again and again with different texts, at first without pauses, later with longer ones."""
    changing, unchanged = unique("changing"), unique("unchanged")
    add_courses(engine, changing, unchanged)
    publish(engine, vector_store, unchanged, TEXTS)
    stop = threading.Event()

    def write() -> None:
        version = 0
        while not stop.is_set():
            publish(engine, vector_store, changing, [f"version {version}"] * 20)
            version += 1
            stop.wait(version * 0.02)

    writer = threading.Thread(target=write)
    writer.start()
    backups = times_saved = 0
    try:
        while backups < 10 or not times_saved:
            path = f"{backups}.zip"
            result = backup("--output", path)
            assert result.exit_code == 0, result.stderr
            courses = saved_texts(Path(path))
            assert courses[unchanged] == TEXTS
            assert len(set(courses.get(changing, ["version"]))) == 1
            backups += 1
            times_saved += changing in courses
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("damage", ["missing chunk", "changed chunk", "deleted", "no fingerprint", "other model"])
def test_collection_that_does_not_match_its_fingerprint_is_an_error(
    engine: Engine, vector_store: VectorStore, damage: str
) -> None:
    bad, good = unique("bad"), unique("good")
    add_courses(engine, bad, good)
    fingerprint = publish(engine, vector_store, bad, TEXTS)
    publish(engine, vector_store, good, TEXTS)
    match damage:
        case "missing chunk":
            vector_store.open(bad).remove([f"{bad}-0"])
            reason = r"it has 3 chunks, but 4 were published"
        case "changed chunk":
            records, vectors = read_collection(vector_store.open(bad))
            other = Record(records[0].chunk_id, records[0].text, records[0].metadata, "another hash")
            vector_store.open(bad).upsert([other], vectors[:1])
            reason = r"not those that were published"
        case "deleted":
            vector_store.delete(bad)
            reason = r"does not exist"
        case "no fingerprint":
            change_course(engine, bad, embedding_fingerprint="v0:?")
            reason = r"its fingerprint cannot be read \(v0:\?\)"
        case "other model":
            change_course(engine, bad, embedding_fingerprint=str(fingerprint).replace(SIGNATURE, "other"))
            reason = r"not those that were published"
    result = backup("--output", "a.zip")
    assert result.exit_code == 1
    assert re.search(f"Left out: {bad}: .*{reason}.*; rebuild it", result.stderr)
    assert list(saved_texts(Path("a.zip"))) == [good]


def assert_no_backup(result: Result) -> str:
    """Check that the backup failed and left no file; returns the messages."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith("No backup was written.\n")
    assert list(Path.cwd().glob("a.zip*")) == []
    return result.stderr


def test_unreachable_server_is_an_error(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    assert "cannot be reached" in assert_no_backup(backup("--output", "a.zip"))


def test_server_that_becomes_unreachable_leaves_no_file(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted(map(unique, "ab"))
    add_courses(engine, first, second)
    for course_id in (first, second):
        publish(engine, vector_store, course_id, TEXTS)
    unreachable = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{free_port()}"))
    opened = VectorStore.open
    monkeypatch.setattr(
        VectorStore, "open", lambda store, course_id: opened(store if course_id == first else unreachable, course_id)
    )
    assert "cannot be reached" in assert_no_backup(backup("--output", "a.zip"))


def test_full_disk_leaves_no_file(engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch) -> None:
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)

    def raise_disk_full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", raise_disk_full)
    assert "No space left on device" in assert_no_backup(backup("--output", "a.zip"))


def test_backup_without_embedded_courses_is_an_error(engine: Engine) -> None:
    add_courses(engine, "new")
    messages = assert_no_backup(backup("--output", "a.zip"))
    assert "Left out: new: it is not embedded (not_started)" in messages
    assert "There is no course to back up" in messages


def test_existing_file_is_not_overwritten(engine: Engine) -> None:
    Path("mine.zip").write_text("mine")
    assert "mine.zip exists already" in assert_no_backup(backup("--output", "mine.zip"))
    assert Path("mine.zip").read_text() == "mine"


def test_unreachable_catalogue_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    result = backup("--output", "a.zip")
    assert result.exit_code == 1
    assert "Connection refused" in result.stderr
    assert list(Path.cwd().glob("a.zip*")) == []

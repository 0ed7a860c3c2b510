"""`course-search backup` with a real Chroma server, while somebody else writes to it."""

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
from tests.support.courses import change_course, empty_catalogue
from tests.support.published import MODEL, SIGNATURE, add_courses, publish

pytestmark = pytest.mark.integration

TEXTS = ["copper foil", "焊膏", "", "a \n line"]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, chroma_url: str) -> None:
    monkeypatch.setattr("maintenance.backup.WAITS", (0.0, 0.05, 0.05, 0.05))
    monkeypatch.setenv("CHROMA_URL", chroma_url)


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/catalogue.db")
    return empty_catalogue(tmp_path / "catalogue.db")


def unique(name: str) -> str:
    """The session's server is shared."""
    return f"{name} {uuid4()}"


def backup(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["backup", *arguments])


def saved(path: Path) -> dict[str, list[str]]:
    """The texts in an archive by course."""
    with open_archive(path) as archive:
        return {
            course.course_id: [record.text for records, _ in archive.pages(course) for record in records]
            for course in archive.manifest.courses
        }


def everything(collection: CourseCollection) -> tuple[list[Record], Any]:
    pages = list(collection.contents())
    return [record for records, _ in pages for record in records], np.concatenate([rows for _, rows in pages])


def test_an_archive_holds_what_the_collections_hold_to_the_last_bit(
    catalogue: Catalogue, vector_store: VectorStore, tmp_path: Path
) -> None:
    courses = [unique(name) for name in ("plain", "课程 一", "a/b", "../up", "long" * 200)]
    add_courses(catalogue.engine, *courses)
    prints = {course_id: publish(catalogue.engine, vector_store, course_id, TEXTS) for course_id in courses}
    result = backup("--output", "a.zip")
    assert (result.exit_code, result.stderr) == (0, "")
    assert re.fullmatch(r"a\.zip: 5 courses, 20 chunks, \d+\.\d kB\n", result.stdout)
    with open_archive(tmp_path / "a.zip") as archive:
        assert [course.course_id for course in archive.manifest.courses] == sorted(courses)
        for course in archive.manifest.courses:
            assert course.fingerprint == str(prints[course.course_id])
            assert (course.model_name, course.model_signature, course.generation) == (MODEL, SIGNATURE, 1)
            [(records, vectors)] = archive.pages(course)
            held, held_vectors = everything(vector_store.open(course.course_id))
            assert records == held
            assert np.array_equal(vectors, held_vectors)


def test_the_usual_place_and_name(engine: Engine, vector_store: VectorStore) -> None:
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)
    assert backup().exit_code == 0
    [path] = Path("data/backups").iterdir()
    assert re.fullmatch(r"course-search-\d{8}T\d{6}Z\.zip", path.name)
    Path("elsewhere").mkdir()
    assert backup("--output", "elsewhere").exit_code == 0
    [path] = Path("elsewhere").iterdir()
    assert path.name.startswith("course-search-")


def test_courses_that_are_not_embedded_are_left_out_by_name(engine: Engine, vector_store: VectorStore) -> None:
    good, new, broken, running, pending = map(unique, ("good", "new", "broken", "running", "pending"))
    add_courses(engine, good, new, broken, running, pending)
    for course_id in (good, running, pending):
        publish(engine, vector_store, course_id, TEXTS)
    change_course(engine, broken, embedding_status=EmbeddingStatus.FAILED)
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
            broken: "it is not embedded (failed)",
            running: "it is being embedded (running)",
            pending: "it is being embedded (pending)",
        },
        "damaged": {},
    }
    assert f"Left out: {running}: it is being embedded (running)" in result.stderr
    assert list(saved(Path("a.zip"))) == [good]


def test_a_busy_course_is_taken_once_it_is_done(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)
    change_course(engine, course_id, embedding_status=EmbeddingStatus.RUNNING)
    monkeypatch.setattr("time.sleep", lambda _: change_course(engine, course_id, embedding_status=EmbeddingStatus.DONE))
    assert backup("--output", "a.zip").exit_code == 0
    assert list(saved(Path("a.zip"))) == [course_id]


@pytest.mark.parametrize("rebuilt", [False, True])
def test_a_course_embedded_anew_while_it_is_read_is_read_again(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch, rebuilt: bool
) -> None:
    """The new collection is as good as the old one; only the row tells that the reading may have met both."""
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)
    contents = CourseCollection.contents
    readings = []

    def contents_and_then_another_run(collection: CourseCollection) -> Any:
        yield from contents(collection)
        readings.append(collection)
        if len(readings) == 1:
            if rebuilt:
                vector_store.delete(course_id)
            publish(engine, vector_store, course_id, TEXTS)
            collection.count()  # the next page, which fails where the collection is another one

    monkeypatch.setattr(CourseCollection, "contents", contents_and_then_another_run)
    result = backup("--output", "a.zip")
    assert (result.exit_code, result.stderr) == (0, "Waiting 0.05 s for 1 courses that are being embedded …\n")
    with open_archive(Path("a.zip")) as archive:
        assert archive.manifest.courses[0].generation == 2
    assert len(readings) == 2


def test_a_backup_never_holds_a_mixture_while_a_course_is_embedded_again_and_again(
    engine: Engine, vector_store: VectorStore
) -> None:
    """Every version has other texts, so a mixture would show."""
    course_id, still = unique("restless"), unique("still")
    add_courses(engine, course_id, still)
    publish(engine, vector_store, still, TEXTS)
    stop = threading.Event()

    def write() -> None:
        version = 0
        while not stop.is_set():
            publish(engine, vector_store, course_id, [f"version {version}"] * 20)
            version += 1
            stop.wait(version % 4 * 0.1)  # from restless to quiet

    writer = threading.Thread(target=write)
    writer.start()
    try:
        results = [backup("--output", f"{number}.zip") for number in range(10)]
    finally:
        stop.set()
        writer.join()
    taken = 0
    for number, result in enumerate(results):
        assert result.exit_code == 0, result.stderr
        courses = saved(Path(f"{number}.zip"))
        assert courses[still] == TEXTS
        assert len(set(courses.get(course_id, ["version"]))) == 1
        taken += course_id in courses
    assert taken, "the course was never quiet: this test proves nothing"


@pytest.mark.parametrize("damage", ["lost a chunk", "changed", "deleted", "no fingerprint", "another model"])
def test_a_collection_that_is_not_what_was_published_is_an_error(
    engine: Engine, vector_store: VectorStore, damage: str
) -> None:
    bad, good = unique("bad"), unique("good")
    add_courses(engine, bad, good)
    fingerprint = publish(engine, vector_store, bad, TEXTS)
    publish(engine, vector_store, good, TEXTS)
    match damage:
        case "lost a chunk":
            vector_store.open(bad).remove([f"{bad}-0"])
            reason = r"there are 3 chunks where 4 were published"
        case "changed":
            records, vectors = everything(vector_store.open(bad))
            other = Record(records[0].chunk_id, records[0].text, records[0].metadata, "another hash")
            vector_store.open(bad).upsert([other], vectors[:1])
            reason = r"not those that were published"
        case "deleted":
            vector_store.delete(bad)
            reason = r"does not exist"
        case "no fingerprint":
            change_course(engine, bad, embedding_fingerprint="v0:?")
            reason = r"its fingerprint cannot be read \(v0:\?\)"
        case "another model":
            change_course(engine, bad, embedding_fingerprint=str(fingerprint).replace(SIGNATURE, "other"))
            reason = r"not those that were published"
    result = backup("--output", "a.zip")
    assert result.exit_code == 1
    assert re.search(f"Left out: {bad}: .*{reason}.*; rebuild it", result.stderr)
    assert list(saved(Path("a.zip"))) == [good]


def failed(result: Result) -> str:
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert result.stderr.endswith("No backup was written.\n")
    assert list(Path.cwd().glob("a.zip*")) == []
    return result.stderr


def test_without_the_server_there_is_no_backup(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)
    monkeypatch.setenv("CHROMA_URL", f"http://127.0.0.1:{free_port()}")
    assert "cannot be reached" in failed(backup("--output", "a.zip"))


def test_a_server_that_goes_away_leaves_nothing_behind(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = sorted(map(unique, "ab"))
    add_courses(engine, first, second)
    for course_id in (first, second):
        publish(engine, vector_store, course_id, TEXTS)
    away = VectorStore(VectorStoreSettings(chroma_url=f"http://127.0.0.1:{free_port()}"))
    opened = VectorStore.open
    monkeypatch.setattr(
        VectorStore, "open", lambda store, course_id: opened(store if course_id == first else away, course_id)
    )
    assert "cannot be reached" in failed(backup("--output", "a.zip"))


def test_a_full_disk_leaves_nothing_behind(
    engine: Engine, vector_store: VectorStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    course_id = unique("c")
    add_courses(engine, course_id)
    publish(engine, vector_store, course_id, TEXTS)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    assert "No space left on device" in failed(backup("--output", "a.zip"))


def test_nothing_embedded_is_no_backup(engine: Engine) -> None:
    add_courses(engine, "new")
    complaint = failed(backup("--output", "a.zip"))
    assert "Left out: new: it is not embedded (not_started)" in complaint
    assert "There is no course to back up" in complaint


def test_a_file_that_is_there_stays(engine: Engine) -> None:
    Path("mine.zip").write_text("mine")
    assert "mine.zip exists already" in failed(backup("--output", "mine.zip"))
    assert Path("mine.zip").read_text() == "mine"


def test_a_catalogue_that_is_away_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    result = backup("--output", "a.zip")
    assert result.exit_code == 1
    assert "Connection refused" in result.stderr
    assert list(Path.cwd().glob("a.zip*")) == []

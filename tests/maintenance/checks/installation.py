"""An installation for the checks, how to run `course-search doctor` on it, and how to read its findings."""

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cli.all_settings import ALL_SETTINGS
from cli.main import app
from embedding.model_files.model_directory import model_signature
from embedding.model_settings import EmbeddingSettings
from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.records import Record
from maintenance.checks.all_checks import run_checks
from maintenance.checks.findings import Finding, Level
from models.fingerprint import CourseFingerprint
from retrieval.snapshots.build import build_snapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from tests.support.catalogue import Catalogue
from tests.support.courses import read_course
from tests.support.published import publish_row

DIMENSIONS = 128
on_sqlite = pytest.mark.parametrize("text_catalogue", [("sqlite", "text")], indirect=True, ids=[""])
"""For tests that do not depend on the kind of database."""


class Findings(list[dict[str, Any]]):
    """The findings in doctor's JSON output."""

    def of(self, check: str, level: str) -> dict[str, Any]:
        """The only finding of this check and level."""
        [match] = [finding for finding in self if (finding["check"], finding["level"]) == (check, level)]
        return match

    @property
    def problems(self) -> list[str]:
        """The messages of all warnings and errors."""
        return [finding["message"] for finding in self if finding["level"] != "ok"]


def run_doctor(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["doctor", *arguments])


def doctor(*arguments: str, exit_code: int = 0) -> Findings:
    result = run_doctor("--json", *arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == exit_code, result.stdout
    output = json.loads(result.stdout)
    assert output["ok"] == (exit_code == 0)
    return Findings(output["findings"])


def find_warning(check: str) -> Finding:
    """The only warning of this check, with its repair function."""
    [finding] = [
        one for one in run_checks(ALL_SETTINGS, deep=False) if (one.check, one.level) == (check, Level.WARNING)
    ]
    return finding


def vectors(number: int, dimensions: int = DIMENSIONS) -> Any:
    rows = np.random.default_rng(0).normal(size=(number, dimensions)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def add_collection(store: VectorStore, course_id: str, rows: Any, signature: str | None = None) -> CourseCollection:
    """Create a collection with one record per vector, as a run does."""
    collection = store.create(CollectionInfo(course_id, "tiny", signature or model_signature(EmbeddingSettings())))
    collection.upsert([Record(str(number), "text", {}, "hash") for number in range(len(rows))], rows)
    return collection


def add_published_course(
    catalogue: Catalogue, store: VectorStore, course_id: str, chunks: int = 2, rows: Any = None
) -> CourseCollection:
    """Add a published course with collection and snapshot; `rows` are its vectors, by default sound ones."""
    catalogue.add_course(course_id, ["succeeded"], ["text"] * chunks)
    collection = add_collection(store, course_id, vectors(chunks) if rows is None else rows)
    publish_row(catalogue.engine, course_id, chunks, model_signature(EmbeddingSettings()))
    SnapshotStore(SnapshotSettings()).save(course_id, build_snapshot(collection, 1))
    return collection


def chroma_collection(store: VectorStore, collection: CourseCollection) -> Any:
    """Chroma's own object for the collection, to change what the product would not change."""
    return store.connect().get_collection(collection.name, embedding_function=None)


def published_content(catalogue: Catalogue, course_id: str) -> CourseFingerprint:
    """What was published of the course."""
    fingerprint = CourseFingerprint.parse(read_course(catalogue.engine, course_id).embedding_fingerprint)
    assert fingerprint is not None
    return fingerprint


def is_requested(catalogue: Catalogue, course_id: str) -> bool:
    row = read_course(catalogue.engine, course_id)
    return row.embedding_status == "pending" and row.embedding_requested_at is not None

"""Publishes made-up courses for `benchmarks.search_speed.main`, with their given vectors."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.search_speed.made_up_course import MadeUpCourse
from benchmarks.search_speed.our_systems import APP, COURSE, LOOK_UP, QUESTIONS, VECTORS
from benchmarks.search_speed.processes import Deadline
from benchmarks.serving import Serving, serving
from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.records import Record
from models.chunks import chunk_pages
from models.database import transaction
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Chunk
from retrieval.relevance import Calibration
from retrieval.snapshots.build import BuiltSnapshot
from retrieval.snapshots.snapshot import snapshot_arrays
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore

CALIBRATION = Calibration(noise=0.1, cjk_noise=0.1, signal=0.9)


@contextmanager
def published_course(course: MadeUpCourse, deadline: Deadline) -> Iterator[Serving]:
    """Start the product and publish the course with its collection."""
    with _serving(course) as started:
        started.publish((course.id, course.corpus()), course.id, partial(_write_collection, started, course, deadline))
        yield started


@contextmanager
def published_courses(courses: Sequence[MadeUpCourse], deadline: Deadline) -> Iterator[Serving]:
    """Start the product and publish the courses with their snapshots only: searches do not read the collections."""
    with _serving(courses[0]) as started:
        for course in courses:
            deadline.check()
            started.publish((course.id, course.corpus()), course.id, partial(_write_snapshot, started, course))
        yield started


@contextmanager
def _serving(course: MadeUpCourse) -> Iterator[Serving]:
    """Start the product, which knows the questions about the course."""
    with tempfile.TemporaryDirectory(prefix="course-search-") as name:
        questions, vectors = Path(name) / "questions.npz", Path(name) / "vectors.npy"
        course.save_questions(questions)
        np.save(vectors, course.vectors)
        with serving({QUESTIONS: str(questions), VECTORS: str(vectors), COURSE: course.id}, APP) as started:
            yield started


def _write_collection(serving_: Serving, course: MadeUpCourse, deadline: Deadline) -> tuple[CourseFingerprint, str]:
    """Write the collection like a run, but in larger batches and without checks."""
    collection = serving_.store.create(_info(course))
    content, written = FingerprintBuilder(), 0
    with transaction(serving_.engine) as session:
        for page in chunk_pages(session, course.id):
            deadline.check()
            collection.upsert(_records(page, content), course.vectors[written : written + len(page)])
            written += len(page)
    return content.build(LOOK_UP), CALIBRATION.as_text(LOOK_UP)


def _write_snapshot(serving_: Serving, course: MadeUpCourse) -> tuple[CourseFingerprint, str]:
    content = FingerprintBuilder()
    with transaction(serving_.engine) as session:
        records = [record for page in chunk_pages(session, course.id) for record in _records(page, content)]
    built = BuiltSnapshot(snapshot_arrays(records, course.vectors), _info(course), 1, content.build(LOOK_UP))
    SnapshotStore(SnapshotSettings(snapshot_dir=Path(serving_.settings["SNAPSHOT_DIR"]))).save(course.id, built)
    return built.fingerprint, CALIBRATION.as_text(LOOK_UP)


def _info(course: MadeUpCourse) -> CollectionInfo:
    return CollectionInfo(course.id, LOOK_UP, LOOK_UP)


def _records(page: Sequence[Chunk], content: FingerprintBuilder) -> list[Record]:
    return [Record(chunk.id, chunk.text, _metadata(chunk), content.add(chunk)) for chunk in page]


def _metadata(chunk: Chunk) -> dict[str, Any]:
    fields = ("course_id", "lecture_id", "section_id", "source_type", "language")
    return {**(chunk.extra or {}), **{field: getattr(chunk, field) for field in fields}}

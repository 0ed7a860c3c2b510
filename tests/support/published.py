"""Publishes courses without a model: the vectors are derived from the texts."""

import hashlib
from collections.abc import Sequence

import numpy as np
from sqlalchemy import Engine, insert

from embedding.vector_store.collections import CollectionInfo, CourseCollection, VectorStore
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models import course_state
from models.database import transaction
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from models.tables import Course

ANY_GENERATION = 1_000_000
"""Later than every generation of the tests: whatever is there is found."""

DIMENSIONS = 8
MODEL, SIGNATURE = "model", "signature"


def add_courses(engine: Engine, *course_ids: str) -> None:
    """Add rows of courses that are not embedded."""
    with transaction(engine) as session:
        session.execute(insert(Course), [{"id": course_id} for course_id in course_ids])


def records_of(course_id: str, texts: Sequence[str]) -> tuple[list[Record], Vectors, CourseFingerprint]:
    """The records and vectors of a collection with these texts, and its fingerprint."""
    content, records, vectors = FingerprintBuilder(), [], []
    for number, text in enumerate(texts):
        digest = hashlib.sha256(text.encode())
        metadata = {
            "course_id": course_id,
            "section_id": str(number % 2),
            "order_in_section": number,
            "标题": [text, None],
        }
        records.append(Record(f"{course_id}-{number}", text, metadata, digest.hexdigest()))
        content.add_hashed(records[-1].chunk_id, digest.hexdigest(), len(text))
        vectors.append(np.random.default_rng(digest.digest()[0]).standard_normal(DIMENSIONS))
    rows = np.asarray(vectors, dtype=np.float32)
    return records, rows / np.linalg.norm(rows, axis=1, keepdims=True), content.build(SIGNATURE)


def publish(engine: Engine, store: VectorStore, course_id: str, texts: Sequence[str]) -> CourseFingerprint:
    """Publish an existing course in the same order as a run: claim, write (in two batches), publish."""
    records, vectors, fingerprint = records_of(course_id, texts)
    with transaction(engine) as session:
        assert course_state.claim_course(session, course_id, "run")
    collection: CourseCollection = store.create(CollectionInfo(course_id, MODEL, SIGNATURE))
    half = len(records) // 2
    collection.upsert(records[:half], vectors[:half])
    collection.upsert(records[half:], vectors[half:])
    with transaction(engine) as session:
        assert course_state.publish(session, course_id, "run", str(fingerprint))
    return fingerprint


def publish_row(engine: Engine, course_id: str, chunks: int = 1, model: str = "m") -> None:
    """Publish the course without a collection: its fingerprint is that of `chunks` chunks with the text "text"."""
    content = FingerprintBuilder()
    for number in range(chunks):
        content.add_hashed(str(number), "hash", len("text"))
    with transaction(engine) as session:
        course_state.claim_course(session, course_id, "run")
        course_state.publish(session, course_id, "run", str(content.build(model)))

"""Builds a course snapshot from texts and their cosines to one query."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from models.fingerprint import CourseFingerprint, FingerprintBuilder
from retrieval.search import Query
from retrieval.snapshots.build import BuiltSnapshot
from retrieval.snapshots.snapshot import CourseSnapshot, snapshot_arrays

QUERY_VECTOR: Vectors = np.array([1, 0], dtype=np.float32)


def make_snapshot(
    texts: Mapping[str, str],
    cosines: Sequence[float] | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
) -> CourseSnapshot:
    """Build a snapshot in memory.

    Args:
        texts: Chunk id → text, in any order.
        cosines: Cosine of each text to `QUERY_VECTOR`; 0.5 by default.
        metadata: Chunk id → metadata.
    """
    return build(texts, cosines, metadata).in_memory()


def build(
    texts: Mapping[str, str],
    cosines: Sequence[float] | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    course_id: str = "c",
) -> BuiltSnapshot:
    """Build a snapshot that can be saved; arguments as for `make_snapshot`."""
    rows = sorted(zip(texts.items(), cosines or [0.5] * len(texts), strict=True))
    records = [Record(chunk_id, text, (metadata or {}).get(chunk_id, {}), "hash") for (chunk_id, text), _ in rows]
    vectors = np.array([(cosine, np.sqrt(1 - cosine**2)) for _, cosine in rows], dtype=np.float32).reshape(-1, 2)
    info = CollectionInfo(course_id, "model", "signature")
    return BuiltSnapshot(snapshot_arrays(records, vectors), info, 1, fingerprint(texts))


def fingerprint(texts: Mapping[str, str]) -> CourseFingerprint:
    content = FingerprintBuilder()
    for chunk_id, text in texts.items():
        content.add_hashed(chunk_id, text, len(text))
    return content.build("signature")


def query(text: str, legibility: float = 1.0) -> Query:
    return Query(text, QUERY_VECTOR, legibility)

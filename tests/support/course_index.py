"""Builds a course index from texts and their cosines to one query."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from embedding.vector_store.collections import CollectionInfo
from embedding.vector_store.records import Record
from embedding.vectors import Vectors
from retrieval.course_index import CourseIndex
from retrieval.keywords.index import KeywordIndexBuilder
from retrieval.search import Query

QUERY_VECTOR: Vectors = np.array([1, 0], dtype=np.float32)


def make_index(
    texts: Mapping[str, str],
    cosines: Sequence[float] | None = None,
    metadata: Mapping[str, Mapping[str, Any]] | None = None,
) -> CourseIndex:
    """Build an index.

    Args:
        texts: Chunk id → text, in any order.
        cosines: Cosine of each text to `QUERY_VECTOR`; 0.5 by default.
        metadata: Chunk id → metadata.
    """
    cosines = cosines or [0.5] * len(texts)
    rows = sorted(zip(texts.items(), cosines, strict=True))
    records = [Record(chunk_id, text, (metadata or {}).get(chunk_id, {}), "hash") for (chunk_id, text), _ in rows]
    vectors = np.array([(cosine, np.sqrt(1 - cosine**2)) for _, cosine in rows], dtype=np.float32).reshape(-1, 2)
    keywords = KeywordIndexBuilder().add_all((record.chunk_id, record.text) for record in records).build()
    return CourseIndex(records, vectors, keywords, CollectionInfo("c", "model", "signature"))


def query(text: str, legibility: float = 1.0) -> Query:
    return Query(text, QUERY_VECTOR, legibility)

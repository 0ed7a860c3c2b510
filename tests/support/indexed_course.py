"""A course that tests edit and index, with an embedder that needs no model."""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any
from uuid import uuid4

import numpy as np

from embedding.interface import Embedder, Embeddings, Pause, no_pause
from embedding.vector_store.collections import CourseCollection, VectorStore
from embedding.vector_store.indexing import IndexReport, index_course
from embedding.vectors import Vectors
from models.tables import Chunk

DIMENSIONS = 8


class StubEmbedder(Embedder):
    """Derives vectors from the hash of the text. Records embedded texts; `wrong` (text → vector) overrides vectors."""

    def __init__(self, signature: str = "signature") -> None:
        self.name = "stub"
        self.signature = signature
        self.dimensions = DIMENSIONS
        self.embedded: list[str] = []
        self.wrong: dict[str, Vectors] = {}

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        self.embedded += texts
        vectors = np.array([self.wrong.get(text, vector_of(text)) for text in texts])
        return Embeddings(vectors, tuple(map(len, texts)), truncated=sum(len(text) > 20 for text in texts))


def vector_of(text: str) -> Vectors:
    seed = int.from_bytes(sha256(text.encode(errors="surrogatepass")).digest()[:8])
    vector = np.random.default_rng(seed).standard_normal(DIMENSIONS, dtype=np.float32)
    unit: Vectors = vector / np.linalg.norm(vector)
    return unit


class IndexedCourse:
    """A course: edit `chunks`, call `index`, and compare `stored` with `expected`."""

    def __init__(self, store: VectorStore, embedder: StubEmbedder, texts: Sequence[str] = ()) -> None:
        self.id = str(uuid4())
        self.store = store
        self.embedder = embedder
        self.chunks = {
            f"chunk-{number:04}": self.chunk(f"chunk-{number:04}", text) for number, text in enumerate(texts)
        }

    def chunk(self, chunk_id: str, text: str, **fields: Any) -> Chunk:
        return Chunk(**{"id": chunk_id, "course_id": self.id, "lecture_id": "l1", "text": text, **fields})

    def pages(self, size: int = 100) -> list[list[Chunk]]:
        chunks = [self.chunks[chunk_id] for chunk_id in sorted(self.chunks)]
        return [chunks[start : start + size] for start in range(0, len(chunks), size)]

    def index(self, *, page_size: int = 100, **arguments: Any) -> IndexReport:
        self.embedder.embedded.clear()
        arguments = {"on_page": lambda _: None, **arguments}
        return index_course(self.id, self.pages(page_size), self.store, self.embedder, **arguments)

    @property
    def collection(self) -> CourseCollection:
        return self.store.open(self.id)

    def stored(self) -> dict[str, tuple[str, Any]]:
        """The content of the collection: chunk id → text and lecture. Asserts that the vectors match the texts."""
        content = {}
        for records, vectors in self.collection.contents():
            for record, vector in zip(records, vectors, strict=True):
                np.testing.assert_allclose(vector, vector_of(record.text), atol=1e-6)
                content[record.chunk_id] = (record.text, record.metadata["lecture_id"])
        return content

    def expected(self) -> dict[str, tuple[str, Any]]:
        """The chunks as written by stage one: chunk id → text and lecture."""
        return {chunk_id: (chunk.text, chunk.lecture_id) for chunk_id, chunk in self.chunks.items()}

"""An embedder that caches document vectors on disk, so that later runs of a benchmark can reuse them."""

import hashlib
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from embedding.interface import Embedder, Embeddings, Pause, no_pause
from embedding.vectors import Vectors


class CachedEmbedder(Embedder):
    """Embeds only documents that are not in the cache, and all queries. Not thread-safe.

    Args:
        embedder: Embeds documents that are not cached.
        directory: Directory of the cache, one SQLite file per model signature.
    """

    def __init__(self, embedder: Embedder, directory: Path) -> None:
        self.name = embedder.name
        self.signature = embedder.signature
        self.dimensions = embedder.dimensions
        self._embedder = embedder
        directory.mkdir(parents=True, exist_ok=True)
        self._file = directory / f"vectors-{embedder.signature}.db"

    def embed_documents(
        self,
        texts: Sequence[str],
        on_progress: Callable[[int], None] | None = None,
        pause: Pause = no_pause,
    ) -> Embeddings:
        """Vectors from the cache or the embedder; `truncated` counts only texts that were not cached."""
        keys = [hashlib.sha256(text.encode()).digest() for text in texts]
        with closing(sqlite3.connect(self._file)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS vector (text BLOB PRIMARY KEY, tokens INTEGER, vector BLOB)")
            known = {key: row for key in keys if (row := _cached(connection, key))}
            new = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
            embeddings = self._embedder.embed_documents(list(new.values()), on_progress, pause)
            rows = list(zip(new, embeddings.token_counts, embeddings.vectors, strict=True))
            connection.executemany(
                "INSERT OR REPLACE INTO vector VALUES (?, ?, ?)", [(key, n, v.tobytes()) for key, n, v in rows]
            )
        known |= {key: (tokens, vector) for key, tokens, vector in rows}
        vectors = np.stack([known[key][1] for key in keys])
        return Embeddings(vectors, tuple(known[key][0] for key in keys), embeddings.truncated)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """Vectors from the embedder."""
        return self._embedder.embed_queries(texts)

    def legibility(self, text: str) -> float:
        """Legibility from the embedder."""
        return self._embedder.legibility(text)


def _cached(connection: sqlite3.Connection, key: bytes) -> tuple[int, Vectors] | None:
    row = connection.execute("SELECT tokens, vector FROM vector WHERE text = ?", (key,)).fetchone()
    return (row[0], np.frombuffer(row[1], dtype=np.float32)) if row else None

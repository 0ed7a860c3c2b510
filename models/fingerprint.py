"""The fingerprint of a course: a digest of its chunks, their contexts and the embedding model, as one line of text.

A course must be embedded again when its chunks or the model have changed. Equal fingerprints mean the same chunks and
the same model, even if the chunks come from different databases. A run computes the fingerprint from the same chunks
that it embeds, so the published fingerprint always matches the collection.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from models.context import NO_CONTEXT, RECIPE, ContextFields
from models.tables import Chunk

_SAFE_INTEGER = 2**53
_COUNT = "0|[1-9][0-9]*"
_PATTERN = re.compile(
    rf"v1:(?P<chunks>{_COUNT}):(?P<characters>{_COUNT}):(?P<content>[0-9a-f]{{64}}):(?P<model>.*)", re.DOTALL
)


def _canonical(number: str) -> float:
    """Parse a JSON number. Whole floats become integers, because PostgreSQL's jsonb does not distinguish them."""
    value = float(number)
    return int(value) if value.is_integer() and abs(value) < _SAFE_INTEGER else value


# Shared, because creating them takes longer than using them.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_float=_canonical)


def chunk_hash(chunk: Chunk, context: str = "") -> str:
    """Hex SHA-256 of all fields of a chunk that are stored in a collection, without its id and course id.

    The fields are hashed as one JSON array, so different fields never give the same bytes. Missing and empty `metadata`
    have the same hash, and so have `1` and `1.0` in it, because databases return either form. The context is what is
    embedded with the text (`models.context`); without one, the hash is that of releases before there were contexts.
    """
    fields = [
        chunk.text,
        chunk.lecture_id,
        chunk.section_id,
        chunk.source_type,
        chunk.language,
        _DECODER.decode(_ENCODER.encode(chunk.extra or {})),
        *([RECIPE, context] if context else []),
    ]
    return hashlib.sha256(_ENCODER.encode(fields).encode()).hexdigest()


@dataclass(frozen=True)
class CourseFingerprint:
    """The chunks and the model of a collection. `str` and `parse` convert to and from the text of the column."""

    chunks: int
    characters: int
    """Total length of all texts in code points."""
    content: str
    """Hex digest of the ids and hashes of the chunks, independent of their order."""
    model: str
    """Signature of the embedding model and its settings."""

    def __str__(self) -> str:
        return f"v1:{self.chunks}:{self.characters}:{self.content}:{self.model}"

    @classmethod
    def parse(cls, value: str | None) -> Self | None:
        """Parse the output of `str`; None for any other text, which never equals a fingerprint."""
        match = _PATTERN.fullmatch(value or "")
        if match is None:
            return None
        return cls(int(match["chunks"]), int(match["characters"]), match["content"], match["model"])


class FingerprintBuilder:
    """Computes the fingerprint of a course chunk by chunk, in constant memory.

    Databases order ids differently (as numbers, as text, or by a collation). So the digest is the *sum* of one hash per
    chunk, modulo 2²⁵⁶, which is independent of the order. A repeated chunk, or a text moved to another id, changes it.

    Args:
        context_fields: Where the contexts of the chunks come from.
    """

    def __init__(self, context_fields: ContextFields = NO_CONTEXT) -> None:
        self._context_fields = context_fields
        self._chunks = 0
        self._characters = 0
        self._sum = 0

    def add(self, chunk: Chunk) -> str:
        """Add a chunk with its context, and return its `chunk_hash`."""
        content = chunk_hash(chunk, self._context_fields.of(chunk))
        self.add_hashed(chunk.id, content, characters=len(chunk.text or ""))  # stage one's column may be nullable
        return content

    def add_hashed(self, chunk_id: str, content: str, characters: int) -> None:
        """Add a chunk with a known `chunk_hash`, for example from a collection."""
        entry = hashlib.sha256(json.dumps([chunk_id, content]).encode()).digest()
        self._chunks += 1
        self._characters += characters
        self._sum = (self._sum + int.from_bytes(entry)) % 2**256

    def add_all(self, pages: Iterable[Iterable[Chunk]]) -> Self:
        """Add all chunks of the pages."""
        for page in pages:
            for chunk in page:
                self.add(chunk)
        return self

    def build(self, model: str) -> CourseFingerprint:
        """The fingerprint of all added chunks, for the embedding model with this signature."""
        return CourseFingerprint(self._chunks, self._characters, f"{self._sum:064x}", model)

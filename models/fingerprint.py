"""What a collection was made from, in one line of text.

A course must be embedded again when its chunks or the model changed. The fingerprint kept with a published course
tells: equal fingerprints mean equal collections, whichever database the chunks came from. The builder is fed while
the chunks are read for embedding, so that what is published is what was read.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from models.tables import Chunk

_SAFE_INTEGER = 2**53
_COUNT = "0|[1-9][0-9]*"
_FORM = re.compile(
    rf"v1:(?P<chunks>{_COUNT}):(?P<characters>{_COUNT}):(?P<content>[0-9a-f]{{64}}):(?P<model>.*)", re.DOTALL
)


def _canonical(number: str) -> float:
    """Whole floats become integers, as PostgreSQL's jsonb returns them."""
    value = float(number)
    return int(value) if value.is_integer() and abs(value) < _SAFE_INTEGER else value


# Made once, which is most of the cost of using them.
_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"))
_DECODER = json.JSONDecoder(parse_float=_canonical)


def chunk_hash(chunk: Chunk) -> str:
    """SHA-256 of all that a chunk puts into a collection, in hex; its ids are not part of it.

    The fields are written as one JSON array, so no two different chunks give the same bytes. A missing and an empty
    `metadata` are the same, as are `1` and `1.0` in it: the database decides which of them comes back.
    """
    fields = [
        chunk.text,
        chunk.lecture_id,
        chunk.section_id,
        chunk.source_type,
        chunk.language,
        _DECODER.decode(_ENCODER.encode(chunk.extra or {})),
    ]
    return hashlib.sha256(_ENCODER.encode(fields).encode()).hexdigest()


@dataclass(frozen=True)
class CourseFingerprint:
    """The chunks and the model a collection was made from; `str` and `parse` convert to and from the column's text."""

    chunks: int
    characters: int
    """Length of all texts together, in code points."""
    content: str
    """Hex digest over the ids and hashes of the chunks; their order doesn't matter."""
    model: str
    """Signature of the embedding model and its settings."""

    def __str__(self) -> str:
        return f"v1:{self.chunks}:{self.characters}:{self.content}:{self.model}"

    @classmethod
    def parse(cls, value: str | None) -> Self | None:
        """Reads what `str` wrote; None for anything else, which then counts as a different collection."""
        match = _FORM.fullmatch(value or "")
        if match is None:
            return None
        return cls(int(match["chunks"]), int(match["characters"]), match["content"], match["model"])


class FingerprintBuilder:
    """Computes a course's fingerprint while its chunks pass by, in constant memory.

    Databases order ids differently (9 before 10, or after it, or by a collation), so the digest is the *sum* of one
    hash a chunk, modulo 2²⁵⁶: any order gives the same, and a chunk fed twice or moved to another id does not.
    """

    def __init__(self) -> None:
        self._chunks = 0
        self._characters = 0
        self._sum = 0

    def add(self, chunk: Chunk) -> str:
        """Takes a chunk into the fingerprint and returns its `chunk_hash`."""
        content = chunk_hash(chunk)
        self.add_hashed(chunk.id, content, characters=len(chunk.text or ""))  # stage one's column may allow NULL
        return content

    def add_hashed(self, chunk_id: str, content: str, characters: int) -> None:
        """Takes a chunk into the fingerprint whose `chunk_hash` is known, as it is to a collection that holds it."""
        entry = hashlib.sha256(json.dumps([chunk_id, content]).encode()).digest()
        self._chunks += 1
        self._characters += characters
        self._sum = (self._sum + int.from_bytes(entry)) % 2**256

    def add_all(self, pages: Iterable[Iterable[Chunk]]) -> Self:
        """Takes all chunks of a course into the fingerprint, page by page."""
        for page in pages:
            for chunk in page:
                self.add(chunk)
        return self

    def build(self, model: str) -> CourseFingerprint:
        """The fingerprint of the chunks so far, embedded by the model of this signature."""
        return CourseFingerprint(self._chunks, self._characters, f"{self._sum:064x}", model)

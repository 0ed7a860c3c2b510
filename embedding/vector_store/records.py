"""A chunk as its collection holds it, and how Chroma is told.

Chroma takes flat metadata, numbers of 64 bits and text that can be encoded; stage one may have written anything. What
does not fit travels as JSON, and half of a surrogate pair becomes U+FFFD.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.text import without_surrogates

_FIELDS = ("course_id", "lecture_id", "section_id", "source_type", "language", "order_in_section")


@dataclass(frozen=True)
class Record:
    """A chunk as the collection holds it."""

    chunk_id: str
    text: str
    metadata: Mapping[str, Any]
    content_hash: str
    """Of the text and the metadata."""

    @property
    def text_hash(self) -> str:
        """SHA-256 of the text, in hex: where it is the same, the vector is."""
        return hashlib.sha256(without_surrogates(self.text).encode()).hexdigest()


class Hashes(NamedTuple):
    """What tells whether a record is still as it should be."""

    text: str
    """Empty in a record written before there was such a hash."""
    content: str


def to_chroma(record: Record) -> dict[str, str | int | float | bool | None]:
    """Chroma's metadata are flat: what can be filtered by stands alone, the rest travels as JSON.

    A write merges metadata, and a key is dropped only by writing None, hence every field is always there.
    """
    fields = {field: value for field in _FIELDS if _is_plain(value := record.metadata.get(field))}
    rest = {key: value for key, value in record.metadata.items() if key not in fields}
    return {
        **dict.fromkeys(_FIELDS),
        **{key: without_surrogates(value) if isinstance(value, str) else value for key, value in fields.items()},
        "extra": without_surrogates(json.dumps(rest, ensure_ascii=False)) if rest else None,
        "text_hash": record.text_hash,
        "content_hash": record.content_hash,
    }


def _is_plain(value: object) -> bool:
    """Whether Chroma can hold the value as it is: it refuses numbers beyond 64 bits, or rounds them."""
    return value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) < 2**63)


def equals(record: Record, text: str | None, metadata: Mapping[str, Any] | None) -> bool:
    """Whether the record was read back as it was written; fields that are None are not there."""
    written = to_chroma(record)
    return text == without_surrogates(record.text) and written == {key: (metadata or {}).get(key) for key in written}


def from_chroma(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of a record, from what Chroma holds of it."""
    rest: dict[str, Any] = json.loads(metadata.get("extra") or "{}", parse_constant=lambda _: None)  # NaN is no JSON
    return {field: metadata.get(field) for field in _FIELDS} | rest

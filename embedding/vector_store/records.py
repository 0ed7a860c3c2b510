"""The stored form of a chunk, and its conversion to and from Chroma's metadata.

Chroma accepts only flat metadata, 64-bit numbers and valid Unicode, whereas a chunk's metadata may be any JSON object.
Values that Chroma does not accept are stored as JSON text, and unpaired surrogates are replaced by U+FFFD.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from models.context import RECIPE
from models.text import without_surrogates

_FIELDS = ("course_id", "lecture_id", "section_id", "source_type", "language", "order_in_section")


@dataclass(frozen=True)
class Record:
    """A chunk as it is stored in a collection."""

    chunk_id: str
    text: str
    metadata: Mapping[str, Any]
    content_hash: str
    """SHA-256 of the text, the metadata and the context, in hex; see `models.fingerprint.chunk_hash`."""
    context: str = ""
    """The titles that are embedded and indexed with the text; see `models.context`. Empty if there is none."""

    @property
    def text_hash(self) -> str:
        """SHA-256 of the text and its context, in hex. Records with equal hashes have equal texts and vectors.

        Without a context it is the hash of the text, as in releases before there were contexts.
        """
        text = without_surrogates(self.text)
        content = json.dumps([RECIPE, self.context, text]) if self.context else text
        return hashlib.sha256(content.encode()).hexdigest()


class Hashes(NamedTuple):
    """The hashes stored with a record, which show whether its chunk has changed since."""

    text: str
    """Empty if the record was written by a version that did not store text hashes."""
    content: str


def to_chroma(record: Record) -> dict[str, str | int | float | bool | None]:
    """The record's metadata in Chroma's flat form.

    The fields that searches filter by, and a few others, have separate keys; the rest is one JSON text. Every key is
    always present: Chroma merges metadata on write and removes a key only if its value is None.
    """
    fields = {field: value for field in _FIELDS if _is_storable(value := record.metadata.get(field))}
    rest = {key: value for key, value in record.metadata.items() if key not in fields}
    return {
        **dict.fromkeys(_FIELDS),
        **{key: without_surrogates(value) if isinstance(value, str) else value for key, value in fields.items()},
        "extra": without_surrogates(json.dumps(rest, ensure_ascii=False)) if rest else None,
        "context": record.context or None,
        "text_hash": record.text_hash,
        "content_hash": record.content_hash,
    }


def _is_storable(value: object) -> bool:
    """Whether Chroma stores the value unchanged. It rejects or rounds numbers beyond 64 bits."""
    return value is None or isinstance(value, str) or (isinstance(value, int | float) and abs(value) < 2**63)


def matches_stored(record: Record, text: str | None, metadata: Mapping[str, Any] | None) -> bool:
    """Whether the text and metadata read from Chroma are those of the record. Chroma omits fields that are None."""
    written = to_chroma(record)
    return text == without_surrogates(record.text) and written == {key: (metadata or {}).get(key) for key in written}


def from_chroma(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The record's metadata, from Chroma's flat form."""
    rest: dict[str, Any] = json.loads(metadata.get("extra") or "{}", parse_constant=lambda _: None)  # NaN is not JSON
    return {field: metadata.get(field) for field in _FIELDS} | rest

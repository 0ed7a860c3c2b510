"""Converts course ids to names of Chroma collections and back.

Chroma allows names of 3–512 characters of `[a-zA-Z0-9._-]` that begin and end with a letter or digit and do not contain
`..`, whereas a course id is any text. The name of a plain id is `course_{id}`. In other ids every byte that is not
allowed, and `.` itself, becomes `.` and two hex digits. So different ids have different names.
"""

import hashlib
import re

PREFIX = "course_"
COPY_PREFIX = "copy-"
MAX_LENGTH = 512
_HASHED = PREFIX + ".h"  # `h` is not a hex digit, so no escaped id begins like this


def collection_name(course_id: str) -> str:
    """The name of the course's collection: valid for Chroma and unique per course id.

    If the escaped id is too long, the name contains its SHA-256 instead; the collection's metadata contains the id.

    Raises:
        ValueError: The id is empty or cannot be encoded as UTF-8.
    """
    if not course_id:
        raise ValueError("A course id must not be empty")
    last = len(course_id) - 1
    name = PREFIX + "".join(
        char if _is_allowed(char, is_last=index == last) else _escape(char) for index, char in enumerate(course_id)
    )
    if len(name) > MAX_LENGTH:
        return _HASHED + hashlib.sha256(course_id.encode()).hexdigest()
    return name


def copy_name(course_id: str) -> str:
    """The name of the copy that is to replace the course's collection. No collection of a course begins like it."""
    return COPY_PREFIX + hashlib.sha256(course_id.encode()).hexdigest()


def retired_name(course_id: str) -> str:
    """The name of the course's former collection, between its replacement by a copy and its deletion."""
    return copy_name(course_id) + "-former"


def course_id_of(name: str) -> str | None:
    """The course id that the collection name encodes; None if the name is hashed or not a course's."""
    if not name.startswith(PREFIX) or name.startswith(_HASHED):
        return None
    escaped = name.removeprefix(PREFIX).encode()
    try:
        return re.sub(rb"\.([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), escaped).decode()
    except UnicodeDecodeError:
        return None


def _is_allowed(char: str, *, is_last: bool) -> bool:
    return char.isascii() and (char.isalnum() or (char in "_-" and not is_last))


def _escape(char: str) -> str:
    return "".join(f".{byte:02x}" for byte in char.encode())

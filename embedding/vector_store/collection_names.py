"""Course id → Chroma collection name, reversibly.

Chroma allows 3–512 of `[a-zA-Z0-9._-]` with alphanumeric ends and no `..`; a course id is any text. Plain ids keep the
contract's form `course_{id}`; in others every byte that is not allowed becomes `.` and two hex digits, `.` itself
included, so that no two ids share a name.
"""

import hashlib
import re

PREFIX = "course_"
MAX_LENGTH = 512
_HASHED = PREFIX + ".h"  # `h` is no hex digit: never the start of an escape


def collection_name(course_id: str) -> str:
    """Name of the course's collection: legal for Chroma, and a different one for every id.

    An id too long to be escaped is named by its SHA-256; the collection's metadata still holds the id itself.

    Raises:
        ValueError: the id is empty or not encodable as UTF-8.
    """
    if not course_id:
        raise ValueError("A course id must not be empty")
    last = len(course_id) - 1
    name = PREFIX + "".join(
        char if _is_plain(char, is_last=index == last) else _escape(char) for index, char in enumerate(course_id)
    )
    if len(name) > MAX_LENGTH:
        return _HASHED + hashlib.sha256(course_id.encode()).hexdigest()
    return name


def course_id_of(name: str) -> str | None:
    """The id behind a collection name, or None when the name is hashed or not a course's at all."""
    if not name.startswith(PREFIX) or name.startswith(_HASHED):
        return None
    escaped = name.removeprefix(PREFIX).encode()
    try:
        return re.sub(rb"\.([0-9a-f]{2})", lambda match: bytes.fromhex(match[1].decode()), escaped).decode()
    except UnicodeDecodeError:
        return None


def _is_plain(char: str, *, is_last: bool) -> bool:
    return char.isascii() and (char.isalnum() or (char in "_-" and not is_last))


def _escape(char: str) -> str:
    return "".join(f".{byte:02x}" for byte in char.encode())

"""Limits of JSON that stage one or a client wrote. Python, PostgreSQL and SQLite accept more than can be processed.

Python parses JSON by recursion, so the depth that it accepts depends on its version and on the calling function.
"""

import json
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any, Never

from models.text import quoted

MAX_DEPTH = 100
"""Maximum number of nested arrays and objects in the metadata of a chunk."""


class DuplicateKeyError(ValueError):
    """A JSON object contains a key more than once. Parsers would silently keep one of the values."""


def whole_number(value: object) -> object:
    """`5` for `5.0`, which is an integer in JSON; any other value as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def refuse_constant(name: str) -> Never:
    """A `parse_constant` for `json.loads`, which would accept `NaN` and `Infinity` although JSON has neither.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{name} is no JSON")


def is_too_deep(value: Any) -> bool:
    """Whether more than `MAX_DEPTH` arrays and objects are nested in the value, including itself."""
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [item for container in level for item in _items(container) if isinstance(item, dict | list)]
        if not level:
            return False
    return True


def readable_json(text: str | bytes) -> Any:
    """Parse JSON that stage one wrote. None if it is invalid or too deep, so that one value does not end a query."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return None if is_too_deep(value) else value


def unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """The object with these members; an `object_pairs_hook` for `json.loads`.

    Raises:
        DuplicateKeyError: A key occurs more than once.
    """
    members = dict(pairs)
    if len(members) < len(pairs):
        [(name, _), *_] = Counter(key for key, _ in pairs).most_common(1)
        raise DuplicateKeyError(f"the key {quoted(name)} occurs more than once in an object")
    return members


def _items(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()

import json
from typing import Any

import pytest

from models.json_values import MAX_DEPTH, DuplicateKeyError, is_too_deep, unique_keys


def nested(depth: int, kind: str) -> Any:
    """`depth` arrays, objects, or both in turn, around a number."""
    value: Any = 1
    for level in range(depth):
        value = [value] if kind == "array" or (kind == "both" and level % 2) else {"a": "b", "c": value}
    return value


@pytest.mark.parametrize("kind", ["array", "object", "both"])
def test_depth_is_the_number_of_nested_arrays_and_objects(kind: str) -> None:
    assert not is_too_deep(nested(MAX_DEPTH, kind))
    assert is_too_deep(nested(MAX_DEPTH + 1, kind))
    assert is_too_deep(nested(10_000, kind))
    assert not is_too_deep([nested(MAX_DEPTH - 1, kind)] * 1000)


@pytest.mark.parametrize("value", [None, 1, "[[[[", {}, [], {"a": []}])
def test_shallow_value_is_not_too_deep(value: Any) -> None:
    assert not is_too_deep(value)


@pytest.mark.parametrize("content", ['{"a": 1, "b": 2, "a": 3}', '[{"b": {"a": 1, "a": 1}}]', '{"a": 1, "\\u0061": 2}'])
def test_second_occurrence_of_a_key_is_an_error(content: str) -> None:
    with pytest.raises(DuplicateKeyError, match="'a' occurs more than once"):
        json.loads(content, object_pairs_hook=unique_keys)


def test_equal_keys_of_different_objects_are_accepted() -> None:
    content = '{"a": {"a": [{"a": 1}, {"a": 2}]}, "A": 3}'
    assert json.loads(content, object_pairs_hook=unique_keys) == json.loads(content)

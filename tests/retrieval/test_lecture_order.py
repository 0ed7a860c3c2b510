"""`up_to`: the order of the lectures is known for certain, or there is none."""

from typing import Any

import pytest

from retrieval.lecture_order import NoLectureOrderError, UpTo
from tests.support.snapshots import make_snapshot


def reached(lectures: dict[str, dict[str, Any]], last: str, order: tuple[str, ...] | None = None) -> list[str]:
    """The lectures up to one, of a course with a chunk for each, and a chunk without a lecture."""
    metadata = {f"c{name}": {"lecture_id": name} | fields for name, fields in lectures.items()} | {"none": {}}
    course = make_snapshot(dict.fromkeys(metadata, "copper"), metadata=metadata)
    rows = course.rows(None, UpTo(last, order))
    assert rows is not None
    return [course.metadata(row)["lecture_id"] for row in rows.tolist()]


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("lecture_number", [1, 2, 10]),
        ("lecture_number", ["1", "2", "10"]),
        ("lecture_order", [0.5, 1, 7]),
        ("lecture_title", ["Lecture 1: Vias", "Lecture 2: Masks", "lecture 10 - Tests"]),
        ("lecture_title", ["1. Vias", "2) Masks", "10 Tests"]),
        ("lecture_title", ["1.2 Vias", "1.10 Masks", "2.1 Tests"]),
        ("lecture_title", ["第一讲 过孔", "第2讲 阻焊", "第十一讲 测试"]),
        ("lecture_title", ["Week 1", "Week 2", "Week 10"]),
    ],
)
def test_lectures_are_ordered_by_their_numbers(field: str, values: list[Any]) -> None:
    """Their ids say nothing: as text, 10 comes before 2."""
    lectures = {name: {field: value} for name, value in zip(("z", "10", "2"), values, strict=True)}
    assert reached(lectures, "10") == ["10", "z"]
    assert sorted(reached(lectures, "2")) == ["10", "2", "z"]


def test_a_number_counts_before_a_title() -> None:
    lectures = {
        "a": {"lecture_number": 2, "lecture_title": "1 Vias"},
        "b": {"lecture_number": 1, "lecture_title": "2 Masks"},
    }
    assert reached(lectures, "b") == ["b"]


@pytest.mark.parametrize(
    ("lectures", "reason"),
    [
        ({"1": {}, "2": {}}, "no chunk has lecture_number"),
        ({"1": {"lecture_title": "Vias"}, "2": {"lecture_title": "2 Masks"}}, "the lecture '1' has no number"),
        ({"1": {"lecture_number": 1}, "2": {}}, "lecture_number: the lecture '2' has no number"),
        ({"1": {"lecture_number": 1}, "2": {"lecture_number": 1}}, "the lectures '1' and '2' have the same number"),
        ({"1": {"lecture_number": [1, 2]}, "2": {"lecture_number": 3}}, "the lecture '1' has several numbers"),
        ({"1": {"lecture_title": "2D maps"}, "2": {"lecture_title": "3D maps"}}, "the lecture '1' has no number"),
        ({"1": {"lecture_number": True}, "2": {"lecture_number": 2}}, "the lecture '1' has no number"),
        ({"1": {"lecture_number": 1}}, "the course has no lecture '2'"),
    ],
)
def test_without_a_certain_order_there_is_none(lectures: dict[str, dict[str, Any]], reason: str) -> None:
    with pytest.raises(NoLectureOrderError, match=reason):
        reached(lectures, "2")


def test_the_order_of_the_request_counts() -> None:
    lectures: dict[str, dict[str, Any]] = {"1": {}, "2": {}, "3": {}}
    assert reached(lectures, "1", ("3", "1", "2")) == ["1", "3"]
    assert reached(lectures, "7", ("3", "7")) == ["3"], "a lecture without chunks"
    with pytest.raises(NoLectureOrderError, match="lecture_order does not contain the lecture '1'"):
        reached(lectures, "1", ("2", "3"))
    with pytest.raises(NoLectureOrderError, match="no lecture of the course, which has"):
        reached(lectures, "a", ("a", "b"))

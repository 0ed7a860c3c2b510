"""Filters: what they accept, and that they select the same chunks as a loop over the metadata."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.filters import FilterError, parse_filter
from retrieval.snapshots.snapshot import CourseSnapshot
from tests.support.snapshots import make_snapshot

ROWS: dict[str, dict[str, Any]] = {
    "a": {"page": 1, "tags": ["draft", "exam"], "date": "2026-01-31", "lecture_id": "1", "reviewed": True},
    "b": {"page": 2.5, "tags": "draft", "date": "2026-01-31T23:30:00Z", "lecture_id": 2},
    "c": {"page": 30, "tags": [], "date": "2026-02-01T00:30:00+01:00", "speaker": {"name": "Lin", "terms": [1, 2]}},
    "d": {"page": "iv", "tags": None, "reviewed": False, "lecture_id": "10", "language": "en"},
}


@pytest.fixture(scope="module")
def course() -> CourseSnapshot:
    return make_snapshot(dict.fromkeys(ROWS, "copper"), metadata=ROWS)


def found(course: CourseSnapshot, raw: dict[str, Any]) -> str:
    rows = course.rows(parse_filter(raw))
    assert rows is not None
    return "".join(course.chunk_ids[row] for row in rows.tolist())


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"page": 1}, "a"),
        ({"page": 1.0}, "a"),
        ({"page": [1, 30]}, "ac"),
        ({"page": "iv"}, "d"),
        ({"page": {"gte": 1, "lt": 30}}, "ab"),
        ({"page": {"gt": 1}}, "bc"),
        ({"page": {"not": 1}}, "bcd"),
        ({"page": {"not": {"gte": 2}}}, "ad"),
        ({"tags": "draft"}, "ab"),
        ({"tags": {"in": ["exam", "nothing"]}}, "a"),
        ({"tags": {"not": ["draft"]}}, "cd"),
        ({"tags": {"exists": True}}, "ab"),
        ({"tags": {"exists": False}}, "cd"),
        ({"reviewed": True}, "a"),
        ({"reviewed": [True, False]}, "ad"),
        ({"speaker.name": "Lin"}, "c"),
        ({"speaker.terms": {"gte": 2}}, "c"),
        ({"date": {"lte": "2026-01-31"}}, "abc"),
        ({"date": {"gt": "2026-01-31"}}, ""),
        ({"date": {"gte": "2026-02-01"}}, ""),
        ({"date": {"gte": "2026-01-31T23:15:00Z"}}, "bc"),
        ({"date": "2026-01-31"}, "a"),
        ({"lecture_id": 2}, "b"),
        ({"lecture_id": ["1", 10]}, "ad"),
        ({"section_id": "7"}, ""),
        ({"section_id": {"not": "7"}}, "abcd"),
        ({"chunk_id": ["a", "d", "z"]}, "ad"),
        ({"not": {"chunk_id": ["a", "d"]}}, "bc"),
        ({"or": [{"page": 1}, {"and": [{"tags": "draft"}, {"page": {"gt": 2}}]}]}, "ab"),
        ({"page": {"gt": 0}, "not": {"tags": "draft"}}, "c"),
        ({"language": "en", "lecture_id": None}, "d"),
    ],
)
def test_filter_selects(course: CourseSnapshot, raw: dict[str, Any], expected: str) -> None:
    assert found(course, raw) == expected


@pytest.mark.parametrize(
    ("raw", "path", "problem"),
    [
        ({"pages": 1}, "pages", "no chunk of the course has this field; its fields are 'chunk_id'"),
        ({"pages": {"exists": False}}, "pages.exists", "no chunk of the course has this field"),
        ({"or": [{"page": 1}, {"speaker": "Lin"}]}, "or.1.speaker", "no chunk of the course has this field"),
        ({"reviewed": "true"}, "reviewed", "the values of this field are true or false, like 'True', not text"),
        ({"speaker.terms": ["1", "2"]}, "speaker.terms", "the values of this field are numbers, like '1', not text"),
        (
            {"speaker.name": {"gte": 3}},
            "speaker.name.gte",
            "the values of this field are text, like 'Lin', not numbers",
        ),
        ({"page": {"lt": "2026-01-01"}}, "page.lt", "not dates"),
    ],
)
def test_filter_that_does_not_fit_to_the_course_is_an_error(
    course: CourseSnapshot, raw: dict[str, Any], path: str, problem: str
) -> None:
    """An empty result would say that the course has nothing."""
    with pytest.raises(FilterError) as raised:
        found(course, raw)
    assert raised.value.path == path
    assert problem in raised.value.problem


def test_whole_number_is_the_same_with_and_without_a_point() -> None:
    """Programs that have read a table write 3 as 3.0 in some rows."""
    pages: dict[str, dict[str, Any]] = {"a": {"page": 3}, "b": {"page": 3.0}, "c": {"page": [True, 3, 4, 3.0]}}
    course = make_snapshot(dict.fromkeys(pages, "copper"), metadata=pages)
    for page in (3, 3.0):
        assert found(course, {"page": page}) == "abc"
        assert found(course, {"page": {"not": page}}) == ""
    assert found(course, {"page": True}) == "c"


def test_depth_and_size_are_limited() -> None:
    nested: dict[str, Any] = {"page": 1}
    for _ in range(9):
        nested = {"not": nested}
    condition: Any = 1
    for _ in range(9):
        condition = {"not": condition}
    for raw in (
        nested,
        {"page": condition},
        {"page": list(range(101))},
        {"or": [{f"f{number}": 1 for number in range(51)} for _ in range(10)]},
    ):
        with pytest.raises(FilterError):
            parse_filter(raw)


values = st.one_of(
    st.sampled_from(["x", "2026-01-31", ""]), st.integers(-2, 2), st.booleans(), st.sampled_from([1.5, 1.0])
)
rows = st.lists(
    st.dictionaries(st.sampled_from("fg"), st.one_of(values, st.none(), st.lists(values, max_size=2))),
    min_size=1,
    max_size=8,
)
conditions = st.one_of(
    st.builds(lambda value: {"eq": value}, values),
    st.builds(lambda some: {"in": some}, st.lists(values, min_size=1, max_size=3)),
    st.builds(
        lambda operator, value: {operator: value}, st.sampled_from(["gt", "gte", "lt", "lte"]), st.integers(-2, 2)
    ),
    st.builds(lambda exists: {"exists": exists}, st.booleans()),
)
filters = st.recursive(
    st.builds(lambda name, condition: {name: condition}, st.sampled_from("fg"), conditions),
    lambda inner: st.one_of(
        st.builds(lambda parts: {"and": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda parts: {"or": parts}, st.lists(inner, min_size=1, max_size=3)),
        st.builds(lambda part: {"not": part}, inner),
    ),
    max_leaves=5,
)


def matches(metadata: dict[str, Any], raw: dict[str, Any]) -> bool:
    ((name, operand),) = raw.items()
    if name in ("and", "or"):
        return (all if name == "and" else any)(matches(metadata, part) for part in operand)
    if name == "not":
        return not matches(metadata, operand)
    value = metadata.get(name)
    elements = [each for each in (value if isinstance(value, list) else [value]) if each is not None]
    ((operator, limit),) = operand.items()
    if operator == "exists":
        return bool(elements) is limit
    if operator in ("eq", "in"):
        accepted = limit if operator == "in" else [limit]
        return any(
            each == one and isinstance(each, bool) == isinstance(one, bool) for each in elements for one in accepted
        )
    numbers = [each for each in elements if isinstance(each, int | float) and not isinstance(each, bool)]
    compare = {"gt": float.__gt__, "gte": float.__ge__, "lt": float.__lt__, "lte": float.__le__}[operator]
    return any(compare(float(each), float(limit)) for each in numbers)


@given(rows, filters)
def test_filter_selects_the_same_chunks_as_a_loop(metadata: list[dict[str, Any]], raw: dict[str, Any]) -> None:
    ids = [f"{number:02}" for number in range(len(metadata))]
    course = make_snapshot(dict.fromkeys(ids, "copper"), metadata=dict(zip(ids, metadata, strict=True)))
    try:
        rows = course.rows(parse_filter(raw))
    except FilterError:
        return
    assert rows is not None
    assert rows.tolist() == [row for row, each in enumerate(metadata) if matches(each, raw)]


def test_a_time_without_a_zone_is_in_utc(course: CourseSnapshot) -> None:
    moment = datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
    assert found(course, {"date": {"gte": moment.isoformat(), "lte": "2026-01-31T23:30:00"}}) == "bc"

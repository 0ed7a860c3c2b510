"""The snapshot: its content, filters, copies and neighbours, in memory and mapped from a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import ThreadpoolController

from retrieval.cosines import one_thread_per_product
from retrieval.filters import PLAIN_FIELDS, parse_filter
from retrieval.snapshots.snapshot import CourseSnapshot
from retrieval.snapshots.store import SnapshotSettings, SnapshotStore
from tests.support.published import ANY_GENERATION
from tests.support.snapshots import QUERY_VECTOR, build, fingerprint, make_snapshot

values = st.sampled_from([None, "1", "2", 2, "", "课", True, 1.5])
chunk_metadata = st.fixed_dictionaries({}, optional=dict.fromkeys(PLAIN_FIELDS, values))


def mapped(tmp_path: Path, texts: dict[str, str], metadata: dict[str, dict[str, Any]]) -> CourseSnapshot:
    store = SnapshotStore(SnapshotSettings(snapshot_dir=tmp_path / "snapshots"))
    store.save("c", build(texts, metadata=metadata))
    return store.open("c", fingerprint(texts), ANY_GENERATION)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_snapshot_contains_the_chunks_in_the_order_of_their_ids(tmp_path: Path, is_mapped: bool) -> None:
    texts = {"b": "copper\0 wire", "a10": "", "a9": "课程 😀", "课": "copper"}
    metadata: dict[str, dict[str, Any]] = {"b": {"标题": ["a", None, {"x": 1.5}], "section_id": 2}}
    snapshot = mapped(tmp_path, texts, metadata) if is_mapped else make_snapshot(texts, metadata=metadata)
    assert len(snapshot) == 4
    assert list(snapshot.chunk_ids) == sorted(texts)
    assert dict(zip(snapshot.chunk_ids, snapshot.texts, strict=True)) == texts
    assert snapshot.metadata(2) == {"chunk_id": "b", "标题": ["a", None, {"x": 1.5}], "section_id": 2}
    assert snapshot.metadata(0) == {"chunk_id": "a10"}
    assert snapshot.bm25.scores({"copper": 1})[0].astype(bool).tolist() == [False, False, True, True]
    assert (snapshot.info.course_id, snapshot.info.model_signature, snapshot.generation) == ("c", "signature", 1)


@pytest.mark.parametrize("is_mapped", [False, True])
def test_snapshot_of_a_course_without_chunks_is_empty(tmp_path: Path, is_mapped: bool) -> None:
    snapshot = mapped(tmp_path, {}, {}) if is_mapped else make_snapshot({})
    assert len(snapshot) == 0
    assert snapshot.bm25.scores({"copper": 1})[0].shape == (0,)
    assert snapshot.rows(None) is None
    assert snapshot.rows(parse_filter({"section_id": ["1"]})) == pytest.approx([])


def test_cosines_are_between_minus_1_and_1() -> None:
    snapshot = make_snapshot({"a": "x", "b": "y"}, [1.0, -1.0])
    cosines = snapshot.cosines.exact(QUERY_VECTOR * np.float32(1.0001), np.array([0, 1]))
    assert cosines.tolist() == [1.0, -1.0]
    assert snapshot.cosines.exact(QUERY_VECTOR, np.array([1])).tolist() == [-1.0]
    assert snapshot.cosines.product(QUERY_VECTOR * np.float32(1.0001)).tolist() == [1.0, -1.0]


def test_one_thread_per_product_limits_blas_threads_and_restores_them() -> None:
    def threads() -> set[int]:
        return {
            library.num_threads for library in ThreadpoolController().select(internal_api="openblas").lib_controllers
        }

    before = threads()
    with one_thread_per_product():
        assert threads() <= {1}
    assert threads() == before


def rows_of(snapshot: CourseSnapshot, **filters: Sequence[str]) -> str:
    rows = snapshot.rows(parse_filter(filters))
    assert rows is not None
    return "".join(snapshot.chunk_ids[row] for row in rows.tolist())


def test_filters_select_chunks_with_accepted_values() -> None:
    metadata: dict[str, dict[str, object]] = {
        "a": {"section_id": "1"},
        "b": {"section_id": "2"},
        "c": {"section_id": 2},
        "d": {},
    }
    snapshot = make_snapshot(dict.fromkeys("abcd", "x"), metadata=metadata)
    assert snapshot.rows(None) is None
    for accepted, expected in ((["1"], "a"), (["2"], "bc"), (["1", "2"], "abc"), (["3"], ""), (["None"], "")):
        assert rows_of(snapshot, section_id=accepted) == expected
    assert rows_of(snapshot, section_id=["1", "1", "3"]) == "a"
    assert rows_of(snapshot, section_id=["1"], lecture_id=["1"]) == ""


@given(
    st.lists(st.tuples(st.sampled_from(["copper", "solder", ""]), chunk_metadata), max_size=12),
    st.dictionaries(
        st.sampled_from(PLAIN_FIELDS), st.lists(st.sampled_from(["1", "2", "", "课", "True"]), min_size=1, max_size=3)
    ),
)
def test_filters_and_copies_equal_those_of_a_loop(
    chunks: list[tuple[str, dict[str, Any]]], filters: dict[str, list[str]]
) -> None:
    ids = [f"{number:02}" for number in range(len(chunks))]
    snapshot = make_snapshot(
        {chunk_id: text for chunk_id, (text, _) in zip(ids, chunks, strict=True)},
        metadata={chunk_id: metadata for chunk_id, (_, metadata) in zip(ids, chunks, strict=True)},
    )
    expected = [
        row
        for row, (_, metadata) in enumerate(chunks)
        if all(metadata.get(name) is not None and str(metadata[name]) in accepted for name, accepted in filters.items())
    ]
    rows = snapshot.rows(parse_filter(filters) if filters else None)
    assert (rows is None) == (not filters)
    assert (list(range(len(chunks))) if rows is None else rows.tolist()) == expected
    first: dict[str, int] = {}
    for row in expected:
        first.setdefault(chunks[row][0], row)
    distinct = snapshot.distinct(rows)
    assert (list(range(len(chunks))) if distinct is None else distinct.tolist()) == list(first.values())
    for row in expected:
        assert snapshot.copies(row, rows).tolist() == [
            other for other in expected if other != row and chunks[other][0] == chunks[row][0]
        ]


def test_neighbours_are_in_the_same_section_in_reading_order() -> None:
    def at(lecture: str, section: str | None, order: object) -> dict[str, object]:
        return {"lecture_id": lecture, "section_id": section, "order_in_section": order}

    metadata: dict[str, dict[str, object]] = {
        "z": at("1", "1", 0),
        "y": at("1", "1", 1.5),
        "x": at("1", "1", "2"),
        "12": at("1", "1", None),
        "9": at("1", "1", 10**400),
        "v": at("1", "2", 0),
        "u": at("2", "1", 0),
        "t": {},
    }
    snapshot = make_snapshot(dict.fromkeys(metadata, "text"), metadata=metadata)
    ids = list(snapshot.chunk_ids)

    def around(chunk_id: str, distance: int) -> tuple[str, str]:
        before, after = snapshot.neighbours(ids.index(chunk_id), distance)
        return "".join(ids[row] for row in before), "".join(ids[row] for row in after)

    assert around("y", 1) == ("z", "x")
    assert around("x", 5) == ("zy", "912")
    assert around("z", 2) == ("", "yx")
    assert around("y", 0) == ("", "")
    assert around("v", 3) == around("u", 3) == around("t", 3) == ("", "")

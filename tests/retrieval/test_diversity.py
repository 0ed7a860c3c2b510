"""Diversity: which hits are chosen, and that it depends on nothing but the course and the query."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retrieval.diversity import diverse
from retrieval.search import Fusion, Hit, Method, SearchOptions, search_snapshot
from retrieval.snapshots.snapshot import CourseSnapshot
from tests.support.brute_force import snapshot_of, unit
from tests.support.snapshots import make_snapshot, query

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def all_hits(snapshot: CourseSnapshot, options: SearchOptions) -> list[Hit]:
    return search_snapshot(snapshot, [query("copper")], options, len(snapshot)).hits


def ids(snapshot: CourseSnapshot, hits: list[Hit]) -> str:
    return "".join(snapshot.chunk_ids[hit.row] for hit in hits)


def test_results_that_resemble_better_ones_make_way() -> None:
    """By words only as well: the vectors of the course are there."""
    texts = {"a": "copper copper copper", "b": "copper copper plate", "c": "copper plate mask film", "d": "mask"}
    snapshot = make_snapshot(texts, [0.9, 0.89, 0.1, 0.0])
    hits = all_hits(snapshot, SearchOptions(Method.KEYWORD))
    assert ids(snapshot, diverse(snapshot.cosines, hits, 2, 0.0)) == "ab"
    assert ids(snapshot, diverse(snapshot.cosines, hits, 2, 0.7)) == "ac"
    assert ids(snapshot, diverse(snapshot.cosines, hits, 1, 1.0)) == "a"


@given(
    st.integers(1, 30),
    st.integers(0, 2**32),
    st.integers(1, 12),
    st.floats(0, 1),
    st.sampled_from([*map(SearchOptions, Method), SearchOptions(fusion=Fusion.RRF)]),
)
def test_best_hit_stays_and_scores_order_the_chosen_hits(
    rows: int, seed: int, limit: int, diversity: float, options: SearchOptions
) -> None:
    rng = np.random.default_rng(seed)
    vectors = unit(rng.choice([-1.0, 0.5, 1.0], (rows, 2)))
    snapshot = snapshot_of(vectors, [f"copper {' mask' * rng.integers(3)} number{row}" for row in range(rows)])
    hits = all_hits(snapshot, options)
    chosen = diverse(snapshot.cosines, hits, limit, diversity)
    assert [hit.row for hit in chosen] == [hit.row for hit in diverse(snapshot.cosines, hits, limit, diversity)]
    assert len(chosen) == min(limit, len(hits))
    assert chosen[0].row == hits[0].row
    order = [hit.row for hit in hits]
    assert [order.index(hit.row) for hit in chosen] == sorted({order.index(hit.row) for hit in chosen})


def test_equal_scores_and_vectors_leave_the_order() -> None:
    snapshot = make_snapshot({letter: f"copper {letter}{letter}" for letter in "abcdef"})
    hits = all_hits(snapshot, SearchOptions(Method.VECTOR))
    for diversity in (0.0, 0.5, 1.0):
        assert ids(snapshot, diverse(snapshot.cosines, hits, 3, diversity)) == "abc"
    assert diverse(snapshot.cosines, [], 3, 0.5) == []

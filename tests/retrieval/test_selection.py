"""Selection: which of the ranked hits an answer shows, in pages and groups, and their counts."""

from functools import partial

import numpy as np
import pytest

from retrieval.search import Hit, Method, RankedHits, Results, SearchOptions, search_snapshot
from retrieval.selection import Grouping, group, select
from retrieval.snapshots.snapshot import CourseSnapshot
from tests.support.snapshots import make_snapshot, query

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def ids(snapshot: CourseSnapshot, hits: list[Hit]) -> str:
    return "".join(snapshot.chunk_ids[hit.row] for hit in hits)


def overlapping_windows(size: int, step: int) -> CourseSnapshot:
    """Windows of one transcript, the earlier the more similar to the query."""
    words = [f"word{letter}{other}" for letter in "abcdefghij" for other in LETTERS]
    starts = range(0, len(words) - size + 1, step)
    texts = {LETTERS[at]: " ".join(words[start : start + size]) for at, start in enumerate(starts)}
    return make_snapshot(texts, np.linspace(0.9, 0.3, len(texts)).tolist())


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 20])
def test_a_window_that_better_ones_contain_makes_way(limit: int) -> None:
    snapshot = overlapping_windows(40, 20)
    search = partial(search_snapshot, snapshot, [query("x")], SearchOptions(Method.VECTOR))
    assert ids(snapshot, select(snapshot, search, 20).hits) == LETTERS[: len(snapshot)], "each adds something"
    order = [0, 2, 1, 4, 3, 6, 5, 7]

    def by_places(count: int) -> Results:
        found = search(20)
        ranked = RankedHits(
            found.ranked.rows[order][:count],
            found.ranked.scores[order][:count],
            None,
            is_complete=count >= len(order),
            hit=lambda rank: found.ranked[order[rank]],
        )
        return found._replace(ranked=ranked)

    assert ids(snapshot, select(snapshot, by_places, limit).hits) == "acegh"[:limit]


def test_a_window_is_left_out_only_after_the_better_ones() -> None:
    """A summary that another chunk repeats is the result if it is better."""
    words = [f"word{letter}{other}" for letter in "abcd" for other in LETTERS]
    texts = {"a": " ".join(words), "b": " ".join(words[10:40])}
    options = SearchOptions(Method.VECTOR)
    for cosines, expected in (([0.9, 0.5], "a"), ([0.5, 0.9], "ba")):
        snapshot = make_snapshot(texts, cosines)
        hits = select(snapshot, partial(search_snapshot, snapshot, [query("x")], options), 5).hits
        assert ids(snapshot, hits) == expected


def test_a_course_without_repeats_is_searched_once() -> None:
    snapshot = make_snapshot({"a": "copper", "b": "copper plating"})
    asked: list[int] = []

    def search(count: int) -> Results:
        asked.append(count)
        return search_snapshot(snapshot, [query("copper")], SearchOptions(), count)

    assert len(select(snapshot, search, 2).hits) == 2
    assert asked == [3]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_group_is_the_same_on_every_page(number: int) -> None:
    """Texts that better hits of other groups contain are shown, because those may be on another page."""
    words = [f"word{letter}{other}" for letter in "abcd" for other in LETTERS]
    texts = {"a": " ".join(words), "b": " ".join(words[10:40]), "c": " ".join(words[50:90]), "d": "tin " * 30}
    metadata = {"a": {"lecture_id": "1"}, "b": {"lecture_id": "2"}, "c": {"lecture_id": "1"}, "d": {"lecture_id": "3"}}
    snapshot = make_snapshot(texts, [0.9, 0.8, 0.7, 0.6], metadata)
    ranked = search_snapshot(snapshot, [query("x")], SearchOptions(Method.VECTOR), len(texts)).ranked
    pages: list[tuple[str, int]] = []
    for first in range(0, 4, number):
        grouping = Grouping(("lecture_id",), first, number, 2)
        hits, groups, has_more = group(snapshot, ranked, np.arange(len(ranked)), grouping)
        pages += [(ids(snapshot, [hits[place] for place in each.places]), each.hit_count) for each in groups]
        assert has_more == (first + number < 3)
    assert pages == [("a", 2), ("b", 1), ("d", 1)]


@pytest.mark.parametrize("offset", [0, 1])
def test_a_page_is_empty_only_if_no_other_hit_is_relevant(offset: int) -> None:
    """Hits are ordered by score, so a relevant one may come after any number of others."""
    texts = {letter: f"word{letter}" for letter in LETTERS}
    snapshot = make_snapshot(texts, np.linspace(0.9, 0.3, len(texts)).tolist())
    relevances = np.zeros(len(texts))
    relevances[[-2, -1]] = 0.5

    def search(count: int) -> Results:
        found = search_snapshot(snapshot, [query("x")], SearchOptions(Method.VECTOR), count)
        ranked = found.ranked
        shown = relevances[: len(ranked)]
        with_relevance = RankedHits(
            ranked.rows, ranked.scores, shown, is_complete=ranked.is_complete, hit=lambda rank: ranked[rank]
        )
        return found._replace(ranked=with_relevance)

    selection = select(snapshot, search, offset + 1, 0.5, offset=offset)
    assert ids(snapshot, selection.hits) == "yz"[: offset + 1]
    assert selection.has_more == (offset == 0)
    assert not select(snapshot, search, 1, 0.6).hits

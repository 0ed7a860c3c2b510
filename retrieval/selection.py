"""Selects what an answer shows of the ranked hits: a page, or the best hits of each lecture; and counts them.

A hit is left out if better ones contain its whole text: a window of a transcript that overlaps with its neighbours, or
a summary that is repeated at the end of a chapter.

Every selection is a function of the ranking of one generation, so the pages of a query neither overlap nor leave
anything out.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from retrieval.near_duplicates import SaidTexts
from retrieval.search import Hit, RankedHits, Results
from retrieval.snapshots.fields import Scalar, kind_of
from retrieval.snapshots.snapshot import CourseSnapshot

MOST_ASKED: Final = 8
"""Hits that are looked at for each result, at most."""

Ranks = NDArray[np.intp]
FacetCounts = Counter[tuple[type, Scalar]]
"""Numbers of hits by value and its kind; for Python, `True` equals 1."""


class Selection(NamedTuple):
    """Hits, best first, and the search that found them."""

    hits: list[Hit]
    has_more: bool
    """Whether there may be hits after these."""
    found: Results


class Group(NamedTuple):
    """The selected hits of one lecture or section."""

    row: int
    """The row of its best hit."""
    places: list[int]
    """Where its hits are among those selected."""
    hit_count: int
    """Number of all hits in it."""


class Grouping(NamedTuple):
    """How hits are grouped."""

    fields: tuple[str, ...]
    """The fields whose values make a group, like `lecture_id`."""
    first: int
    """The first group, from 0; groups are ordered by their best hit."""
    number: int
    """Number of groups."""
    size: int
    """Number of hits of each group."""


def select(
    snapshot: CourseSnapshot,
    search: Callable[[int], Results],
    limit: int,
    min_relevance: float | None = None,
    *,
    offset: int = 0,
) -> Selection:
    """The first `limit` hits that are relevant enough, without those whose whole text is in better ones.

    Args:
        snapshot: The course.
        search: Finds the given number of hits.
        limit: Number of hits; there may be fewer if very many are left out.
        min_relevance: Least relevance of a hit whose relevance can be estimated.
        offset: Where the page starts. All hits are looked at before it stays empty.
    """
    asked = limit + 1 if min_relevance is None else MOST_ASKED * limit
    while True:
        found = search(asked)
        ranks = accepted(found.ranked, min_relevance)
        hits = _first(snapshot, found.ranked, ranks.tolist(), limit + 1)
        has_enough = len(hits) > limit or (len(hits) > offset and asked >= MOST_ASKED * limit)
        if has_enough or found.ranked.is_complete:
            return Selection(hits[:limit], len(hits) > limit or not found.ranked.is_complete, found)
        asked = 2 * asked if asked < MOST_ASKED * limit else len(snapshot)


def accepted(ranked: RankedHits, min_relevance: float | None, least_score: float | None = None) -> Ranks:
    """The ranks of the hits that are relevant enough, and have at least the least score."""
    is_accepted = np.ones(len(ranked), dtype=np.bool_)
    if min_relevance is not None and ranked.relevances is not None:
        is_accepted &= ranked.relevances >= min_relevance
    if least_score is not None:
        is_accepted &= ranked.scores >= least_score
    return np.flatnonzero(is_accepted)


def group(
    snapshot: CourseSnapshot, ranked: RankedHits, ranks: Ranks, grouping: Grouping
) -> tuple[list[Hit], list[Group], bool]:
    """The best hits of each group.

    A hit is left out if better ones of its own group contain its text, so a group is the same on every page.

    Args:
        snapshot: The course.
        ranked: All hits.
        ranks: Those that may be selected.
        grouping: How they are grouped.

    Returns:
        The hits, best first; their groups; and whether there are more groups.
    """
    if not len(ranks):
        return [], [], False
    codes = np.stack([snapshot.codes(name)[ranked.rows[ranks]] for name in grouping.fields])
    _, first, number_of = np.unique(codes, axis=1, return_index=True, return_inverse=True)
    place = np.empty(len(first), dtype=np.int64)
    place[np.argsort(first)] = np.arange(len(first))  # groups by their best hit
    group_of = place[number_of.reshape(-1)]
    counts = np.bincount(group_of)
    end = min(grouping.first + grouping.number, len(counts))
    groups = {number: Group(-1, [], int(counts[number])) for number in range(grouping.first, end)}
    said, hits = defaultdict[int, SaidTexts](SaidTexts), list[Hit]()
    missing = len(groups) * grouping.size
    for rank, number in zip(ranks.tolist(), group_of.tolist(), strict=True):
        if not missing:
            break
        if number not in groups or len(groups[number].places) == grouping.size:
            continue
        hit = ranked[rank]
        text = snapshot.texts[hit.row]
        if snapshot.is_repeated(hit.row) and said[number].contain(text):
            continue
        if snapshot.has_repeats:
            said[number].add(text)
        if not groups[number].places:
            groups[number] = groups[number]._replace(row=hit.row)
        groups[number].places.append(len(hits))
        hits.append(hit)
        missing -= 1
    return hits, list(groups.values()), len(counts) > end


def facet(snapshot: CourseSnapshot, ranked: RankedHits, ranks: Ranks, field: str) -> FacetCounts:
    """The number of hits with each value of a field."""
    counted = FacetCounts()
    known = snapshot.fields.get(field)
    if known is not None:
        is_hit = np.zeros(len(snapshot), dtype=np.bool_)
        is_hit[ranked.rows[ranks]] = True
        counts = np.bincount(known.codes[is_hit[known.rows]], minlength=len(known.values))
        for code in np.flatnonzero(counts).tolist():
            value = known.values[code]
            counted[kind_of(value), value] = int(counts[code])
    return counted


def _first(snapshot: CourseSnapshot, ranked: RankedHits, ranks: Sequence[int], limit: int) -> list[Hit]:
    """The first hits that are not repeated."""
    if not snapshot.has_repeats:
        return [ranked[rank] for rank in ranks[:limit]]
    said, hits = SaidTexts(), list[Hit]()
    for rank in ranks:
        hit = ranked[rank]
        text = snapshot.texts[hit.row]
        if snapshot.is_repeated(hit.row) and said.contain(text):
            continue
        said.add(text)
        hits.append(hit)
        if len(hits) == limit:
            break
    return hits

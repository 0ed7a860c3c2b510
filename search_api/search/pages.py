"""What an answer shows of the hits: a page of them, or groups, and counts."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import Any, Final, NamedTuple

from models.text import quoted
from retrieval.citations import citation
from retrieval.diversity import diverse
from retrieval.filters import PLAIN_FIELDS, FilterError
from retrieval.lecture_order import NoLectureOrderError
from retrieval.relevance import MIN_RELEVANCE
from retrieval.search import Hit, RankedHits, Results
from retrieval.selection import FacetCounts, Grouping, Ranks, Selection, accepted, facet, group
from retrieval.snapshots.fields import Scalar
from retrieval.snapshots.snapshot import CourseSnapshot
from search_api.http.errors import InvalidRequestError
from search_api.search.conversion import groups_of, metadata_of
from search_api.search.schemas import MAX_OFFSET, SearchRequest

MAX_FACET_VALUES: Final = 100
"""Values of a facet, those with the most hits."""
MAX_FACET_CHARACTERS: Final = 1000
"""Longer texts are no values of a facet."""
TITLES: Final = {"lecture_id": "lecture_title", "section_id": "section_title"}
"""Fields whose values have a title, and its place in a citation."""
GROUP_FIELDS: Final = {"course": ("course_id",), "lecture": ("lecture_id",), "section": ("lecture_id", "section_id")}


class Counts(NamedTuple):
    """Which of all hits count, and how many have which metadata."""

    ranks: Ranks
    """The ranks of those that are relevant enough, and have a score that is high enough."""
    facets: dict[str, FacetCounts]
    """By field; without fields that the course does not have."""
    snapshot: CourseSnapshot
    """The course."""


class Page(NamedTuple):
    """The hits of an answer."""

    hits: list[Hit]
    """Best first."""
    found: Results
    """The search that found them."""
    next_offset: int | None
    """Where the next page starts; None if this is the last."""
    total: int | None = None
    """Number of all hits; None if they were not counted."""
    groups: list[dict[str, Any]] | None = None
    facets: dict[str, list[dict[str, Any]]] | None = None


def counted(snapshot: CourseSnapshot, ranked: RankedHits, request: SearchRequest, best: float) -> Counts:
    """Count the hits.

    Reranking changes the scores of a part of the hits only, so then no threshold of the score is applied.

    Args:
        snapshot: The course.
        ranked: All hits.
        request: What is asked for.
        best: The best score of the answer.
    """
    least = -inf if request.rerank == "model" else least_score(request, best)
    ranks = accepted(ranked, request.min_relevance, least)
    known = [name for name in request.facets if name in snapshot.fields or name in PLAIN_FIELDS or not len(snapshot)]
    return Counts(ranks, {name: facet(snapshot, ranked, ranks, name) for name in known}, snapshot)


def facets_of(counts: Sequence[Counts], request: SearchRequest) -> dict[str, list[dict[str, Any]]] | None:
    """The facets of an answer: for each field, the values with the most hits.

    Args:
        counts: Those of each course that was searched.
        request: What is asked for.

    Raises:
        InvalidRequestError: No course has the field of a facet.
    """
    facets = {}
    for name in request.facets:
        of_courses = [each.facets[name] for each in counts if name in each.facets]
        if counts and not of_courses:
            where = "the course" if len(counts) == 1 else "the courses"
            raise InvalidRequestError(f"facets: no chunk of {where} has the field {quoted(name)}")
        counted = sum(of_courses, FacetCounts())
        shown = FacetCounts({key: count for key, count in counted.items() if _is_short(key[1])})
        values = shown.most_common(MAX_FACET_VALUES)
        facets[name] = [{"value": key[1], "title": _title(counts, name, key), "count": count} for key, count in values]
    return facets or None


def _is_short(value: Scalar) -> bool:
    return not isinstance(value, str) or len(value) <= MAX_FACET_CHARACTERS


def _title(counts: Sequence[Counts], name: str, key: tuple[type, Scalar]) -> str | None:
    """The title of the lecture or section with this id, from a chunk of it; None for other fields."""
    snapshot = next((each.snapshot for each in counts if key in each.facets.get(name, ())), None)
    if name not in TITLES or snapshot is None:
        return None
    field = snapshot.fields[name]
    row = int(field.having([field.code_of[key]])[0])
    title: str | None = citation(metadata_of(snapshot, row), snapshot.info.course_id, None)[TITLES[name]]
    return title


def best_score(ranked: RankedHits, request: SearchRequest) -> float:
    """The best score of a hit that is relevant enough; 0.0 if there is none."""
    ranks = accepted(ranked, request.min_relevance)
    return float(ranked.scores[ranks[0]]) if len(ranks) else 0.0


def grouped(snapshot: CourseSnapshot, found: Results, counts: Counts, request: SearchRequest) -> Page:
    """The page of a request with `group_by`."""
    by = request.group_by or "lecture"
    grouping = Grouping(GROUP_FIELDS[by], request.offset, request.top_k, request.group_size)
    hits, groups, has_more = group(snapshot, found.ranked, counts.ranks, grouping)
    listed = groups_of(groups, by, snapshot)
    after = next_offset(request, request.top_k) if has_more else None
    return Page(hits, found, after, len(counts.ranks), listed, facets_of([counts], request))


def page_of(
    snapshot: CourseSnapshot, selection: Selection, request: SearchRequest, counts: Counts | None, *, is_degraded: bool
) -> Page:
    """The page of a request without `group_by`.

    Args:
        snapshot: The course.
        selection: The hits, from the first one until the end of the page or beyond.
        request: What is asked for.
        counts: Its counts, if it asks for them.
        is_degraded: Whether the scores are others than the request expects, so that `thresholds.score` means nothing.
    """
    hits, end = selection.hits, request.offset + request.top_k
    least = least_score(request, hits[0].score, is_degraded=is_degraded) if hits else 0.0
    passing = [hit for hit in hits if hit.score >= least]
    if request.diversity:
        shown = diverse(snapshot.cosines, passing, request.top_k, request.diversity)
    else:
        shown = passing[request.offset : end]
    may_continue = len(passing) > end or (selection.has_more and len(passing) == len(hits))
    after = next_offset(request, len(shown)) if shown and may_continue and not request.diversity else None
    total, facets = (len(counts.ranks), facets_of([counts], request)) if counts else (None, None)
    return Page(shown, selection.found, after, total, None, facets)


def least_score(request: SearchRequest, best: float, *, is_degraded: bool = False) -> float:
    """The lowest score of a result, if the best one has the score `best`."""
    least = -inf if request.thresholds.score is None or is_degraded else request.thresholds.score
    share = request.relative_threshold
    # A share of a negative cosine would be higher than the cosine.
    return least if share is None else max(least, min(share * best, best))


def is_answerable(best_relevance: float | None, request: SearchRequest) -> bool | None:
    """Whether the best passage is relevant enough for an answer; None if relevance is not known."""
    least = MIN_RELEVANCE if request.min_relevance is None else request.min_relevance
    return None if best_relevance is None else best_relevance >= least


@contextmanager
def not_applicable_as_api_error() -> Iterator[None]:
    """Raise InvalidRequestError if a filter, `up_to` or a facet cannot be applied to the course."""
    try:
        yield
    except FilterError as error:
        raise InvalidRequestError(f"filters{'.' if error.path else ': '}{error}") from error
    except NoLectureOrderError as error:
        raise InvalidRequestError(f"up_to: {error}") from error


def next_offset(request: SearchRequest, number: int) -> int | None:
    """Where the page after one with this number of results or groups starts; None if that is too far."""
    after = request.offset + number
    return after if after <= MAX_OFFSET else None

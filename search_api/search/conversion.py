"""Converts a request body to search options, and hits to a response body."""

from collections.abc import Sequence
from typing import Any

from retrieval.fusion import Weights
from retrieval.highlights import matches
from retrieval.search import Explanation, Fusion, Hit, Method, SearchOptions, Thresholds
from retrieval.snapshots.snapshot import CourseSnapshot
from search_api.search.schemas import MAX_COPIES, SearchRequest


def options_of(request: SearchRequest) -> SearchOptions:
    """The options that the request asks for."""
    weights, thresholds = request.weights, request.thresholds
    return SearchOptions(
        method=Method(request.method),
        fusion=Fusion(request.fusion),
        weights=Weights(weights.vector, weights.keyword) if weights else None,
        thresholds=Thresholds(thresholds.vector, thresholds.keyword),
        filters=request.filters.model_dump(exclude_none=True) if request.filters else {},
    )


def search_response(
    hits: Sequence[Hit],
    request: SearchRequest,
    snapshot: CourseSnapshot,
    *,
    answerable: bool | None,
    unknown_terms: Sequence[str],
    generation: int,
    stale: bool,
    degraded: str | None,
    query_cut: list[dict[str, Any]] | None,
) -> dict[str, Any]:
    """The response body, as `SearchResponse` documents it. Pydantic does not validate it again.

    Args:
        hits: Best first.
        request: Decides which optional fields are included.
        snapshot: The snapshot that was searched.
        answerable: Whether the course seems to cover the query; None if that is not known.
        unknown_terms: The words of the queries that the course never uses.
        generation: The generation of the course.
        stale: Whether something newer than these results exists, or is being made.
        degraded: What is missing from the answer, and why; None if nothing is.
        query_cut: The queries that were cut, as `QueryCut` documents them; None if none was.
    """
    results = [_result(hit, request, snapshot) for hit in hits]
    return {
        "results": results,
        "answerable": answerable,
        "unknown_terms": unknown_terms,
        "generation": generation,
        "stale": stale,
        "degraded": degraded,
        "query_cut": query_cut,
    }


def _result(hit: Hit, request: SearchRequest, snapshot: CourseSnapshot) -> dict[str, Any]:
    passage, explanation = _passage(snapshot, hit.row), hit.explanation
    return {
        **passage,
        "score": hit.score,
        "relevance": hit.relevance,
        "matches": matches(passage["text"], explanation.words.marks) if explanation.bm25 else [],
        "copies": [snapshot.metadata(row) for row in hit.copies[:MAX_COPIES].tolist()],
        "copy_count": len(hit.copies),
        "near_copies": [snapshot.metadata(row) for row in hit.near_copies[:MAX_COPIES].tolist()],
        "near_copy_count": len(hit.near_copies),
        "context": _neighbours(snapshot, hit.row, request.context) if request.context else None,
        "explanation": _explanation(explanation) if request.explain else None,
    }


def _passage(snapshot: CourseSnapshot, row: int) -> dict[str, Any]:
    return {"text": snapshot.texts[row], "metadata": snapshot.metadata(row)}


def _neighbours(snapshot: CourseSnapshot, row: int, distance: int) -> dict[str, Any]:
    before, after = snapshot.neighbours(row, distance)
    return {
        "before": [_passage(snapshot, other) for other in before],
        "after": [_passage(snapshot, other) for other in after],
    }


def _explanation(explanation: Explanation) -> dict[str, Any]:
    weights, words = explanation.weights, explanation.words
    fields = explanation._asdict() | {"weights": weights._asdict() if weights else None}
    del fields["words"]
    return fields | {"terms": list(words.terms), "expansions": words.expansions}

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
    generation: int,
    stale: bool,
    degraded: str | None,
) -> dict[str, Any]:
    """The response body, as `SearchResponse` documents it. Pydantic does not validate it again.

    Args:
        hits: Best first.
        request: Decides which optional fields are included.
        snapshot: The snapshot that was searched.
        generation: The generation of the course.
        stale: Whether something newer than these results exists, or is being made.
        degraded: What is missing from the answer, and why; None if nothing is.
    """
    results = [_result(hit, request, snapshot) for hit in hits]
    return {"results": results, "generation": generation, "stale": stale, "degraded": degraded}


def _result(hit: Hit, request: SearchRequest, snapshot: CourseSnapshot) -> dict[str, Any]:
    passage, explanation = _passage(snapshot, hit.row), hit.explanation
    return {
        **passage,
        "score": hit.score,
        "matches": matches(passage["text"], explanation.terms) if explanation.bm25 else [],
        "copies": [snapshot.metadata(row) for row in hit.copies[:MAX_COPIES].tolist()],
        "copy_count": len(hit.copies),
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
    weights = explanation.weights
    return explanation._asdict() | {"weights": weights._asdict() if weights else None}

"""Converts a request body to search options, and hits to a response body."""

from collections.abc import Sequence

from embedding.vector_store.records import Record
from retrieval.course_index import CourseIndex
from retrieval.fusion import Weights
from retrieval.highlights import matches
from retrieval.search import Explanation, Fusion, Hit, Method, SearchOptions, Thresholds
from search_api.search.schemas import (
    ChannelWeights,
    Neighbours,
    Passage,
    ResultExplanation,
    SearchRequest,
    SearchResponse,
    SearchResult,
)


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
    *,
    index: CourseIndex | None,
    generation: int,
    stale: bool,
    degraded: str | None,
) -> SearchResponse:
    """The response body. Its values come from this app, so Pydantic does not validate them again.

    Args:
        hits: Best first.
        request: Decides which optional fields are included.
        index: The course index that was searched; None if Chroma was searched.
        generation: The generation of the course.
        stale: Whether the course is not `done`.
        degraded: What is missing from the answer, and why; None if nothing is.
    """
    return SearchResponse.model_construct(
        results=[_result(hit, request, index) for hit in hits],
        generation=generation,
        stale=stale,
        degraded=degraded,
    )


def _result(hit: Hit, request: SearchRequest, index: CourseIndex | None) -> SearchResult:
    explanation = hit.explanation
    return SearchResult.model_construct(
        text=hit.record.text,
        score=hit.score,
        metadata=_metadata(hit.record),
        matches=matches(hit.record.text, explanation.terms) if explanation and explanation.bm25 else [],
        copies=[_metadata(copy) for copy in hit.copies],
        context=_neighbours(index, hit.row, request.context) if request.context and index else None,
        explanation=_explanation(explanation) if request.explain and explanation else None,
    )


def _metadata(record: Record) -> dict[str, object]:
    return {**record.metadata, "chunk_id": record.chunk_id}


def _neighbours(index: CourseIndex, row: int, distance: int) -> Neighbours:
    before, after = (
        [Passage.model_construct(text=record.text, metadata=_metadata(record)) for record in records]
        for records in ([index.records[row] for row in rows] for rows in index.neighbours(row, distance))
    )
    return Neighbours.model_construct(before=before, after=after)


def _explanation(explanation: Explanation) -> ResultExplanation:
    values = explanation._asdict() | {"terms": list(explanation.terms)}
    weights = explanation.weights
    values["weights"] = ChannelWeights.model_construct(**weights._asdict()) if weights else None
    return ResultExplanation.model_construct(**values)

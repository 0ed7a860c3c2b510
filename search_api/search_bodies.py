"""From the body of a search to what is searched for, and from what was found to the body of the answer."""

from embedding.records import Record
from retrieval.fusion import Weights
from retrieval.search import Fusion, Method, Options, Thresholds
from search_api.search import Answer, Found, Plan
from search_api.search_schemas import (
    ChannelWeights,
    Neighbours,
    Passage,
    ResultExplanation,
    SearchRequest,
    SearchResponse,
    SearchResult,
)


def plan_of(request: SearchRequest) -> Plan:
    """What the caller wants."""
    weights, thresholds = request.weights, request.thresholds
    return Plan(
        queries=request.query,
        top_k=request.top_k,
        options=Options(
            method=Method(request.method),
            fusion=Fusion(request.fusion),
            weights=Weights(weights.vector, weights.keyword) if weights else None,
            thresholds=Thresholds(thresholds.score, thresholds.vector, thresholds.keyword),
            filters=request.filters.model_dump(exclude_none=True) if request.filters else {},
        ),
        rerank=request.rerank == "model",
        context=request.context,
    )


def answer_body(answer: Answer, request: SearchRequest) -> SearchResponse:
    """What the caller gets. Nothing of it comes from outside, so it is not checked once more."""
    return SearchResponse.model_construct(
        results=[_result(found, request) for found in answer.found],
        generation=answer.generation,
        stale=answer.is_stale,
        degraded=answer.degraded,
    )


def _result(found: Found, request: SearchRequest) -> SearchResult:
    return SearchResult.model_construct(
        text=found.record.text,
        score=found.score,
        metadata=_metadata(found.record),
        matches=list(found.matches),
        copies=[_metadata(copy) for copy in found.copies],
        context=_neighbours(found) if request.context and found.explanation else None,
        explanation=_explanation(found) if request.explain else None,
    )


def _metadata(record: Record) -> dict[str, object]:
    return {**record.metadata, "chunk_id": record.chunk_id}


def _neighbours(found: Found) -> Neighbours:
    before, after = (
        [Passage.model_construct(text=record.text, metadata=_metadata(record)) for record in records]
        for records in (found.before, found.after)
    )
    return Neighbours.model_construct(before=before, after=after)


def _explanation(found: Found) -> ResultExplanation | None:
    if found.explanation is None:
        return None
    values = found.explanation._asdict() | {"terms": list(found.explanation.terms)}
    weights = found.explanation.weights
    values["weights"] = ChannelWeights.model_construct(**weights._asdict()) if weights else None
    return ResultExplanation.model_construct(**values)

"""`POST /v1/rerank`: the rerank model of searches, for clients that bring their own passages.

The embedding app does not have this route, because it has no rerank model.
"""

from uuid import uuid4

from fastapi import APIRouter, Security

from search_api.embeddings.schemas import Usage
from search_api.http import errors
from search_api.http.auth import token_header
from search_api.http.dependencies import AppServices
from search_api.http.error_responses import GUARDED_RESPONSES, openapi_responses
from search_api.http.errors import check_at_most, check_model
from search_api.http.json_route import JsonRoute
from search_api.reranking.schemas import RerankedDocument, RerankRequest, RerankResponse, RerankResult

router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    dependencies=[Security(token_header)],
    responses=GUARDED_RESPONSES,
    route_class=JsonRoute,
)


@router.post(
    "/rerank",
    summary="Rerank documents (as Cohere, Jina and vLLM)",
    responses=openapi_responses(
        errors.ModelNotFoundError, *errors.BODY_ERRORS, errors.OverloadedError, errors.RerankModelUnavailableError
    ),
)
def rerank(request: RerankRequest, services: AppServices) -> RerankResponse:
    """Score each document by reading it together with the query.

    The answer comes after at most RERANKER_TIMEOUT_SECONDS. What was scored until then is in the answer, and `degraded`
    says what is missing. If nothing was scored, the answer is an error.
    """
    service, documents = services.reranking, request.documents
    check_at_most(services.settings.openai_max_texts, len(documents), "documents")
    if request.model:
        check_model(request.model, service.model_name)
    distinct = list(dict.fromkeys(documents))
    reranking = service.rerank(request.query, distinct)
    if not reranking.scores:
        raise reranking.error(f"No document was scored: {reranking.reason}")
    score_of = dict(zip(distinct, reranking.scores, strict=False))
    scored = [(index, text) for index, text in enumerate(documents) if text in score_of]
    scored.sort(key=lambda document: -score_of[document[1]])
    tokens = service.count_tokens(request.query, list(score_of))
    return RerankResponse(
        id=f"rerank-{uuid4().hex}",
        model=service.model_name,
        results=[
            RerankResult(
                index=index,
                relevance_score=score_of[text],
                document=RerankedDocument(text=text) if request.return_documents else None,
            )
            for index, text in scored[: request.top_n]
        ],
        usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        degraded=f"only {len(scored)} of {len(documents)} documents were scored: {reranking.reason}"
        if reranking.reason
        else None,
    )

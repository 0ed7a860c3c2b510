"""Routes that embed texts: `POST /embed`, and the OpenAI-compatible API under `/v1/`.

Texts are embedded as documents, in the queue for bulk work, unless an OpenAI-compatible request marks them as queries.
"""

import base64
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Path, Response, Security

from embedding.interface import Embedder
from embedding.vectors import Vectors
from search_api.embeddings.schemas import (
    EmbeddingItem,
    EmbeddingsRequest,
    EmbeddingsResponse,
    EmbedRequest,
    EmbedResponse,
    Model,
    ModelList,
    Usage,
)
from search_api.http import errors
from search_api.http.auth import token_header
from search_api.http.dependencies import AppModelServices
from search_api.http.error_responses import GUARDED_RESPONSES, openapi_responses
from search_api.http.errors import InvalidRequestError, ModelNotFoundError, check_at_most, check_model
from search_api.http.json_route import JsonRoute

MIN_DIMENSIONS = 32
"""The model card allows 32 to 1024 (huggingface.co/Qwen/Qwen3-Embedding-0.6B)."""

ModelName = Annotated[
    str, Path(description="EMBEDDING_MODEL_NAME; a prefix such as `Qwen/` and capitals do not matter.")
]

router = APIRouter(
    tags=["embedding"], dependencies=[Security(token_header)], responses=GUARDED_RESPONSES, route_class=JsonRoute
)
openai_router = APIRouter(
    prefix="/v1",
    tags=["openai"],
    dependencies=[Security(token_header)],
    responses=GUARDED_RESPONSES,
    route_class=JsonRoute,
)


@router.post(
    "/embed",
    summary="Embed texts",
    responses=openapi_responses(*errors.BODY_ERRORS, errors.EmbeddingServiceUnavailableError, errors.OverloadedError),
)
def embed_texts(request: EmbedRequest, services: AppModelServices) -> EmbedResponse:
    """Embed the texts as documents, that is, without the query prompt of the model."""
    check_at_most(services.settings.embed_max_texts, len(request.texts), "texts")
    embeddings = services.embedding.embed_documents(request.texts)
    model = services.embedding.model
    return EmbedResponse(
        embeddings=embeddings.vectors.tolist(),
        model=model.name,
        dimensions=model.dimensions,
        truncated=embeddings.truncated,
    )


@openai_router.post(
    "/embeddings",
    summary="Embed texts (OpenAI-compatible)",
    response_model=EmbeddingsResponse,
    responses=openapi_responses(
        ModelNotFoundError, *errors.BODY_ERRORS, errors.EmbeddingServiceUnavailableError, errors.OverloadedError
    ),
)
def create_embeddings(request: EmbeddingsRequest, services: AppModelServices) -> Response:
    """Embed texts for OpenAI clients: `OpenAI(base_url="http://…/v1", api_key=INTERNAL_TOKEN)`."""
    check_at_most(services.settings.openai_max_texts, len(request.input), "input")
    service, model = services.embedding, services.embedding.model
    if request.model:
        check_model(request.model, model.name)
    _check_dimensions(request.dimensions, model.dimensions)
    is_query = request.input_type == "query"
    embeddings = (service.embed_queries if is_query else service.embed_documents)(request.input)
    vectors = _shortened(embeddings.vectors, request.dimensions or model.dimensions)
    tokens = sum(embeddings.token_counts)
    encoded = map(_base64, vectors) if request.encoding_format == "base64" else vectors.tolist()
    answer = EmbeddingsResponse(
        data=[EmbeddingItem(index=index, embedding=vector) for index, vector in enumerate(encoded)],
        model=model.name,
        usage=Usage(prompt_tokens=tokens, total_tokens=tokens),
        signature=model.signature,
        token_counts=list(embeddings.token_counts),
        whole_token_counts=None if embeddings.whole_token_counts is None else list(embeddings.whole_token_counts),
        truncated=embeddings.truncated,
        legibility=[model.legibility(text) for text in request.input] if is_query else None,
    )
    return Response(answer.model_dump_json(), media_type="application/json")


@openai_router.get(
    "/models",
    summary="The model (OpenAI-compatible)",
    responses=openapi_responses(errors.EmbeddingServiceUnavailableError),
)
def list_models(services: AppModelServices) -> ModelList:
    """The name of the model, and its signature: vectors can be compared if their models have the same signature."""
    return ModelList(data=[_listed(services.embedding.model)])


@openai_router.get(
    "/models/{model_name:path}",
    summary="One model (OpenAI-compatible)",
    responses=openapi_responses(ModelNotFoundError, errors.EmbeddingServiceUnavailableError),
)
def get_model(model_name: ModelName, services: AppModelServices) -> Model:
    """The same entry as in the list, if it is the model of this name."""
    model = services.embedding.model
    check_model(model_name, model.name)
    return _listed(model)


def _listed(model: Embedder) -> Model:
    return Model(id=model.name, signature=model.signature, dimensions=model.dimensions, max_tokens=model.max_tokens)


def _check_dimensions(requested: int | None, available: int) -> None:
    least = min(MIN_DIMENSIONS, available)
    if requested is not None and not least <= requested <= available:
        raise InvalidRequestError(f"dimensions: {least} to {available}")


def _shortened(vectors: Vectors, dimensions: int) -> Vectors:
    """The first `dimensions` elements of each vector, scaled to unit length.

    Models with Matryoshka training put the most important information into the first elements.
    """
    if dimensions == vectors.shape[1]:
        return vectors
    short = vectors[:, :dimensions]
    unit: Vectors = short / np.linalg.norm(short, axis=1, keepdims=True)
    return unit


def _base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

"""The embedding model over HTTP: `POST /embed`, and the same in the form of OpenAI's API, under `/v1/`.

Both embed documents, in the queue for bulk work, unless a caller says that its texts are queries.
"""

import base64

import numpy as np
from fastapi import APIRouter, Response, Security

from embedding.vectors import Vectors
from models.text import quoted
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
from search_api.http.auth import bearer_token, token_header
from search_api.http.dependencies import AppModelServices
from search_api.http.error_responses import GUARDED, documented
from search_api.http.errors import InvalidRequestError, ModelNotFoundError, at_most

LEAST_DIMENSIONS = 32

router = APIRouter(tags=["embedding"], dependencies=[Security(token_header)], responses=GUARDED)
openai_router = APIRouter(
    prefix="/v1", tags=["openai"], dependencies=[Security(token_header), Security(bearer_token)], responses=GUARDED
)


@router.post(
    "/embed",
    summary="Turn texts into vectors",
    responses=documented(*errors.BODY_ERRORS, errors.EmbeddingServiceUnavailableError, errors.OverloadedError),
)
def embed_texts(request: EmbedRequest, services: AppModelServices) -> EmbedResponse:
    """Vectors of the texts as documents, that is without the prompt the model puts before a query."""
    at_most(services.settings.embed_max_texts, len(request.texts), "texts")
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
    summary="Turn texts into vectors, in OpenAI's form",
    response_model=EmbeddingsResponse,
    responses=documented(
        ModelNotFoundError, *errors.BODY_ERRORS, errors.EmbeddingServiceUnavailableError, errors.OverloadedError
    ),
)
def create_embeddings(request: EmbeddingsRequest, services: AppModelServices) -> Response:
    """For clients of OpenAI's API: `OpenAI(base_url="http://…/v1", api_key=INTERNAL_TOKEN)`."""
    at_most(services.settings.embed_max_texts, len(request.input), "input")
    service, model = services.embedding, services.embedding.model
    if request.model and request.model != model.name:
        raise ModelNotFoundError(f"There is no model {quoted(request.model)} here; there is {model.name}")
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
        truncated=embeddings.truncated,
        legibility=[model.legibility(text) for text in request.input] if is_query else None,
    )
    return Response(answer.model_dump_json(), media_type="application/json")


@openai_router.get(
    "/models", summary="The model, in OpenAI's form", responses=documented(errors.EmbeddingServiceUnavailableError)
)
def list_models(services: AppModelServices) -> ModelList:
    """Its name, and what tells whether vectors made elsewhere can be compared with its own."""
    model = services.embedding.model
    one = Model(id=model.name, signature=model.signature, dimensions=model.dimensions, max_tokens=model.max_tokens)
    return ModelList(data=[one])


def _check_dimensions(wanted: int | None, there_are: int) -> None:
    if wanted is not None and not min(LEAST_DIMENSIONS, there_are) <= wanted <= there_are:
        raise InvalidRequestError(f"dimensions: {min(LEAST_DIMENSIONS, there_are)} to {there_are}")


def _shortened(vectors: Vectors, dimensions: int) -> Vectors:
    """The first so many numbers, of length one again: models trained so put what matters most there (Matryoshka)."""
    if dimensions == vectors.shape[1]:
        return vectors
    short = vectors[:, :dimensions]
    unit: Vectors = short / np.linalg.norm(short, axis=1, keepdims=True)
    return unit


def _base64(vector: Vectors) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()

"""Request and response bodies of `POST /v1/rerank`, in the form that Cohere, Jina and vLLM have in common."""

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    WithJsonSchema,
)
from pydantic_core import PydanticCustomError

from search_api.app_settings import MOST_TEXTS
from search_api.embeddings.schemas import Usage
from search_api.http.request_body import PositiveInteger, RequestBody, Text, require_unicode

_DOCUMENT_SCHEMA = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    ]
}


def _text_of(document: object) -> object:
    """The text of a document that is an object; its other fields are not read."""
    if isinstance(document, dict):
        document = document.get("text")
    if not isinstance(document, str):
        raise PydanticCustomError("document", 'must be a text, or an object with a text: {"text": "…"}')
    return document


class RerankRequest(RequestBody):
    """A query, and the documents to put in the order of their relevance."""

    query: Text
    documents: Annotated[
        list[
            Annotated[str, AfterValidator(require_unicode), BeforeValidator(_text_of), WithJsonSchema(_DOCUMENT_SCHEMA)]
        ],
        FailFast(),
    ] = Field(
        min_length=1,
        max_length=MOST_TEXTS,
        description='At most OPENAI_MAX_TEXTS (2048) texts, or objects like `{"text": "…"}`, the likely best first: if '
        "there is no time for all, the first ones are scored. Long ones are truncated to RERANKER_MAX_TOKENS.",
    )
    model: str | None = Field(
        None,
        description="Name of the directory of the rerank model; a prefix such as `Qwen/` and capitals do not matter. "
        "May be omitted.",
    )
    top_n: PositiveInteger | None = Field(None, description="Maximum number of results; by default all.")
    return_documents: bool | None = Field(None, strict=True, description="Whether each result includes its document.")
    max_tokens_per_doc: None = Field(None, description="Only null: RERANKER_MAX_TOKENS limits the documents.")
    max_chunks_per_doc: None = Field(None, description="Only null: a document is not divided.")
    rank_fields: None = Field(None, description="Only null: the text of a document is ranked.")
    user: str | None = Field(None, description="Ignored.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "What is prepreg?",
                    "documents": ["A via connects layers.", "Prepreg is glass cloth with resin."],
                    "top_n": 1,
                }
            ]
        }
    )


class RerankedDocument(BaseModel):
    """The text of a document."""

    text: str


class RerankResult(BaseModel):
    """A document with its score."""

    index: int = Field(description="Index of the document in the request.")
    relevance_score: float = Field(description="Probability that the document answers the query, 0.0 to 1.0.")
    document: RerankedDocument | None = Field(None, description="Null unless `return_documents` is true.")


class RerankResponse(BaseModel):
    """The documents that were scored, best first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RerankResult]
    usage: Usage
    degraded: str | None = Field(
        None,
        description="Null if all documents were scored; otherwise how many were, and why not all. The others are not "
        "in `results`.",
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "rerank-0123456789abcdef0123456789abcdef",
                    "object": "list",
                    "model": "qwen3-reranker-0.6b",
                    "results": [{"index": 1, "relevance_score": 0.98, "document": None}],
                    "usage": {"prompt_tokens": 172, "total_tokens": 172},
                    "degraded": None,
                }
            ]
        }
    )

"""Request and response bodies of `POST /embed` and of the OpenAI-compatible routes.

The OpenAI-compatible routes accept what OpenAI clients send, and reject unsupported values with the reason. Fields that
OpenAI's API does not have are for this product's clients; other clients ignore them.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, WithJsonSchema
from pydantic.config import JsonDict
from pydantic_core import PydanticCustomError

from search_api.app_settings import MOST_TEXTS
from search_api.http.request_body import PositiveInteger, RequestBody, Text, require_unicode

_TEXTS_SCHEMA: JsonDict = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": MOST_TEXTS}


class EmbedRequest(RequestBody):
    """Texts to embed."""

    texts: Annotated[list[Text], FailFast()] = Field(
        min_length=1,
        max_length=MOST_TEXTS,
        description="At most EMBED_MAX_TEXTS (64); each is truncated to EMBEDDING_MAX_TOKENS tokens.",
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["A via connects layers.", "过孔连接各层。"]}]})


class EmbedResponse(BaseModel):
    """The vectors, in the order of the texts."""

    embeddings: list[list[float]] = Field(description="One unit vector per text.")
    model: str = Field(description="EMBEDDING_MODEL_NAME.")
    dimensions: int
    truncated: int = Field(description="How many texts were truncated.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "embeddings": [[0.6, 0.8, 0.0], [0.0, 0.6, 0.8]],
                    "model": "qwen3-embedding-0.6b",
                    "dimensions": 3,
                    "truncated": 0,
                }
            ]
        }
    )


def _as_list(value: object) -> object:
    """A single text as a list. Token ids are rejected with one message instead of one per number."""
    if isinstance(value, str):
        return [value]
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, int | list):
        raise PydanticCustomError(
            "tokens",
            "must be a text or a list of texts; token ids are not supported, because they are of another model's "
            "vocabulary. Let your client send texts: LangChain's OpenAIEmbeddings does with "
            "check_embedding_ctx_length=False",
        )
    return value


class EmbeddingsRequest(RequestBody):
    """Texts to embed, as in OpenAI's API."""

    input: Annotated[
        list[Annotated[str, AfterValidator(require_unicode)]],
        FailFast(),
        Field(min_length=1, max_length=MOST_TEXTS),
        BeforeValidator(_as_list),
        WithJsonSchema({"anyOf": [{"type": "string"}, _TEXTS_SCHEMA]}),
    ] = Field(description="A text, or a list of at most OPENAI_MAX_TEXTS (2048).")
    model: str | None = Field(
        None,
        description="EMBEDDING_MODEL_NAME; a prefix such as `Qwen/` and capitals do not matter. May be omitted.",
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        "float", description="`base64`: little-endian 32-bit floats, a quarter of the size."
    )
    dimensions: PositiveInteger | None = Field(
        None,
        description="Number of elements to keep of each vector, from the first, scaled to unit length: at least 32, or "
        "all if the model has fewer. Only useful with models trained for it (Matryoshka), like Qwen3-Embedding.",
    )
    input_type: Literal["document", "query"] | None = Field(
        "document", description="`query` adds the query prompt of the model to each text. Not part of OpenAI's API."
    )
    user: str | None = Field(None, description="Ignored.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "qwen3-embedding-0.6b", "input": ["A via connects layers."]}]}
    )


class EmbeddingItem(BaseModel):
    """The vector of one text."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Index of the text in the request.")
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens that the model processed, including prompts and special tokens; both counts are the same."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """The vectors, in the order of the texts. The fields after `usage` are not part of OpenAI's API."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage
    signature: str = Field(
        description="Identifies the weights and settings of the model; vectors with the same signature can be compared."
    )
    token_counts: list[int] = Field(description="Number of tokens of each text.")
    whole_token_counts: list[int] | None = Field(
        None, description="Number of tokens of each text before it was truncated; null if the model does not tell."
    )
    truncated: int = Field(description="How many texts were truncated to EMBEDDING_MAX_TOKENS.")
    legibility: list[float] | None = Field(
        None, description="Share of the letters of each query that the model can read, 0.0 to 1.0; null for documents."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [{"object": "embedding", "index": 0, "embedding": [0.6, 0.8, 0.0]}],
                    "model": "qwen3-embedding-0.6b",
                    "usage": {"prompt_tokens": 6, "total_tokens": 6},
                    "signature": "0123456789abcdef",
                    "token_counts": [6],
                    "whole_token_counts": [6],
                    "truncated": 0,
                    "legibility": None,
                }
            ]
        }
    )


_MODEL: JsonDict = {
    "id": "qwen3-embedding-0.6b",
    "object": "model",
    "created": 0,
    "owned_by": "course-search",
    "signature": "0123456789abcdef",
    "dimensions": 1024,
    "max_tokens": 512,
}


class Model(BaseModel):
    """The embedding model. The fields after `owned_by` are not part of OpenAI's API."""

    id: str = Field(description="EMBEDDING_MODEL_NAME.")
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "course-search"
    signature: str = Field(description="Identifies the weights and all settings that affect the vectors of documents.")
    dimensions: int
    max_tokens: int = Field(description="Texts are truncated to this number of tokens.")

    model_config = ConfigDict(json_schema_extra={"examples": [_MODEL]})


class ModelList(BaseModel):
    """A list with the embedding model. The rerank model is not listed: clients choose an embedding model from it."""

    object: Literal["list"] = "list"
    data: list[Model]

    model_config = ConfigDict(json_schema_extra={"examples": [{"object": "list", "data": [_MODEL]}]})

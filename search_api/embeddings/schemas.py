"""The bodies of `POST /embed`, and of its neighbours in the form of OpenAI's API.

What OpenAI's clients send is taken, and refused with the reason where it means nothing here. What our answers hold
beyond OpenAI's is for our own clients; others pass over it.
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StrictInt, WithJsonSchema
from pydantic_core import PydanticCustomError

from search_api.http.request_body import RequestBody, Text, encodable


class EmbedRequest(RequestBody):
    """Texts to turn into vectors."""

    texts: Annotated[list[Text], FailFast()] = Field(
        min_length=1, description="At most EMBED_MAX_TEXTS (64); each is cut to EMBEDDING_MAX_TOKENS tokens."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{"texts": ["A via connects layers.", "过孔连接各层。"]}]})


class EmbedResponse(BaseModel):
    """The vectors, in the order of the texts."""

    embeddings: list[list[float]] = Field(description="Unit vectors, one a text.")
    model: str = Field(description="EMBEDDING_MODEL_NAME.")
    dimensions: int
    truncated: int = Field(description="How many of the texts were cut.")

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


def _as_list(given: object) -> object:
    """One text is a list of one; token ids are refused here, in a sentence, rather than as so many wrong texts."""
    if isinstance(given, str):
        return [given]
    first = given[0] if isinstance(given, list) and given else None
    if isinstance(first, int | list):
        raise PydanticCustomError(
            "tokens", "must be a text or a list of texts; token ids are not taken, so have your client send texts"
        )
    return given


class EmbeddingsRequest(RequestBody):
    """Texts to turn into vectors, as OpenAI's clients ask."""

    input: Annotated[
        list[Annotated[str, AfterValidator(encodable)]],
        FailFast(),
        BeforeValidator(_as_list),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]}),
    ] = Field(min_length=1, description="A text, or at most EMBED_MAX_TEXTS (64) of them.")
    model: str | None = Field(None, description="EMBEDDING_MODEL_NAME, or nothing.")
    encoding_format: Literal["float", "base64"] = Field(
        "float", description="`base64`: the bytes of little-endian 32-bit floats, a quarter of the size."
    )
    dimensions: StrictInt | None = Field(
        None,
        description="At least 32: the first so many numbers of each vector, scaled to length one again. Only models "
        "trained for it, as Qwen3-Embedding is, still tell texts apart by those.",
    )
    input_type: Literal["document", "query"] = Field(
        "document", description="`query` puts the model's query prompt before each text. Not of OpenAI's."
    )
    user: str | None = Field(None, description="Ignored.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "qwen3-embedding-0.6b", "input": ["A via connects layers."]}]}
    )


class EmbeddingItem(BaseModel):
    """The vector of a text."""

    object: Literal["embedding"] = "embedding"
    index: int = Field(description="Which of the texts.")
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens the model read; both counts are the same."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    """The vectors, in the order of the texts; what comes after `usage` is not of OpenAI's."""

    object: Literal["list"] = "list"
    data: list[EmbeddingItem]
    model: str
    usage: Usage
    signature: str = Field(description="Of the model: vectors can be compared where it is the same.")
    token_counts: list[int] = Field(description="Of each text.")
    truncated: int = Field(description="How many of the texts were cut to EMBEDDING_MAX_TOKENS.")
    legibility: list[float] | None = Field(
        None, description="How much of each query the model can read, 0.0 to 1.0; null for documents."
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
                    "truncated": 0,
                    "legibility": None,
                }
            ]
        }
    )


class Model(BaseModel):
    """The model; what comes after `owned_by` is not of OpenAI's."""

    id: str = Field(description="EMBEDDING_MODEL_NAME.")
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "course-search"
    signature: str = Field(description="Changes with anything that alters the vectors of documents.")
    dimensions: int
    max_tokens: int = Field(description="Texts are cut to so many.")


class ModelList(BaseModel):
    """The one model there is."""

    object: Literal["list"] = "list"
    data: list[Model]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "object": "list",
                    "data": [
                        {
                            "id": "qwen3-embedding-0.6b",
                            "object": "model",
                            "created": 0,
                            "owned_by": "course-search",
                            "signature": "0123456789abcdef",
                            "dimensions": 1024,
                            "max_tokens": 512,
                        }
                    ],
                }
            ]
        }
    )

"""The body of a search and of its answer; what all bodies share stands in `schemas`.

A body of `query`, `top_k` and `filters` is all a caller needs. The rest says how to search, and every part of it has a
default that was chosen by measurement.
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from search_api.http.request_body import RequestBody, Text, encodable

MAX_QUERIES = 8
MAX_FILTER_VALUES = 100
MAX_CONTEXT = 5


def _integer_as_text(value: object) -> object:
    return str(value) if type(value) is int else value


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


FilterValue = Annotated[str, BeforeValidator(_integer_as_text), AfterValidator(encodable)]
_ID: list[Any] = [{"type": "string"}, {"type": "integer"}]
_TEXT: dict[str, Any] = {"type": "string", "pattern": r"\S"}
FilterValues = Annotated[
    list[FilterValue],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=MAX_FILTER_VALUES),
    WithJsonSchema(
        {"anyOf": [*_ID, {"type": "array", "items": {"anyOf": _ID}, "minItems": 1, "maxItems": MAX_FILTER_VALUES}]}
    ),
]
Queries = Annotated[
    list[Text],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=MAX_QUERIES),
    WithJsonSchema({"anyOf": [_TEXT, {"type": "array", "items": _TEXT, "minItems": 1, "maxItems": MAX_QUERIES}]}),
]
Weight = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]
Threshold = Annotated[float | None, Field(strict=True, allow_inf_nan=False)]


class SearchFilters(RequestBody):
    """Only chunks whose metadata have this value, or one of these; null or absent filters nothing."""

    section_id: FilterValues | None = None
    lecture_id: FilterValues | None = None
    source_type: FilterValues | None = None

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, filters: object) -> object:
        if not isinstance(filters, dict):
            return filters
        return {name: value for name, value in filters.items() if value is not None or name not in cls.model_fields}


class ChannelWeights(RequestBody):
    """What the channels of a hybrid search count for; only their ratio matters."""

    vector: Weight
    keyword: Weight

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if not self.vector + self.keyword:
            raise PydanticCustomError("weights", "one of the weights must be above 0")
        return self


class ScoreThresholds(RequestBody):
    """What a result must reach; null asks nothing, and 0 is a threshold."""

    score: Threshold = Field(
        None, description="Of the result's score, after all reranking; not applied to a degraded answer."
    )
    vector: Threshold = Field(None, description="Of the cosine similarity, -1.0 to 1.0.")
    keyword: Threshold = Field(
        None, description="Of the keyword score as a share of what the query could reach at best, 0.0 to 1.0."
    )


class SearchRequest(RequestBody):
    """What to look for in a course."""

    query: Queries = Field(
        description="A question or some words, at most SEARCH_MAX_QUERY_CHARS (2000) characters; or a list of up to 8 "
        "phrasings of it, of which a chunk has to answer one."
    )
    top_k: int = Field(5, strict=True, ge=1, description="How many results, at most SEARCH_MAX_TOP_K (20).")
    filters: SearchFilters | None = None
    method: Literal["hybrid", "vector", "keyword"] = Field(
        "hybrid", description="Compare meanings, words, or both; a hybrid search listens to the surer one."
    )
    fusion: Literal["weighted", "rrf"] = Field(
        "weighted", description="How a hybrid search unites its channels: by their scores, or by their ranks alone."
    )
    weights: ChannelWeights | None = Field(
        None,
        description="Makes the score a plain weighted sum. Null: the channel that is surer of itself counts for more.",
    )
    thresholds: ScoreThresholds = ScoreThresholds()
    rerank: Literal["weight", "model"] = Field(
        "weight",
        description="By the weighted scores; or by a model that reads passages together with the (first) query, "
        "which takes longer.",
    )
    context: int = Field(
        0, strict=True, ge=0, le=MAX_CONTEXT, description="How many chunks before and after, in the same section."
    )
    explain: bool = Field(False, strict=True, description="Say where each score comes from.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "How is a solder mask applied?", "top_k": 5},
                {"query": "阻焊层", "filters": {"section_id": "3", "source_type": ["pdf", "video"]}},
                {
                    "query": ["solder mask", "protective coating of a board"],
                    "weights": {"vector": 0.5, "keyword": 0.5},
                    "context": 1,
                    "explain": True,
                },
            ]
        }
    )


Metadata = Annotated[
    dict[str, Any],
    Field(
        description="chunk_id, course_id, lecture_id, section_id, source_type, language, order_in_section, "
        "and whatever else the chunk's metadata hold."
    ),
]


class Passage(BaseModel):
    """A chunk of the course."""

    text: str
    metadata: Metadata


class Neighbours(BaseModel):
    """The chunks around a result, in reading order."""

    before: list[Passage]
    after: list[Passage]


class ResultExplanation(BaseModel):
    """Where a score comes from; that of a model's reranking only where the passage came from."""

    query: int = Field(description="Which of the queries found it, from 0.")
    cosine: float | None = Field(description="Cosine similarity; null in a search for words alone.")
    bm25: float
    keyword_share: float = Field(description="BM25 as a share of what the query could reach at best.")
    vector_part: float = Field(description="What the vector adds to the score.")
    keyword_part: float = Field(description="What words add to it.")
    weights: ChannelWeights | None = Field(description="What the channels of a hybrid search count for.")
    terms: list[str] = Field(description="What the words of the query were reduced to.")


class SearchResult(Passage):
    """A chunk of the course that was found."""

    score: float = Field(
        description="Results come best first. Hybrid: 0.0 to 1.0, and the smaller the more chunks are alike; vector: "
        "cosine similarity, -1.0 to 1.0; keyword: BM25 as a share of what the query could reach; reranked by a model: "
        "the probability that it answers."
    )
    matches: list[tuple[int, int]] = Field(
        description="Where the text holds words of the query: start and end, in code points."
    )
    copies: list[Metadata] = Field(description="Other chunks with the very same text.")
    context: Neighbours | None = Field(description="null unless it was asked for, and where Chroma found the result.")
    explanation: ResultExplanation | None = Field(
        description="null unless it was asked for, and where Chroma found the result."
    )


class SearchResponse(BaseModel):
    """The chunks that answer best; fewer than top_k where the course, the filters or the thresholds leave no more."""

    results: list[SearchResult]
    generation: int = Field(description="Rises whenever the course is published anew.")
    stale: bool = Field(description="The course is not `done`; this is what was published last.")
    degraded: str | None = Field(description="What the answer had to do without, and why; null: nothing.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        {
                            "text": "The solder mask is applied as a liquid film and cured by ultraviolet light.",
                            "score": 0.83,
                            "metadata": {
                                "chunk_id": "481",
                                "course_id": "abc123",
                                "lecture_id": "12",
                                "section_id": "3",
                                "source_type": "pdf",
                                "language": "en",
                                "order_in_section": 7,
                            },
                            "matches": [[4, 15], [19, 26]],
                            "copies": [],
                            "context": None,
                            "explanation": None,
                        }
                    ],
                    "generation": 3,
                    "stale": False,
                    "degraded": None,
                }
            ]
        }
    )

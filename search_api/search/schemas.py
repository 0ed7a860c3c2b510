"""Request and response body of a search.

`query`, `top_k` and `filters` are enough for most callers. The other fields control the search; their defaults were
chosen from measurements (`docs/adr/0011`).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from search_api.http.request_body import RequestBody, Text, require_unicode

MAX_QUERIES = 8
MAX_FILTER_VALUES = 100
MAX_CONTEXT = 5
MAX_COPIES = 20


def _integer_as_text(value: object) -> object:
    return str(value) if type(value) is int else value


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


FilterValue = Annotated[str, BeforeValidator(_integer_as_text), AfterValidator(require_unicode)]
_ID_SCHEMAS: list[Any] = [{"type": "string"}, {"type": "integer"}]
_TEXT_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"\S"}
FilterValues = Annotated[
    list[FilterValue],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=MAX_FILTER_VALUES),
    WithJsonSchema(
        {
            "anyOf": [
                *_ID_SCHEMAS,
                {"type": "array", "items": {"anyOf": _ID_SCHEMAS}, "minItems": 1, "maxItems": MAX_FILTER_VALUES},
            ]
        }
    ),
]
Queries = Annotated[
    list[Text],
    BeforeValidator(_as_list),
    Field(min_length=1, max_length=MAX_QUERIES),
    WithJsonSchema(
        {"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_QUERIES}]}
    ),
]
Weight = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]
Probability = Annotated[float | None, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Threshold = Annotated[float | None, Field(strict=True, allow_inf_nan=False)]


class SearchFilters(RequestBody):
    """Accepted metadata values: a value, or a list of alternatives. A field that is null or absent does not filter."""

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
    """Weights of the channels in a hybrid search; only their ratio matters."""

    vector: Weight
    keyword: Weight

    @model_validator(mode="after")
    def _not_all_zero(self) -> Self:
        if not self.vector + self.keyword:
            raise PydanticCustomError("weights", "one of the weights must be above 0")
        return self


class ScoreThresholds(RequestBody):
    """Lowest accepted values of a result. null means no threshold; 0 is a threshold."""

    model_config = ConfigDict(frozen=True)  # hashable, so that Pydantic does not copy the default for each request

    score: Threshold = Field(
        None,
        description="Lowest `score`, after reranking. Its range depends on the request, see `score` of a result: with "
        "`fusion` `rrf`, for example, no score is above 1/61 (0.0164). Not applied to a degraded answer.",
    )
    vector: Threshold = Field(
        None, description="Lowest cosine similarity, -1.0 to 1.0. Not applied to a keyword search."
    )
    keyword: Threshold = Field(
        None,
        description="Lowest BM25 score as a share of the highest score possible for the query, 0.0 to 1.0.",
    )


class SearchRequest(RequestBody):
    """A query and how to search."""

    query: Queries = Field(
        description="A question or keywords; or a list of up to 8 phrasings: each chunk gets the mean of its scores "
        "for them. A longer one is cut to SEARCH_MAX_QUERY_CHARS (2000) characters, and `query_cut` says so."
    )
    top_k: int = Field(5, strict=True, ge=1, description="Number of results, at most SEARCH_MAX_TOP_K (20).")
    filters: SearchFilters | None = None
    method: Literal["hybrid", "vector", "keyword"] = Field(
        "hybrid", description="`hybrid` combines vector similarity and keywords (BM25)."
    )
    fusion: Literal["weighted", "rrf"] = Field(
        "weighted",
        description="How a hybrid search combines both channels: by their scores, or only by their ranks "
        "(reciprocal rank fusion).",
    )
    weights: ChannelWeights | None = Field(
        None,
        description="Weights of both channels. If given, `weighted` fusion is the weighted mean of cosine similarity "
        "and BM25 divided by the highest BM25 score. If null, `weighted` fusion is certainty-weighted (a channel "
        "counts more if few chunks stand out in it), and `rrf` uses 0.7 and 0.3.",
    )
    thresholds: ScoreThresholds = Field(default_factory=ScoreThresholds)
    min_relevance: Probability = Field(
        None,
        description="Lowest `relevance` of a result, and the one from which on the course is `answerable`, 0.0 to "
        "1.0. If null, no result is left out for its relevance, and `answerable` uses 0.25.",
    )
    rerank: Literal["weight", "model"] = Field(
        "weight",
        description="`weight` keeps the order by score; `model` reorders the best results by a cross-encoder, which "
        "reads each passage together with the first query and takes longer: as many as RERANKER_TIMEOUT_SECONDS (2) "
        "allow, from the best one on.",
    )
    diversity: float = Field(
        0.0,
        strict=True,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="How much the results should differ from one another, 0.0 to 1.0 (maximal marginal relevance): "
        "above 0, a result that resembles a better one makes way for one that does not. The best result stays, and "
        "the order is by `score`. 0.3 suits an overview.",
    )
    context: int = Field(
        0,
        strict=True,
        ge=0,
        le=MAX_CONTEXT,
        description="Number of chunks before and after each result, in the same section, to include.",
    )
    explain: bool = Field(False, strict=True, description="Explain how each score was computed.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "How is a solder mask applied?", "top_k": 5},
                {"query": "阻焊层", "filters": {"section_id": "3", "source_type": ["pdf", "video"]}},
                {
                    "query": ["solder mask", "protective coating of a board"],
                    "weights": {"vector": 0.5, "keyword": 0.5},
                    "diversity": 0.3,
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
        "and all other metadata of the chunk."
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
    """How the score of a result was computed; with `rerank` `model`, the score before reranking."""

    query: int = Field(description="Index of the query that gave the result its score, from 0.")
    cosine: float | None = Field(description="Cosine similarity, -1.0 to 1.0; null in a keyword search.")
    bm25: float = Field(description="BM25 score, at least 0.0; without an upper limit.")
    keyword_share: float = Field(description="BM25 as a share of the highest score possible for the query, 0.0 to 1.0.")
    vector_part: float = Field(description="Part of the score from the vector channel.")
    keyword_part: float = Field(description="Part of the score from the keyword channel.")
    weights: ChannelWeights | None = Field(
        description="Weights of the channels in a hybrid search, which add up to 1; null otherwise."
    )
    terms: list[str] = Field(description="Terms of the query after analysis (stems, parts of names), and `expansions`.")
    expansions: dict[str, list[str]] = Field(
        description="For each word of the query that the course does not have, the terms of the course that were "
        'searched instead: `{"capcitor": ["capacitor"]}`. Without words that nothing in the course resembles.'
    )


class SearchResult(Passage):
    """A chunk that matches the query."""

    score: float = Field(
        description="Orders the results of one answer, best first. Its range depends on the request. Hybrid, "
        "`weighted`: 0.0 to 1.0; by default it is lower if many chunks match equally well. Hybrid, `rrf`: 0.0 to 1/61 "
        "(0.0164). Vector: cosine similarity, -1.0 to 1.0. Keyword: BM25 as a share of the "
        "highest score possible for the query, 0.0 to 1.0. Reranked by the model: probability that the passage answers "
        "the query, 0.0 to 1.0; if there was no time for all passages (`degraded`), the others follow with scores that "
        "continue below."
    )
    relevance: float | None = Field(
        description="Estimated chance that the passage answers the query, 0.0 to 1.0; comparable between queries and "
        "courses. null if the course was published before this was measured."
    )
    matches: list[tuple[int, int]] = Field(
        description="Start and end of each word in the text that matches the query, in code points."
    )
    copies: list[Metadata] = Field(description="Metadata of the first 20 other chunks with exactly the same text.")
    copy_count: int = Field(description="Number of all other chunks with exactly the same text.")
    near_copies: list[Metadata] = Field(
        description="Metadata of the first 20 chunks with nearly the same text, which are no results of their own: of "
        "a lecture that was uploaded twice with slight edits, for example. The result is the one that scores highest."
    )
    near_copy_count: int = Field(description="Number of all chunks with nearly the same text.")
    context: Neighbours | None = Field(description="null if not requested.")
    explanation: ResultExplanation | None = Field(description="null if not requested.")


class UsedPart(BaseModel):
    """How much of a query was searched."""

    used: int
    of: int


class QueryCut(BaseModel):
    """A query that was searched by its beginning only."""

    query: int = Field(description="Index of the query in the request, from 0.")
    characters: UsedPart | None = Field(
        description="Code points that were searched; null if the query has at most SEARCH_MAX_QUERY_CHARS (2000)."
    )
    tokens: UsedPart | None = Field(
        description="Tokens of these characters, with the model's prompt, from which the vector was computed; null if "
        "they were all used, or if no vector was needed. A model reads at most EMBEDDING_MAX_TOKENS; the keyword "
        "search has no such limit."
    )


class SearchResponse(BaseModel):
    """The best results; fewer than top_k if fewer match, or pass the filters and thresholds."""

    results: list[SearchResult]
    answerable: bool | None = Field(
        description="Whether the course seems to cover the query: the relevance of a passage is at least "
        "`min_relevance`. null if relevance is not known."
    )
    unknown_terms: list[str] = Field(
        description="Words of the query that the course never uses in any form, as typed; without words like `the`."
    )
    generation: int = Field(
        description="Number of the published version of the course; it increases with each publication."
    )
    stale: bool = Field(
        description="The course is not `done`, or this app has another model or no snapshot of the published "
        "generation yet; the results are from the last generation that it has."
    )
    degraded: str | None = Field(description="What is missing from the answer, and why; null if nothing is.")
    query_cut: list[QueryCut] | None = Field(
        description="The queries that were too long and were searched by their beginning; null if there was none."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "results": [
                        {
                            "text": "The solder mask is applied as a liquid film and cured by ultraviolet light.",
                            "score": 0.83,
                            "relevance": 0.94,
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
                            "copy_count": 0,
                            "near_copies": [],
                            "near_copy_count": 0,
                            "context": None,
                            "explanation": None,
                        }
                    ],
                    "answerable": True,
                    "unknown_terms": [],
                    "generation": 3,
                    "stale": False,
                    "degraded": None,
                    "query_cut": None,
                }
            ]
        }
    )

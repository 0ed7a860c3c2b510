"""Request and response body of a search.

`query`, `top_k` and `filters` are enough for most callers. The other fields control the search; their defaults were
chosen from measurements (`docs/adr/0011`).
"""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.json_values import whole_number
from retrieval.filters import Filter, FilterError, parse_filter
from retrieval.lecture_order import UpTo
from search_api.app_settings import MOST_COURSES
from search_api.http.request_body import Integer, PositiveInteger, RequestBody, Text, require_unicode
from search_api.search.filter_schema import MetadataFilter

MAX_QUERIES = 8
MAX_CONTEXT = 5
MAX_LECTURES = 1000
MAX_OFFSET = 1000
MAX_GROUP_SIZE = 10
MAX_FACETS = 10
MAX_COPIES = 20
MAX_TEXT_CHARACTERS = 20_000
MAX_METADATA_CHARACTERS = 10_000


def _integer_as_text(value: object) -> object:
    value = whole_number(value)
    return str(value) if type(value) is int else value


def _each_once(lectures: list[str]) -> list[str]:
    if len(set(lectures)) < len(lectures):
        raise PydanticCustomError("lecture_order", "contains a lecture twice")
    return lectures


def _as_list(value: object) -> object:
    return value if isinstance(value, list) else [value]


FilterValue = Annotated[
    str,
    BeforeValidator(_integer_as_text),
    AfterValidator(require_unicode),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "integer"}]}),
]
FacetName = Annotated[str, Field(min_length=1), AfterValidator(require_unicode)]
_TEXT_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"\S"}
Queries = Annotated[
    list[Text],
    Field(min_length=1, max_length=MAX_QUERIES),  # first, so that a list is not validated beyond its limit
    BeforeValidator(_as_list),
    WithJsonSchema(
        {"anyOf": [_TEXT_SCHEMA, {"type": "array", "items": _TEXT_SCHEMA, "minItems": 1, "maxItems": MAX_QUERIES}]}
    ),
]
Weight = Annotated[float, Field(strict=True, ge=0, le=1e6, allow_inf_nan=False)]
Probability = Annotated[float | None, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Diversity = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Threshold = Annotated[float | None, Field(strict=True, allow_inf_nan=False)]


def _parsed(value: object) -> object:
    if value is None or isinstance(value, Filter):
        return value
    if not isinstance(value, dict):
        raise PydanticCustomError("filter", 'must be an object like {"lecture_id": "12"}')
    try:
        only = parse_filter(value)
    except FilterError as error:
        raise PydanticCustomError("filter", "{problem}", {"path": error.path, "problem": error.problem}) from None
    return only if any(each is not None for each in value.values()) else None


Filters = Annotated[
    Filter | None,
    PlainValidator(_parsed, json_schema_input_type=MetadataFilter | None),
    Field(
        description="Which chunks may be results, by their metadata: a value (equal), a list (any of them), or an "
        "object of operators: `eq`, `in`, `not`, `gt`, `gte`, `lt`, `lte` (numbers, or ISO 8601 dates and times), "
        "`exists`. Fields of objects have dots: `speaker.name`. A list in the metadata matches if an element does. All "
        "entries must match; `and` and `or` take lists of filters, `not` one filter. A field that no chunk of the "
        "course has is an error, except for `section_id`, `lecture_id` and `source_type`."
    ),
]


class UpToLecture(RequestBody):
    """The lecture that a student has come to."""

    lecture_id: FilterValue


LectureOrder = Annotated[
    list[FilterValue],
    Field(min_length=1, max_length=MAX_LECTURES, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_each_once),
]


class ChannelWeights(RequestBody):
    """Weights of the channels in a hybrid search; only their ratio matters."""

    model_config = ConfigDict(
        json_schema_extra={"anyOf": [{"properties": {name: {"exclusiveMinimum": 0}}} for name in ("vector", "keyword")]}
    )

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
    top_k: Integer = Field(5, ge=1, description="Number of results, at most SEARCH_MAX_TOP_K (20).")
    filters: Filters = None
    up_to: UpToLecture | None = Field(
        None,
        description="Only results of the lectures up to and including this one: what a student has not reached is not "
        "found, nor are chunks without a lecture. The order is `lecture_order`, or the field `lecture_number` of the "
        "metadata, or the number with which all titles of lectures begin; without any of these it is an error.",
    )
    lecture_order: LectureOrder | None = Field(
        None, description="All lectures in their order, for `up_to`. What is not in it is not found."
    )
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
    relative_threshold: Probability = Field(
        None, description="Lowest `score` of a result, as a share of the best score, 0.0 to 1.0."
    )
    offset: Integer = Field(
        0,
        ge=0,
        le=MAX_OFFSET,
        description="Number of results, or of groups, to leave out: `next_offset` of the page before. Pages of one "
        "`generation` neither overlap nor leave anything out. Not with `diversity`.",
    )
    group_by: Literal["lecture", "section"] | None = Field(
        None,
        description="Groups the results by lecture or section: `top_k` is then the number of groups, `group_size` the "
        "number of results of each. Not with `diversity`, nor with `rerank` `model`.",
    )
    group_size: Integer = Field(3, ge=1, le=MAX_GROUP_SIZE, description="Results of a group.")
    facets: list[FacetName] = Field(
        default_factory=list,
        max_length=MAX_FACETS,
        description="Metadata fields whose values are counted over all results, not only those of this page. It takes "
        "longer in a course of ten thousands of chunks.",
    )
    rerank: Literal["weight", "model"] = Field(
        "weight",
        description="`weight` keeps the order by score; `model` reorders the best results by a cross-encoder, which "
        "reads each passage together with the first query and takes longer: as many as RERANKER_TIMEOUT_SECONDS (2) "
        "allow, from the best one on.",
    )
    diversity: Diversity = Field(
        0.0,
        description="How much the results should differ from one another, 0.0 to 1.0 (maximal marginal relevance): "
        "above 0, a result that resembles a better one makes way for one that does not. The best result stays, and "
        "the order is by `score`. 0.3 suits an overview.",
    )
    context: Integer = Field(
        0,
        ge=0,
        le=MAX_CONTEXT,
        description="Number of chunks before and after each result, in the same section, to include.",
    )
    explain: bool = Field(False, strict=True, description="Explain how each score was computed.")

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        if self.diversity and (self.offset or self.group_by):
            raise PydanticCustomError(
                "diversity",
                "diversity cannot be combined with offset or group_by, because it chooses among all results",
            )
        if self.group_by and self.rerank == "model":
            raise PydanticCustomError("group_by", 'group_by cannot be combined with rerank "model"')
        return self

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "How is a solder mask applied?", "top_k": 5},
                {"query": "阻焊层", "filters": {"section_id": "3", "source_type": ["pdf", "video"]}},
                {"query": "impedance", "filters": {"page": {"gte": 10, "lt": 20}}, "up_to": {"lecture_id": "4"}},
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


class SearchedCourseRequest(RequestBody):
    """A course to search, and what its student has reached."""

    course_id: FilterValue
    up_to: UpToLecture | None = None
    lecture_order: LectureOrder | None = None

    @property
    def lectures(self) -> UpTo | None:
        """The lectures that are searched; None for all."""
        return up_to_of(self.up_to, self.lecture_order)


def up_to_of(up_to: UpToLecture | None, order: Sequence[str] | None) -> UpTo | None:
    """The lectures that a request allows; None for all."""
    return None if up_to is None else UpTo(up_to.lecture_id, tuple(order) if order else None)


def _as_course(value: object) -> object:
    return value if isinstance(value, dict) else {"course_id": value}


class CoursesSearchRequest(SearchRequest):
    """A query, how to search, and in which courses."""

    courses: (
        Annotated[
            list[
                Annotated[
                    SearchedCourseRequest,
                    BeforeValidator(_as_course, json_schema_input_type=FilterValue | SearchedCourseRequest),
                ]
            ],
            Field(min_length=1, max_length=MOST_COURSES, json_schema_extra={"uniqueItems": True}),
        ]
        | None
    ) = Field(
        None,
        description="The courses: ids, or objects with a `course_id`, its own `up_to` and `lecture_order`. At most "
        "SEARCH_MAX_COURSES (200). null: all courses that can be searched.",
    )
    up_to: Annotated[UpToLecture | None, WithJsonSchema({"type": "null"})] = Field(
        None, description="Only null: it belongs to a course in `courses`."
    )
    lecture_order: Annotated[LectureOrder | None, WithJsonSchema({"type": "null"})] = Field(
        None, description="Only null: it belongs to a course in `courses`."
    )
    diversity: Annotated[Diversity, WithJsonSchema({"type": "number", "const": 0})] = Field(
        0.0, description="Only 0: it compares the results of one course."
    )
    per_course: PositiveInteger | None = Field(
        None, description="Highest number of results of one course; not with `group_by`."
    )
    group_by: Literal["course", "lecture", "section"] | None = Field(  # type: ignore[assignment]
        None,
        description="Groups the results by course, lecture or section: `top_k` is then the number of groups, "
        "`group_size` the number of results of each. Not with `rerank` `model`.",
    )

    @model_validator(mode="after")
    def _of_several(self) -> Self:
        if self.up_to or self.lecture_order:
            raise PydanticCustomError(
                "up_to", "up_to and lecture_order belong to a course: courses: [{course_id, up_to, lecture_order}]"
            )
        if self.diversity:
            raise PydanticCustomError("diversity", "diversity compares the results of one course only")
        ids = [course.course_id for course in self.courses or ()]
        if len(set(ids)) < len(ids):
            raise PydanticCustomError("courses", "courses contains a course twice")
        return self

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"query": "How is a solder mask applied?", "courses": ["pcb-en", "pcb-zh"], "per_course": 3},
                {"query": "gradient descent", "courses": [{"course_id": "ml", "up_to": {"lecture_id": "4"}}, "maths"]},
                {"query": "阻焊层", "group_by": "course", "group_size": 2},
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


class Citation(BaseModel):
    """Where a passage is, from the metadata of its chunk; what is not known is null.

    `docs/citations.md` lists the names under which each part is found in the metadata.
    """

    course_id: str
    course_title: str | None
    lecture_id: str | None
    lecture_title: str | None
    section_id: str | None
    section_title: str | None
    source_type: str | None
    page: int | None = Field(description="Page, or first page, as the metadata counts it.")
    page_end: int | None = Field(description="Last page, if there are several.")
    start: float | None = Field(description="Start in a recording, in seconds.")
    end: float | None = Field(description="End in a recording, in seconds.")
    start_time: str | None = Field(description="`start` as `hh:mm:ss`.")
    end_time: str | None = Field(description="`end` as `hh:mm:ss`.")
    link: str | None = Field(
        description="URL of the place, with http or https: from CITATION_URL_TEMPLATE, otherwise the URL in the "
        "metadata; with page or time where the kind of source allows it."
    )
    label: str | None = Field(description="One line for people: `Heaps > Building a heap, p. 12`.")


_EXAMPLE_PASSAGE: dict[str, Any] = {
    "text": "The solder mask is applied as a liquid film and cured by ultraviolet light.",
    "metadata": {
        "chunk_id": "481",
        "course_id": "abc123",
        "lecture_id": "12",
        "section_id": "3",
        "source_type": "pdf",
        "language": "en",
        "order_in_section": 7,
        "lecture_title": "Making a board",
        "section_title": "Solder mask",
        "page": 12,
        "source_url": "https://school.example/files/12.pdf",
    },
    "citation": {
        "course_id": "abc123",
        "course_title": None,
        "lecture_id": "12",
        "lecture_title": "Making a board",
        "section_id": "3",
        "section_title": "Solder mask",
        "source_type": "pdf",
        "page": 12,
        "page_end": None,
        "start": None,
        "end": None,
        "start_time": None,
        "end_time": None,
        "link": "https://school.example/files/12.pdf#page=12",
        "label": "Making a board > Solder mask, p. 12",
    },
    "cut": [],
}


class Passage(BaseModel):
    """A chunk of the course."""

    text: str
    metadata: Metadata
    citation: Citation
    cut: list[Literal["text", "metadata"]] = Field(
        description="What is longer than an answer may have: `text` ends after at most 20,000 characters, and of "
        "`metadata` with more than 10,000 as JSON the largest values are left out. The chunk itself "
        "(`GET /courses/{course_id}/chunks/{chunk_id}`) is whole."
    )


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
    language: str | None = Field(
        description="Language of the passage as stage one recorded it; otherwise, from the script, `zh`, `ja` or `ko`."
    )
    copies: list[Metadata] = Field(
        description="Metadata of the first other chunks with exactly the same text: at most 20, and 20,000 characters."
    )
    copy_count: int = Field(description="Number of all other chunks with exactly the same text.")
    near_copies: list[Metadata] = Field(
        description="Metadata of the first chunks with nearly the same text, as many, which are no results of their "
        "own: of a lecture that was uploaded twice with slight edits, for example. The result is the one that scores "
        "highest."
    )
    near_copy_count: int = Field(description="Number of all chunks with nearly the same text.")
    context: Neighbours | None = Field(description="null if not requested.")
    explanation: ResultExplanation | None = Field(description="null if not requested.")


class ChunkResponse(Passage):
    """A chunk and the chunks around it."""

    chunk_id: str
    course_id: str
    language: str | None = Field(description="As in the result of a search.")
    generation: int = Field(description="Number of the version of the course that contains the chunk.")
    stale: bool = Field(
        description="This generation is older than the published one, or the course is not `done`, as in a search."
    )
    context: Neighbours

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "chunk_id": "481",
                    "course_id": "abc123",
                    **_EXAMPLE_PASSAGE,
                    "language": "en",
                    "generation": 3,
                    "stale": False,
                    "context": {"before": [], "after": []},
                }
            ]
        }
    )


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


class ResultGroup(BaseModel):
    """The results of one lecture or section."""

    course_id: str
    lecture_id: str | None
    section_id: str | None = Field(description="null if the results are grouped by lecture.")
    title: str | None = Field(description="Title of the lecture or section; null if the metadata have none.")
    results: list[int] = Field(description="Where its results are in `results`, from 0.")
    count: int = Field(description="Number of all results in it.")


class FacetValue(BaseModel):
    """A value of a metadata field."""

    value: str | int | float | bool
    title: str | None = Field(
        description="Title of the lecture or section with this id; null without one, and for other fields."
    )
    count: int = Field(description="Number of results with this value.")


class CourseError(BaseModel):
    """Why a course was not searched, with a code of the errors of the API."""

    code: str
    message: str


class SearchedCourse(BaseModel):
    """A course of a search of several courses."""

    course_id: str
    state: Literal["searched", "stale", "not_ready", "not_found", "failed"] = Field(
        description="`searched`; `stale`: searched in a generation that is or may be not the newest, or by words only; "
        "`not_ready`: not published, or its snapshot is still being loaded; `not_found`; `failed`: see `error`."
    )
    generation: int | None = Field(description="The generation that was searched.")
    results: int = Field(description="Number of its results in this answer.")
    best_relevance: float | None = Field(
        description="About the highest relevance of any of its passages, 0.0 to 1.0; exact if it has results."
    )
    degraded: str | None = Field(description="What is missing from its results, and why.")
    error: CourseError | None


_EXAMPLE_ANSWER: dict[str, Any] = {
    "results": [
        {
            **_EXAMPLE_PASSAGE,
            "score": 0.83,
            "relevance": 0.94,
            "language": "en",
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
    "stale": False,
    "degraded": None,
    "query_cut": None,
    "next_offset": 5,
    "total": None,
    "groups": None,
    "facets": None,
}


class FoundPassages(BaseModel):
    """What the answers to both kinds of search have in common."""

    results: list[SearchResult] = Field(description="Best first.")
    answerable: bool | None = Field(
        description="Whether the course, or one of several, seems to cover the query: the relevance of a passage is at "
        "least `min_relevance`. null if relevance is not known."
    )
    unknown_terms: list[str] = Field(
        description="Words of the query that the course, or each of several, never uses in any form, as typed; without "
        "words like `the`."
    )
    degraded: str | None = Field(description="What is missing from the answer, and why; null if nothing is.")
    query_cut: list[QueryCut] | None = Field(
        description="The queries that were too long and were searched by their beginning; null if there was none."
    )
    next_offset: int | None = Field(description="`offset` of the next page; null if there is none, or none up to 1000.")
    total: int | None = Field(
        description="Number of all results: distinct passages that match, with those that are left out because better "
        "ones contain them. null without `group_by` and `facets`."
    )
    groups: list[ResultGroup] | None = Field(description="The groups, best first; null without `group_by`.")
    facets: dict[str, list[FacetValue]] | None = Field(
        description="For each requested field, its values with the most results, at most 100, without texts of "
        "more than 1000 characters; null if not requested."
    )


class SearchResponse(FoundPassages):
    """The best results; fewer than top_k if fewer match, or pass the filters and thresholds."""

    generation: int = Field(
        description="Number of the published version of the course; it increases with each publication."
    )
    stale: bool = Field(
        description="The course is not `done`, or this app has another model or no snapshot of the published "
        "generation yet, or the catalogue does not answer; the results are from the last generation that it has."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{**_EXAMPLE_ANSWER, "generation": 3}]})


class CoursesSearchResponse(FoundPassages):
    """The best results of all courses.

    They are ordered by `score`, which can be compared between the courses: the relevance, but never above that of a
    better result of the same course.
    """

    courses: list[SearchedCourse] = Field(description="Each of the courses, in the order of the request, or by id.")
    stale: bool = Field(description="Whether one of the courses is `stale`.")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    **_EXAMPLE_ANSWER,
                    "courses": [
                        {
                            "course_id": "abc123",
                            "state": "searched",
                            "generation": 3,
                            "results": 1,
                            "best_relevance": 0.94,
                            "degraded": None,
                            "error": None,
                        },
                        {
                            "course_id": "xyz",
                            "state": "not_ready",
                            "generation": None,
                            "results": 0,
                            "best_relevance": None,
                            "degraded": None,
                            "error": {
                                "code": "embedding_not_ready",
                                "message": "Course 'xyz' is not embedded: its status is pending",
                            },
                        },
                    ],
                }
            ]
        }
    )

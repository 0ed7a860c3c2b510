"""The answers of the app: plain dicts, with these types. `/docs` of the app describes every field.

An answer may have more fields than these, if the app is newer.
"""

from typing import Any, Literal, TypedDict

EmbeddingStatus = Literal["not_started", "pending", "running", "done", "failed"]

ResourceStatus = Literal["pending", "running", "succeeded", "failed"]


class Citation(TypedDict):
    """Where a passage is. Unknown parts are None; `start` and `end` are seconds; `label` is one line for people."""

    course_id: str
    course_title: str | None
    lecture_id: str | None
    lecture_title: str | None
    section_id: str | None
    section_title: str | None
    source_type: str | None
    page: int | None
    page_end: int | None
    start: float | None
    end: float | None
    start_time: str | None
    end_time: str | None
    link: str | None
    label: str | None


class ContextPassage(TypedDict):
    """A chunk before or after another one."""

    text: str
    metadata: dict[str, Any]
    citation: Citation
    cut: list[str]


class Neighbours(TypedDict):
    """The chunks around a passage, in reading order."""

    before: list[ContextPassage]
    after: list[ContextPassage]


class SearchResult(TypedDict):
    """A chunk that matches the query."""

    text: str
    score: float
    relevance: float | None
    metadata: dict[str, Any]
    citation: Citation
    cut: list[str]
    language: str | None
    matches: list[list[int]]
    copies: list[dict[str, Any]]
    copy_count: int
    near_copies: list[dict[str, Any]]
    near_copy_count: int
    context: Neighbours | None
    explanation: dict[str, Any] | None


class Group(TypedDict):
    """The results of one course, lecture or section, as indices into the results."""

    course_id: str
    lecture_id: str | None
    section_id: str | None
    title: str | None
    count: int
    results: list[int]


class Facet(TypedDict):
    """How many hits have a value."""

    value: Any
    title: str | None
    count: int


class _AnyCourses(TypedDict):
    results: list[SearchResult]
    answerable: bool | None
    unknown_terms: list[str]
    stale: bool
    degraded: str | None
    query_cut: list[dict[str, Any]] | None
    next_offset: int | None
    total: int | None
    groups: list[Group] | None
    facets: dict[str, list[Facet]] | None


class SearchAnswer(_AnyCourses):
    """The results of one course, best first."""

    generation: int


class CourseOutcome(TypedDict):
    """What became of one course in a search over several."""

    course_id: str
    state: Literal["searched", "stale", "not_ready", "not_found", "failed"]
    generation: int | None
    results: int
    best_relevance: float | None
    degraded: str | None
    error: dict[str, str] | None


class CoursesSearchAnswer(_AnyCourses):
    """The results of several courses in one list, best first, and the outcome of each course."""

    courses: list[CourseOutcome]


class PassageAnswer(TypedDict):
    """One chunk with its neighbours."""

    chunk_id: str
    course_id: str
    text: str
    metadata: dict[str, Any]
    citation: Citation
    cut: list[str]
    language: str | None
    generation: int
    stale: bool
    context: Neighbours


class Course(TypedDict):
    """A course and its embedding state; `dagster_url` is its page in the Dagster UI, if the app knows that."""

    course_id: str
    embedding_status: EmbeddingStatus
    embedding_progress: float
    embedding_error: str | None
    dagster_url: str | None


class CoursePage(TypedDict):
    """Some courses; the number of all that were asked for, and where the next page begins."""

    courses: list[Course]
    next_cursor: str | None
    total: int


class Resource(TypedDict):
    """A file of a course, and how far it is turned into chunks; `progress` is 0.0 to 1.0, and times are ISO 8601."""

    resource_id: str
    course_id: str
    name: str
    source_type: str | None
    size: int
    status: ResourceStatus
    progress: float
    error: str | None
    chunks: int
    created_at: str
    updated_at: str


class EmbeddingState(TypedDict):
    """The state of an embedding; `progress` is 0.0 to 1.0."""

    course_id: str
    status: EmbeddingStatus
    progress: float
    error: str | None
    due: bool


class TextEmbeddings(TypedDict):
    """One unit vector per text, in the order of the texts."""

    embeddings: list[list[float]]
    model: str
    dimensions: int
    truncated: int


class RerankResult(TypedDict):
    """A document with the probability that it answers the query; `index` is its place in the request."""

    index: int
    relevance_score: float
    document: dict[str, str] | None


class Reranking(TypedDict):
    """The documents that were scored, best first; `degraded` says why it is not all of them."""

    id: str
    object: str
    model: str
    results: list[RerankResult]
    usage: dict[str, int]
    degraded: str | None

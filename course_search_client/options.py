"""The optional fields of a search request. A field that is absent or None has the app's default.

`/docs` of the app describes every field and its limits.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

Query = str | Sequence[str]
"""A question or keywords, or several phrasings of it."""


class CourseScope(TypedDict):
    """A course of a search over several, and the lectures of it that are searched."""

    course_id: str
    up_to: NotRequired[Mapping[str, str] | None]
    lecture_order: NotRequired[Sequence[str] | None]


class _Options(TypedDict, total=False):
    top_k: int | None
    filters: Mapping[str, Any] | None
    method: Literal["hybrid", "vector", "keyword"] | None
    fusion: Literal["weighted", "rrf"] | None
    weights: Mapping[str, float] | None
    thresholds: Mapping[str, float | None] | None
    min_relevance: float | None
    relative_threshold: float | None
    rerank: Literal["weight", "model"] | None
    context: int | None
    explain: bool | None
    offset: int | None
    group_size: int | None
    facets: Sequence[str] | None


class SearchOptions(_Options, total=False):
    """Optional fields of a search."""

    up_to: Mapping[str, str] | None
    lecture_order: Sequence[str] | None
    diversity: float | None
    group_by: Literal["lecture", "section"] | None


class CoursesSearchOptions(_Options, total=False):
    """Optional fields of a search over several courses."""

    group_by: Literal["lecture", "section", "course"] | None
    per_course: int | None

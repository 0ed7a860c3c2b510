"""What both retrievers share: the search, and the metadata of what is found."""

from collections.abc import Mapping, Sequence
from typing import Any

from course_search_client.answers import SearchResult
from course_search_client.client import AsyncCourseSearch, CourseSearch
from course_search_client.options import CourseScope

Courses = str | Sequence[str | CourseScope] | None
"""One course, several, or all that can be searched."""


def search(client: CourseSearch, courses: Courses, query: str, options: Mapping[str, Any]) -> list[SearchResult]:
    """The results for a query, best first."""
    if isinstance(courses, str):
        return client.search(courses, query, **options)["results"]
    return client.search_courses(query, courses, **options)["results"]


async def search_async(
    client: AsyncCourseSearch, courses: Courses, query: str, options: Mapping[str, Any]
) -> list[SearchResult]:
    """The results for a query, best first."""
    if isinstance(courses, str):
        return (await client.search(courses, query, **options))["results"]
    return (await client.search_courses(query, courses, **options))["results"]


def metadata(result: SearchResult) -> dict[str, Any]:
    """The metadata of the chunk, and what the search says about it.

    `citation_label` is also a field of its own, because templates for prompts only see the fields of the first level.
    """
    citation = result["citation"]
    return {
        **result["metadata"],
        "citation": citation,
        "citation_label": citation["label"] or "",
        "score": result["score"],
        "relevance": result["relevance"],
        "cut": result.get("cut", []),  # apps before 1.0.0 cut nothing
    }

"""The calls of the API: what is sent, and what of the answer is returned. Both clients use them."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any, BinaryIO, Generic, TypeVar
from urllib.parse import quote

from course_search_client.answers import (
    Course,
    CoursePage,
    CoursesSearchAnswer,
    EmbeddingState,
    EmbeddingStatus,
    PassageAnswer,
    Reranking,
    Resource,
    SearchAnswer,
    TextEmbeddings,
)
from course_search_client.options import CourseScope, CoursesSearchOptions, Query, SearchOptions

T = TypeVar("T")


def _whole(answer: Any) -> Any:
    return answer


@dataclass(frozen=True)
class Upload:
    """A form with a file.

    Attributes:
        fields: The other fields of the form.
        name: The name of the file.
        stream: The content; httpx reads it from its beginning, if it can be read more than once.
    """

    fields: Mapping[str, str]
    name: str
    stream: BinaryIO


@dataclass(frozen=True)
class Call(Generic[T]):
    """One request.

    Attributes:
        method: The HTTP method.
        path: The path below the base URL, percent-encoded.
        body: The fields of the JSON body; those that are None are not sent.
        upload: The body, if it is a form.
        params: The query of the URL; what is None is not sent.
        repeatable: Whether the app may process it twice, because it changes nothing.
        read: What the client returns of the JSON object of the answer.
    """

    method: str
    path: str
    body: Mapping[str, object] | None = None
    upload: Upload | None = None
    params: Mapping[str, str | int | None] = field(default_factory=dict)
    repeatable: bool = True
    read: Callable[[Any], T] = _whole

    def content(self) -> bytes | None:
        """The body.

        Raises:
            TypeError: A value cannot be sent as JSON.
            ValueError: A number is not finite.
        """
        if self.body is None:
            return None
        return json.dumps(given(self.body), allow_nan=False, default=_date_as_text).encode()


def search(course_id: str, query: Query, options: SearchOptions) -> Call[SearchAnswer]:
    """Search one course."""
    return Call("POST", f"{_course(course_id)}/search", {"query": query, **options})


def search_courses(
    query: Query, courses: Sequence[str | CourseScope] | None, options: CoursesSearchOptions
) -> Call[CoursesSearchAnswer]:
    """Search several courses, or all."""
    return Call("POST", "/search", {"query": query, "courses": courses, **options})


def passage(course_id: str, chunk_id: str, context: int | None) -> Call[PassageAnswer]:
    """Open one chunk."""
    return Call("GET", f"{_course(course_id)}/chunks/{_segment(chunk_id)}", params={"context": context})


def course_page(
    search: str | None, status: EmbeddingStatus | None, limit: int | None, cursor: str | None
) -> Call[CoursePage]:
    """List courses."""
    return Call("GET", "/courses", params={"search": search, "status": status, "limit": limit, "cursor": cursor})


def courses(search: str | None, status: EmbeddingStatus | None, limit: int | None) -> Call[list[Course]]:
    """List courses; only them."""
    params = {"search": search, "status": status, "limit": limit}
    return Call("GET", "/courses", params=params, read=lambda answer: answer["courses"])


def create_course(course_id: str) -> Call[Course]:
    """Create a course without files."""
    return Call("POST", "/courses", {"course_id": course_id}, repeatable=False)


def add_resource(course_id: str, name: str, stream: BinaryIO) -> Call[Resource]:
    """Upload a file. Twice the same file is the same as once, so it can be repeated if it can be read again."""
    upload = Upload({"course_id": course_id}, name, stream)
    return Call("POST", "/resources", upload=upload, repeatable=stream.seekable())


def resources(course_id: str) -> Call[list[Resource]]:
    """List the files of a course."""
    return Call("GET", f"{_course(course_id)}/resources", read=lambda answer: answer["resources"])


def resource(resource_id: str) -> Call[Resource]:
    """Read the state of a file."""
    return Call("GET", f"/resources/{_segment(resource_id)}")


def delete_resource(resource_id: str) -> Call[Resource]:
    """Delete a file."""
    return Call("DELETE", f"/resources/{_segment(resource_id)}", repeatable=False)


def embedding_status(course_id: str) -> Call[EmbeddingState]:
    """Read the state of an embedding."""
    return Call("GET", f"{_course(course_id)}/embedding_status")


def embed(course_id: str) -> Call[None]:
    """Request an embedding."""
    return Call("POST", f"{_course(course_id)}/embed", repeatable=False, read=lambda _: None)


def embed_texts(texts: Sequence[str]) -> Call[TextEmbeddings]:
    """Embed texts as documents."""
    return Call("POST", "/embed", {"texts": texts})


def rerank(query: str, documents: Sequence[str], top_n: int | None) -> Call[Reranking]:
    """Score documents by the rerank model."""
    return Call("POST", "/v1/rerank", {"query": query, "documents": documents, "top_n": top_n})


def feedback(course_id: str, query: str, chunk_id: str | None, *, helpful: bool) -> Call[None]:
    """Record whether an answer or a passage helped."""
    fields = {"course_id": course_id, "query": query, "chunk_id": chunk_id, "helpful": helpful}
    return Call("POST", "/feedback", fields, repeatable=False, read=lambda _: None)


def _course(course_id: str) -> str:
    return f"/courses/{_segment(course_id)}"


def _segment(value: str) -> str:
    """The text as one segment of a path. A segment of dots would be removed from the path."""
    encoded = quote(value, safe="")
    return encoded.replace(".", "%2E") if not encoded.strip(".") else encoded


def given(fields: Mapping[str, T | None]) -> dict[str, T]:
    """The fields that are not None: the app has defaults for the others."""
    return {name: value for name, value in fields.items() if value is not None}


def _date_as_text(value: object) -> str:
    if isinstance(value, date):  # also a datetime
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")

"""Response bodies of the course routes."""

from typing import Annotated, Any, Self
from urllib.parse import quote

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from models.tables import Course, EmbeddingStatus
from search_api.http.request_body import RequestBody, Text

MAX_COURSES = 1000
"""Courses on a page, at most."""

Status = Annotated[str, WithJsonSchema({"type": "string", "enum": [status.value for status in EmbeddingStatus]})]


Progress = Annotated[float, Field(description="Finished chunks divided by all chunks, 0.0 to 1.0.")]


Failure = Annotated[str | None, Field(description="The error of the latest embedding; null if it did not fail.")]


class TriggerResponse(BaseModel):
    """The embedding was requested."""

    status: Annotated[str, WithJsonSchema({"type": "string", "const": "embedding_started"})] = "embedding_started"


class EmbeddingState(BaseModel):
    """Status and progress of an embedding."""

    course_id: str
    status: Status
    progress: Progress
    error: Failure
    due: bool = Field(
        description="Whether there is content, or a request, that is not published yet, also while the status is "
        "still `done`."
    )

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"course_id": "abc123", "status": "running", "progress": 0.4, "error": None, "due": True}],
        }
    )


class NewCourse(RequestBody):
    """A course to be created."""

    course_id: Text = Field(
        description="Any text that shows something; without control characters, `...`, and white space around it."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [{"course_id": "abc123"}]})


_EXAMPLE: dict[str, Any] = {
    "course_id": "abc123",
    "embedding_status": "done",
    "embedding_progress": 1.0,
    "embedding_error": None,
    "dagster_url": None,
}


class CourseSummary(BaseModel):
    """A course and its embedding state."""

    course_id: str
    embedding_status: Status
    embedding_progress: Progress
    embedding_error: Failure
    dagster_url: str | None = Field(
        description="The course in the Dagster UI, where its runs are; null if the app does not know DAGSTER_URL."
    )

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    @classmethod
    def of(cls, course: Course, dagster_url: str | None) -> Self:
        """The summary of a course row; `dagster_url` is the address of the Dagster UI."""
        return cls(
            course_id=course.id,
            embedding_status=course.embedding_status,
            embedding_progress=course.embedding_progress,
            embedding_error=course.embedding_error,
            dagster_url=partition_page(dagster_url, course.id) if dagster_url else None,
        )


def partition_page(dagster_url: str, course_id: str) -> str:
    """URL of the page of a course in the Dagster UI: a partition of the asset of the collections."""
    partition = quote(course_id, safe="")
    return f"{dagster_url.rstrip('/')}/assets/course_collection?view=partitions&partition={partition}"


class CourseList(BaseModel):
    """Courses, ordered by id."""

    courses: list[CourseSummary]
    next_cursor: str | None = Field(description="The `cursor` of the next page; null if there are no more courses.")
    total: int = Field(description="Number of courses on all pages.")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"courses": [_EXAMPLE], "next_cursor": None, "total": 1}]}
    )

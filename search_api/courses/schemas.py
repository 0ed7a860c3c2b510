"""Response bodies of the course routes."""

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from models.tables import EmbeddingStatus

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

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"course_id": "abc123", "status": "running", "progress": 0.4, "error": None}],
        }
    )


class CourseSummary(BaseModel):
    """A course and its embedding state."""

    course_id: str
    embedding_status: Status
    embedding_progress: Progress
    embedding_error: Failure


class CourseList(BaseModel):
    """All courses."""

    courses: list[CourseSummary]

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "courses": [
                        {
                            "course_id": "abc123",
                            "embedding_status": "done",
                            "embedding_progress": 1.0,
                            "embedding_error": None,
                        }
                    ]
                }
            ]
        }
    )

"""TODO."""

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from models.tables import EmbeddingStatus

Status = Annotated[str, WithJsonSchema({"type": "string", "enum": [status.value for status in EmbeddingStatus]})]


Progress = Annotated[float, Field(description="Finished batches over all batches, 0.0 to 1.0.")]


Failure = Annotated[str | None, Field(description="Why the latest embedding failed.")]


class TriggerResponse(BaseModel):
    """The course waits to be embedded."""

    status: Annotated[str, WithJsonSchema({"type": "string", "const": "embedding_started"})] = "embedding_started"


class EmbeddingState(BaseModel):
    """How far the embedding of a course is."""

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
    """A course and the state of its embedding."""

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

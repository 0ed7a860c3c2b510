"""The bodies of requests and responses.

Unknown fields are refused: a misspelt filter that was silently dropped would search the whole course. Numbers are
taken as JSON writes them, so `"5"` and `true` are no `top_k`. Limits that are settings are checked by the routes.
"""

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.tables import EmbeddingStatus
from models.unicode import is_unicode
from search_api.errors import quoted


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "must not be blank")
    return text


def encodable(text: str) -> str:
    """JSON can hold half a surrogate pair, which no other system accepts."""
    if not is_unicode(text):
        raise PydanticCustomError("unicode", "must be valid Unicode")
    return text


Text = Annotated[
    str, AfterValidator(encodable), AfterValidator(_not_blank), WithJsonSchema({"type": "string", "pattern": r"\S"})
]
Status = Annotated[str, WithJsonSchema({"type": "string", "enum": [status.value for status in EmbeddingStatus]})]
Progress = Annotated[float, Field(description="Finished batches over all batches, 0.0 to 1.0.")]
Failure = Annotated[str | None, Field(description="Why the latest embedding failed.")]


class RequestBody(BaseModel):
    """What all bodies of requests share."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _name_the_unknown(cls, body: object) -> object:
        """One message for the first unknown field; Pydantic's own check makes one for each of a million."""
        unknown = next((key for key in body if key not in cls.model_fields), None) if isinstance(body, dict) else None
        if unknown is not None:
            raise PydanticCustomError(
                "unknown_field",
                "unknown field {field}; there are {fields}",
                {"field": quoted(unknown), "fields": ", ".join(cls.model_fields)},
            )
        return body


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


class Alive(BaseModel):
    """The process answers."""

    status: Annotated[str, WithJsonSchema({"type": "string", "const": "ok"})] = "ok"


class Component(BaseModel):
    """Something the app depends on."""

    ok: bool
    message: str = Field(description="What is wrong; empty when nothing is.")


class ModelComponents(BaseModel):
    """All that embedding depends on."""

    model: Component


class Components(ModelComponents):
    """All the search app depends on."""

    catalogue: Component
    vector_store: Component


class ModelReadiness(BaseModel):
    """Whether the embedding service can do its work."""

    components: ModelComponents


class Readiness(BaseModel):
    """Whether the app can do all its work."""

    components: Components


class ErrorDetail(BaseModel):
    """What went wrong."""

    code: str = Field(description="Fixed: decide by it.")
    message: str = Field(description="For people; its wording may change.")


class ErrorResponse(BaseModel):
    """The shape of every error."""

    error: ErrorDetail


class NotReadyResponse(ErrorResponse, Readiness):
    """The error, and the state of each component."""

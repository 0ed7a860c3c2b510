"""Request and response bodies of the routes about uploaded files."""

from datetime import datetime
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from models.tables import ResourceStatus
from search_api.http.request_body import RequestBody, Text

Status = Annotated[str, WithJsonSchema({"type": "string", "enum": [status.value for status in ResourceStatus]})]

UPLOAD_FORM: dict[str, Any] = {
    "multipart/form-data": {
        "schema": {
            "type": "object",
            "required": ["course_id", "file"],
            "properties": {
                "course_id": {"type": "string", "description": "The course; it must exist."},
                "file": {
                    "type": "string",
                    "format": "binary",
                    "description": "The file, with its name; at most UPLOAD_MAX_BYTES.",
                },
            },
            "additionalProperties": False,
        }
    }
}
"""The form of an upload, in OpenAPI."""


class ImportRequest(RequestBody):
    """A file that is on the server already."""

    course_id: Text = Field(description="The course; it must exist.")
    path: Text = Field(description="Path of the file, relative to IMPORT_DIR. Without that setting, none is allowed.")

    model_config = ConfigDict(json_schema_extra={"examples": [{"course_id": "abc123", "path": "week1/slides.pdf"}]})


_EXAMPLE: dict[str, Any] = {
    "resource_id": "0f4e9c1d2b3a48b5a6c7d8e9f0a1b2c3",
    "course_id": "abc123",
    "name": "week1.pdf",
    "source_type": "pdf",
    "size": 123456,
    "status": "succeeded",
    "progress": 1.0,
    "error": None,
    "chunks": 42,
    "created_at": "2026-01-31T12:00:00Z",
    "updated_at": "2026-01-31T12:00:09Z",
}


class Resource(BaseModel):
    """A file of a course: how far it is turned into chunks."""

    resource_id: str
    course_id: str
    name: str = Field(description="The file's name, unique in its course: a file of the same name replaces it.")
    source_type: str | None = Field(
        description="`pdf`, `slides`, `document`, `markdown`, `html`, `text`, `transcript` or `notebook`; "
        "null until the file was read."
    )
    size: int = Field(description="In bytes.")
    status: Status
    progress: float = Field(description="Share of the work that is done, 0.0 to 1.0.")
    error: str | None = Field(description="Why it failed, for the file's owner; null if it did not fail.")
    chunks: int = Field(description="Number of its chunks; those of earlier content stay until new ones replace them.")
    created_at: datetime
    updated_at: datetime

    model_config = ConfigDict(from_attributes=True, json_schema_extra={"examples": [_EXAMPLE]})


class ResourceList(BaseModel):
    """The files of a course, in the order in which they were added."""

    resources: list[Resource]

    model_config = ConfigDict(json_schema_extra={"examples": [{"resources": [_EXAMPLE]}]})

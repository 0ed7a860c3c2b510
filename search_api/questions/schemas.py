"""Request and response body of `POST /feedback`."""

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from search_api.http.request_body import RequestBody, Text, require_unicode

MAX_ID_CHARACTERS = 500

Id = Annotated[str, AfterValidator(require_unicode), Field(min_length=1, max_length=MAX_ID_CHARACTERS)]


class FeedbackRequest(RequestBody):
    """Whether a passage helped, or the answer as a whole."""

    course_id: Id
    query: Text = Field(description="The question as it was searched; the first 500 characters are kept.")
    chunk_id: Id | None = Field(None, description="The passage; null if this is about the whole answer.")
    helpful: bool = Field(strict=True)

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"course_id": "abc123", "query": "What is a via?", "chunk_id": "481", "helpful": True},
                {"course_id": "abc123", "query": "How is solder paste stored?", "helpful": False},
            ]
        }
    )


class FeedbackResponse(BaseModel):
    """The feedback is written within seconds."""

    status: Literal["accepted"] = "accepted"

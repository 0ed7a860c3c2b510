"""The bodies of requests and responses.

Unknown fields are refused: a misspelt filter that was silently dropped would search the whole course. Numbers are
taken as JSON writes them, so `"5"` and `true` are no `top_k`. Limits that are settings are checked by the routes.
"""

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.text import is_unicode, quoted


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

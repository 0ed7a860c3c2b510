"""The base class and field types of request bodies.

Unknown fields are rejected: if a misspelt filter were ignored, the whole course would be searched. Numbers must be JSON
numbers: `"5"` and `true` are not accepted as `top_k`. The routes check the limits that are settings.
"""

from typing import Annotated

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from models.json_values import whole_number
from models.text import is_blank, is_unicode, quoted


def _require_not_blank(text: str) -> str:
    if is_blank(text):
        raise PydanticCustomError("blank", "must not be blank")
    return text


def require_unicode(text: str) -> str:
    """The text, unless it contains an unpaired surrogate: JSON allows it, but UTF-8 cannot encode it."""
    if not is_unicode(text):
        raise PydanticCustomError("unicode", "must be valid Unicode")
    return text


Text = Annotated[
    str,
    AfterValidator(require_unicode),
    AfterValidator(_require_not_blank),
    WithJsonSchema({"type": "string", "pattern": r"\S"}),
]


Integer = Annotated[StrictInt, BeforeValidator(whole_number)]
"""A JSON number without a fraction: `5`, and `5.0` as languages without integers write it."""
PositiveInteger = Annotated[StrictInt, Field(ge=1), BeforeValidator(whole_number)]
"""The same from 1. The limit is within the type, because the schema of `Integer | None` would not show it."""


class RequestBody(BaseModel):
    """Base class of all request bodies."""

    model_config = ConfigDict(extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _reject_unknown_field(cls, body: object) -> object:
        """Report only the first unknown field; Pydantic would report every one, even if there are a million."""
        unknown = next((key for key in body if key not in cls.model_fields), None) if isinstance(body, dict) else None
        if unknown is not None:
            raise PydanticCustomError(
                "unknown_field",
                "unknown field {field}; the known fields are {fields}",
                {"field": quoted(unknown), "fields": ", ".join(cls.model_fields)},
            )
        return body

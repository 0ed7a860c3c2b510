"""The JSON form of a filter for the OpenAPI document, from which clients are generated.

It only documents: `retrieval.filters` checks a filter, and says what is wrong with it.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from retrieval.filters import MAX_VALUES

_Value = str | float | bool
_Id = str | int
_Limit = Annotated[str | float, Field(description="A number, or an ISO 8601 date or time.")]
_Filters = Annotated[list["MetadataFilter"], Field(min_length=1, max_length=MAX_VALUES)]


def _operators(name: str, value: Any, condition: str) -> Any:
    values = Annotated[list[value], Field(min_length=1, max_length=MAX_VALUES)]
    limits = dict.fromkeys(("gt", "gte", "lt", "lte"), _Limit)
    operators = TypedDict(  # type: ignore[misc]  # `in` and `not` cannot be names in a class
        name, {"eq": value, "in": values, "not": condition, **limits, "exists": bool}, total=False
    )
    operators.__pydantic_config__ = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})  # type: ignore[attr-defined]
    operators.__doc__ = "Operators on the values of a field, all of which must match."
    return value | values | operators


Condition = _operators("Operators", _Value, "Condition")
IdCondition = _operators("IdOperators", _Id, "IdCondition")


class MetadataFilter(BaseModel):
    """Conditions on the metadata of chunks, all of which must match: by the name of the field, or combined."""

    __pydantic_extra__: dict[str, Condition] = Field(init=False)  # type: ignore[valid-type]

    section_id: IdCondition | None = Field(default_factory=lambda: None)  # type: ignore[valid-type]
    lecture_id: IdCondition | None = Field(default_factory=lambda: None)  # type: ignore[valid-type]
    source_type: IdCondition | None = Field(default_factory=lambda: None)  # type: ignore[valid-type]
    course_id: IdCondition = Field(default_factory=lambda: None)  # type: ignore[valid-type]
    chunk_id: IdCondition = Field(default_factory=lambda: None)  # type: ignore[valid-type]
    and_: _Filters = Field(alias="and", default_factory=list)
    or_: _Filters = Field(alias="or", default_factory=list)
    not_: "MetadataFilter" = Field(alias="not", default_factory=lambda: None)  # type: ignore[assignment]

    model_config = ConfigDict(extra="allow")

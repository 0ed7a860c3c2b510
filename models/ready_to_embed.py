"""Ready-to-Embed rows as JSON Lines: one passage a line, as stage one would write it to the `chunk` table.

    {"id": "c1", "course_id": "physics", "lecture_id": "l1", "section_id": "s1", "order_in_section": 0,
     "text": "…", "language": "en", "source_type": "pdf", "metadata": {"page": 3}}

Only `metadata` may be left out. Unknown keys are refused, because a misspelt one would vanish without a trace; anything
extra belongs into `metadata`. Every fault is reported with its file and line.
"""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, BinaryIO, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from models.tables import Chunk
from models.text import is_unicode

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_DEPTH = 100
"""Of metadata: far beyond any use, and well within what Python and the databases can parse again."""


@dataclass(frozen=True)
class Position:
    """Where a row stands in the input."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _id_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise ValueError("is blank")
    return value


def _storable(value: Any) -> Any:
    """Accepts what both databases can store."""
    _check_storable(value, MAX_DEPTH)
    return value


def _check_storable(value: Any, depth: int) -> None:
    if depth == 0:
        raise ValueError("is nested too deeply")
    if isinstance(value, dict | list):
        for item in value:
            _check_storable(item, depth - 1)
            if isinstance(value, dict):
                _check_storable(value[item], depth - 1)
    elif isinstance(value, str):
        if "\0" in value:
            raise ValueError("contains a NUL character")
        if not is_unicode(value):
            raise ValueError("contains half of a surrogate pair")
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError("contains a number that is too large")


def _partition_key(value: str) -> str:
    """Course ids become Dagster partition keys, which can't hold these."""
    if "..." in value:
        raise ValueError("must not contain '...'")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError("must not contain control characters")
    return value


Text = Annotated[str, AfterValidator(_not_blank), AfterValidator(_storable)]
Id = Annotated[Text, BeforeValidator(_id_as_text)]
Label = Annotated[str, AfterValidator(_storable)]
LabelId = Annotated[Label, BeforeValidator(_id_as_text)]


class ReadyToEmbed(BaseModel):
    """One line. Ids may be JSON strings or integers; both are text to us."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Id
    course_id: Annotated[Id, AfterValidator(_partition_key)]
    lecture_id: LabelId | None
    section_id: LabelId | None
    order_in_section: Annotated[int, Field(ge=0, lt=2**63)]
    text: Text
    language: Label | None
    source_type: Label | None
    metadata: Annotated[dict[str, Any], AfterValidator(_storable)] = Field(default_factory=dict)

    def chunk(self) -> Chunk:
        """The row of the `chunk` table; `order_in_section` moves into its metadata."""
        return Chunk(
            id=self.id,
            course_id=self.course_id,
            lecture_id=self.lecture_id,
            section_id=self.section_id,
            text=self.text,
            language=self.language,
            source_type=self.source_type,
            extra={**self.metadata, "order_in_section": self.order_in_section},
        )


def read_lines(file: str, stream: BinaryIO) -> Iterator[tuple[Position, Chunk | str]]:
    """Reads JSON Lines, one line in memory at a time.

    Blank lines are skipped, as is a byte order mark at the very start. Lines end with a line feed alone: other line
    separators of Unicode may stand in a text.

    Yields:
        Where a line stands, and the chunk on it or what is wrong with it.
    """
    for number, line in enumerate(stream, start=1):
        content = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        content = content.rstrip()
        if not content:
            continue
        row: Chunk | str
        try:
            row = _parse(content).chunk()
        except ValueError as error:
            row = _explain(error)
        yield Position(file, number), row


def _parse(line: bytes) -> ReadyToEmbed:
    try:
        value = json.loads(line.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {_KINDS.get(type(value), 'a number')}")
    return ReadyToEmbed.model_validate(value)


_KINDS = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def _explain(error: ValueError) -> str:
    match error:
        case ValidationError():
            return "; ".join(_explain_field(detail) for detail in error.errors(include_url=False, include_input=False))
        case UnicodeDecodeError():
            return f"not UTF-8: byte {error.object[error.start]:#04x} at position {error.start}"
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} at column {error.colno}"
        case _:
            return str(error)


def _explain_field(detail: Any) -> str:
    name = ".".join(map(str, detail["loc"]))
    if detail["type"] == "string_type" and name.endswith("id"):
        return f"{name} must be a string or an integer"
    return f"{name} {_MESSAGES.get(detail['type']) or detail['msg'].removeprefix('Value error, ')}"


_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is no known key",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "greater_than_equal": "must not be negative",
    "less_than": "is too large",
    "dict_type": "must be an object",
}

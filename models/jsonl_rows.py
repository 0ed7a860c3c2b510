"""Parses Ready-to-Embed rows in JSON Lines format: one row of the `chunk` table per line.

    {"id": "c1", "course_id": "physics", "lecture_id": "l1", "section_id": "s1", "order_in_section": 0,
     "text": "…", "language": "en", "source_type": "pdf", "metadata": {"page": 3}}

Only `metadata` is optional. Unknown keys are errors, so that a misspelt key does not go unnoticed; additional data goes
into `metadata`. A key that occurs twice in an object is an error, too. Every error is reported with its file and line.
"""

import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Any, BinaryIO, NoReturn

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from models.json_values import is_too_deep, unique_keys, whole_number
from models.tables import Chunk
from models.text import is_blank, is_unicode

BYTE_ORDER_MARK = b"\xef\xbb\xbf"
MAX_COURSE_ID_CHARACTERS = 500
"""Of a course that is created here. PostgreSQL rejects an indexed text, such as Dagster's tags, of more than 2.7 kB."""


@dataclass(frozen=True)
class Position:
    """File and line of a row."""

    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


def _id_as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _not_blank(value: str) -> str:
    if is_blank(value):
        raise ValueError("is blank")
    return value


def _storable(value: Any) -> Any:
    """Reject values that SQLite or PostgreSQL cannot store."""
    if is_too_deep(value):
        raise ValueError("is nested too deeply")
    _check_storable(value)
    return value


def _check_storable(value: Any) -> None:
    if isinstance(value, dict | list):
        for item in value:
            _check_storable(item)
            if isinstance(value, dict):
                _check_storable(value[item])
    elif isinstance(value, str):
        if "\0" in value:
            raise ValueError("contains a NUL character")
        if not is_unicode(value):
            raise ValueError("contains an unpaired surrogate")
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError("contains a number that is too large")


def _partition_key(value: str) -> str:
    """Reject course ids that cannot be Dagster partition keys."""
    if "..." in value:
        raise ValueError("must not contain '...'")
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise ValueError("must not contain control characters")
    return value


Text = Annotated[str, AfterValidator(_not_blank), AfterValidator(_storable)]
Id = Annotated[Text, BeforeValidator(_id_as_text)]
Label = Annotated[str, AfterValidator(_storable)]
LabelId = Annotated[Label, BeforeValidator(_id_as_text)]


CourseId = Annotated[Id, AfterValidator(_partition_key)]


class ReadyToEmbed(BaseModel):
    """One line. Ids may be JSON strings or integers; both become text."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Id
    course_id: CourseId
    lecture_id: LabelId | None
    section_id: LabelId | None
    order_in_section: Annotated[int, Field(ge=0, lt=2**63), BeforeValidator(whole_number)]
    text: Text
    language: Label | None
    source_type: Label | None
    metadata: Annotated[dict[str, Any], AfterValidator(_storable)] = Field(default_factory=dict)

    def chunk(self) -> Chunk:
        """The row of the `chunk` table. `order_in_section` becomes part of its metadata."""
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


_course_id = TypeAdapter(CourseId, config=ConfigDict(strict=True))


def check_course_id(value: str) -> None:
    """Check the id of a new course.

    Raises:
        ValueError: A database or Dagster cannot store the id, or people or tools would change it. The message says
            what is wrong with it, without the id.
    """
    try:
        _course_id.validate_python(value)
    except ValidationError as error:
        [detail] = error.errors(include_url=False, include_input=False)
        raise ValueError(detail["msg"].removeprefix("Value error, ")) from None
    if value != value.strip():
        raise ValueError("must not begin or end with white space")
    if len(value) > MAX_COURSE_ID_CHARACTERS:
        raise ValueError(f"must have at most {MAX_COURSE_ID_CHARACTERS} characters")
    if value in {".", ".."}:
        raise ValueError("must not be . or .., because browsers remove them from addresses")


def read_lines(file: str, stream: BinaryIO) -> Iterator[tuple[Position, Chunk | str]]:
    """Read JSON Lines, with one line in memory at a time.

    Skips blank lines, and a byte order mark at the start of the file. Only a line feed ends a line, because texts may
    contain other Unicode line separators.

    Yields:
        The position of each line, with its chunk or an error message.
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
            row = _message(error)
        yield Position(file, number), row


def _parse(line: bytes) -> ReadyToEmbed:
    try:
        value = json.loads(line.decode(), parse_constant=_reject_constant, object_pairs_hook=unique_keys)
    except RecursionError:
        raise ValueError("not JSON: nested too deeply") from None
    if not isinstance(value, dict):
        raise ValueError(f"not a JSON object but {_JSON_TYPES.get(type(value), 'a number')}")
    return ReadyToEmbed.model_validate(value)


_JSON_TYPES = {list: "an array", str: "a string", bool: "a boolean", type(None): "null"}


def _reject_constant(name: str) -> NoReturn:
    raise ValueError(f"not JSON: {name}")


def _message(error: ValueError) -> str:
    match error:
        case ValidationError():
            return "; ".join(_field_message(detail) for detail in error.errors(include_url=False, include_input=False))
        case UnicodeDecodeError():
            return f"not UTF-8: byte {error.object[error.start]:#04x} at position {error.start}"
        case json.JSONDecodeError():
            return f"not JSON: {error.msg} at column {error.colno}"
        case _:
            return str(error)


def _field_message(detail: Any) -> str:
    name = ".".join(map(str, detail["loc"]))
    if detail["type"] == "string_type" and name.endswith("id"):
        return f"{name} must be a string or an integer"
    return f"{name} {_MESSAGES.get(detail['type']) or detail['msg'].removeprefix('Value error, ')}"


_MESSAGES = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "string_type": "must be a string",
    "int_type": "must be an integer",
    "greater_than_equal": "must not be negative",
    "less_than": "is too large",
    "dict_type": "must be an object",
}

"""The catalogue: stage one's tables, and the embedding columns stage two adds to `course`.

Stage one owns `course`, `resource` and `chunk` and may hold more columns than these; only the columns the
contract guarantees are mapped, so that any such database works. Ids are opaque text here whatever the
database stores: integer and text columns both work (see `OpaqueId`).
"""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import JSON, Column, DateTime, Dialect, Float, Integer, String, Text, TypeDecorator, text
from sqlmodel import Field, SQLModel


class EmbeddingStatus(StrEnum):
    """The life of a course's collection. Stored as plain text: other systems read the column."""

    NOT_STARTED = "not_started"
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class OpaqueId(TypeDecorator[str]):
    """An id that is text to us and may be an integer in the database.

    Values are bound as untyped text, which both databases convert to the column's own type, and read back
    with `str`. The conversion also accepts other spellings (`01` finds 1), so a lookup compares the id's text
    too: see `models.course_state`.
    """

    impl = String
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002 - the interface
        """Integer ids become text."""
        return None if value is None else str(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time. SQLite keeps no zone and compares text, so there it is always UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Refuses a time without a zone: nobody could say which moment it means."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"a time needs its zone: {value}")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Every time read is in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonObject(TypeDecorator[dict[str, Any]]):
    """A JSON object, whether stage one's column is JSON, JSONB or text.

    Anything else in the column (another kind of value, no JSON at all) reads as None: a passage is worth
    finding even where its extras are unreadable.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], dict[str, Any] | None]:  # noqa: ARG002
        """PostgreSQL's driver has parsed json and jsonb already; text, and all of SQLite, comes as it is."""

        def parse(value: Any) -> dict[str, Any] | None:
            if isinstance(value, str | bytes):
                try:
                    value = json.loads(value)
                except (ValueError, RecursionError):
                    return None
            return value if isinstance(value, dict) else None

        return parse


class Course(SQLModel, table=True):
    """A course and the state of its collection: the one row that the pipeline and the search app share."""

    id: str = Field(sa_column=Column(OpaqueId, primary_key=True))

    embedding_status: str = Field(
        default=EmbeddingStatus.NOT_STARTED,
        sa_column=Column(String, nullable=False, server_default=text("'not_started'")),
    )
    embedding_progress: float = Field(default=0.0, sa_column=Column(Float, nullable=False, server_default=text("0.0")))
    embedding_error: str | None = Field(default=None, sa_column=Column(Text))

    embedding_run_id: str | None = Field(default=None, sa_column=Column(String))
    """The Dagster run that owns the course: only this run may write its progress and outcome."""
    embedding_requested_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    """When somebody asked for an embedding that no run has taken up yet."""
    embedding_generation: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    """Rises by one with every publication: readers that cache a course key their cache by it."""
    embedding_attempted: str | None = Field(default=None, sa_column=Column(String))
    """The fingerprint the last run set out to publish: a failed course is left alone until its content differs."""
    embedding_fingerprint: str | None = Field(default=None, sa_column=Column(String))
    """What the published collection was made from; see `models.fingerprint`."""


class Resource(SQLModel, table=True):
    """A video or PDF of a course. A course is ingested when all of its resources have `succeeded`."""

    id: str = Field(sa_column=Column(OpaqueId, primary_key=True))
    course_id: str = Field(sa_column=Column(OpaqueId, nullable=False, index=True))
    status: str = Field(sa_column=Column(String, nullable=False))


class Chunk(SQLModel, table=True):
    """A Ready-to-Embed passage of a course."""

    id: str = Field(sa_column=Column(OpaqueId, primary_key=True))
    course_id: str = Field(sa_column=Column(OpaqueId, nullable=False, index=True))
    lecture_id: str | None = Field(default=None, sa_column=Column(OpaqueId))
    section_id: str | None = Field(default=None, sa_column=Column(OpaqueId))
    text: str = Field(sa_column=Column(Text, nullable=False))
    language: str | None = Field(default=None, sa_column=Column(String))
    source_type: str | None = Field(default=None, sa_column=Column(String))
    extra: dict[str, Any] | None = Field(default=None, sa_column=Column("metadata", JsonObject))
    """The column `metadata` (SQLAlchemy keeps that attribute name for itself): a JSON object whose
    `order_in_section` places the chunk in its section."""

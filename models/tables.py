"""The tables of the catalogue: stage one's, with the embedding columns that this product adds to `course`, and our own.

Stage one owns `course`, `resource` and `chunk`, which may have more columns. Only the columns of the contract with
stage one are mapped. Id columns may have any type that `models.ids` supports; in Python, ids are text (see `OpaqueId`).
"""

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Dialect,
    Float,
    Index,
    Integer,
    String,
    Text,
    TypeDecorator,
    UniqueConstraint,
    false,
    text,
)
from sqlmodel import Field, SQLModel

from models.json_values import readable_json


class EmbeddingStatus(StrEnum):
    """The embedding status of a course. Stored as plain text, because other systems read the column."""

    NOT_STARTED = "not_started"
    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class OpaqueId(TypeDecorator[str]):
    """An id that is text in Python, and may be an integer or a UUID in the database.

    Values are bound as untyped text, which SQLite and PostgreSQL convert to the type of the column. Values read from
    the database are converted with `str`. The conversion accepts other spellings (`01` equals 1), so a lookup also
    compares the text (see `models.ids.id_equals`).
    """

    impl = String
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Dialect) -> str | None:  # noqa: ARG002 - the interface
        """Convert integers and UUIDs to text."""
        return None if value is None else str(value)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time, stored in UTC, because SQLite stores no time zone and compares times as text."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert to UTC; reject a time without time zone, which would be ambiguous."""
        if value is not None and value.tzinfo is None:
            raise ValueError(f"the time has no time zone: {value}")
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        """Convert to UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class JsonObject(TypeDecorator[dict[str, Any]]):
    """A JSON object in a column of type JSON, JSONB or text.

    Any other value, such as an array, invalid JSON, or an object nested deeper than `MAX_DEPTH`, is read as None: a
    chunk stays searchable even if its metadata is unreadable.
    """

    impl = JSON(none_as_null=True)
    cache_ok = True

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], dict[str, Any] | None]:  # noqa: ARG002
        """Parse text. psycopg2 returns JSON and JSONB already parsed by `readable_json`; SQLite returns text."""

        def parse(value: Any) -> dict[str, Any] | None:
            value = readable_json(value) if isinstance(value, str | bytes) else value
            return value if isinstance(value, dict) else None

        return parse


def _generated_key() -> Column[int]:
    return Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)


class Course(SQLModel, table=True):
    """A course and its embedding state. The pipeline and the search app share this row."""

    id: str = Field(sa_column=Column(OpaqueId, primary_key=True))

    embedding_status: str = Field(
        default=EmbeddingStatus.NOT_STARTED,
        sa_column=Column(String, nullable=False, server_default=text("'not_started'")),
    )
    embedding_progress: float = Field(default=0.0, sa_column=Column(Float, nullable=False, server_default=text("0.0")))
    embedding_error: str | None = Field(default=None, sa_column=Column(Text))

    embedding_run_id: str | None = Field(default=None, sa_column=Column(String))
    """The Dagster run that owns the course. Of a running course, only this run may write progress and result. Of a
    pending course, it is the run that the course waits for."""
    embedding_requested_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    """Time of a request for an embedding that no run has claimed yet."""
    embedding_generation: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    """Incremented by every publication, and twice by a restore. Readers use it in the key of a cached course."""
    embedding_attempted: str | None = Field(default=None, sa_column=Column(String))
    """Fingerprint that the last run tried to publish. A failed course is embedded again only if its
    content or the model differs, if a retry is due, or if an embedding is requested."""
    embedding_fingerprint: str | None = Field(default=None, sa_column=Column(String))
    """Fingerprint of the published collection (see `models.fingerprint`)."""
    embedding_rebuild: bool = Field(default=False, sa_column=Column(Boolean, nullable=False, server_default=false()))
    """Whether the next run deletes the collection and embeds every chunk. Stays true until that run has published."""
    embedding_attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False, server_default=text("0")))
    """Number of failed tries of this content since the last request or publication."""
    embedding_retry_at: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    """No run is launched before this time. A failed course with a time is tried again then."""
    embedding_due_since: datetime | None = Field(default=None, sa_column=Column(UtcDateTime))
    """Since when the course has had content or a request that is not published; None if there is none."""
    embedding_calibration: str | None = Field(default=None, sa_column=Column(Text))
    """What the scores of the published generation mean (see `retrieval.relevance`); None if that was not measured."""


class Resource(SQLModel, table=True):
    """A video or PDF of a course. A course is ingested when all its resources have the status `succeeded`."""

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
    """The column `metadata`; SQLAlchemy reserves that name. `order_in_section` in it is the position in the section."""


class ResourceStatus(StrEnum):
    """The status of an uploaded file. Stored as plain text, also in stage one's `resource.status`."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"


class UploadedResource(SQLModel, table=True):
    """A file that was uploaded to this product: the resource with the same id, with what stage one's table lacks.

    `models.resources` keeps both rows in step. The file itself is in UPLOAD_DIR.
    """

    __tablename__ = "course_search_resource"
    __table_args__ = (
        UniqueConstraint("course_id", "name", name="course_search_resource_name_key"),
        Index("ix_course_search_resource_status", "status"),
    )

    resource_id: str = Field(sa_column=Column(String, primary_key=True))
    course_id: str = Field(sa_column=Column(String, nullable=False))
    name: str = Field(sa_column=Column(String, nullable=False))
    """The name of the file, without a directory, in Unicode's form NFC; unique in its course."""
    source_type: str | None = Field(default=None, sa_column=Column(String))
    """What the file is (see `documents.document.Document`); None until it was read."""
    size: int = Field(sa_column=Column(BigInteger, nullable=False))
    """In bytes."""
    sha256: str = Field(sa_column=Column(String, nullable=False))
    """Hex digest of the content."""
    status: str = Field(sa_column=Column(String, nullable=False))
    progress: float = Field(default=0.0, sa_column=Column(Float, nullable=False))
    """Share of the work that is done, 0.0 to 1.0."""
    error: str | None = Field(default=None, sa_column=Column(Text))
    """Why the last attempt failed. A pending file with an error is tried again."""
    chunks: int = Field(default=0, sa_column=Column(Integer, nullable=False))
    """Number of its chunks. Those of the last content that was read stay until new content replaces them."""
    position: int = Field(sa_column=Column(Integer, nullable=False))
    """Its place in the course, from 1 on. Places of deleted files stay empty."""
    run_id: str | None = Field(default=None, sa_column=Column(String))
    """The Dagster run that reads the file, or did so last. Only this run may write progress and result."""
    attempts: int = Field(default=0, sa_column=Column(Integer, nullable=False))
    """Number of failed attempts to read this content that are repeated."""
    created_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    updated_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))


class Question(SQLModel, table=True):
    """A search that was made, for the list of what a course does not answer. It does not say who asked."""

    __tablename__ = "course_search_question"
    __table_args__ = (
        Index("ix_course_search_question_course_id", "course_id", "asked_at"),
        Index("ix_course_search_question_asked_at", "asked_at"),
    )

    id: int | None = Field(default=None, sa_column=_generated_key())
    course_id: str = Field(sa_column=Column(String, nullable=False))
    asked_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    text: str = Field(sa_column=Column(Text, nullable=False))
    """The first phrasing, cut if it is long."""
    results: int = Field(sa_column=Column(Integer, nullable=False))
    best_relevance: float | None = Field(default=None, sa_column=Column(Float))
    """Highest relevance of a result, 0.0 to 1.0; None if there was no result, or relevance is not known."""
    answerable: bool | None = Field(default=None, sa_column=Column(Boolean))
    """Whether the course seemed to cover the question; None if that is not known."""
    unknown_terms: str = Field(sa_column=Column(Text, nullable=False))
    """Words that the course never uses, one a line; empty if there was none."""


class Feedback(SQLModel, table=True):
    """Whether a passage, or the answer as a whole, helped someone who had asked. It does not say whom."""

    __tablename__ = "course_search_feedback"
    __table_args__ = (
        Index("ix_course_search_feedback_course_id", "course_id", "asked_at"),
        Index("ix_course_search_feedback_asked_at", "asked_at"),
    )

    id: int | None = Field(default=None, sa_column=_generated_key())
    course_id: str = Field(sa_column=Column(String, nullable=False))
    asked_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    """When the feedback was given."""
    text: str = Field(sa_column=Column(Text, nullable=False))
    """The question, cut if it is long."""
    chunk_id: str | None = Field(default=None, sa_column=Column(String))
    """The passage; None if the feedback is on the whole answer."""
    helpful: bool = Field(sa_column=Column(Boolean, nullable=False))


class RunWorker(SQLModel, table=True):
    """The process that executes a run of the pipeline (see `models.run_workers`)."""

    __tablename__ = "course_search_worker"

    run_id: str = Field(sa_column=Column(String, primary_key=True))
    worker: str = Field(sa_column=Column(String, nullable=False))
    """A random id of the process."""
    beat_at: datetime = Field(sa_column=Column(UtcDateTime, nullable=False))
    """When the process last said that it lives, by the clock of the database."""
    batches: int = Field(sa_column=Column(Integer, nullable=False))
    """Number of batches that it has finished."""


class Counter(SQLModel, table=True):
    """A counter of the pipeline (see `models.counters`)."""

    __tablename__ = "course_search_counter"

    name: str = Field(sa_column=Column(String, primary_key=True))
    value: float = Field(sa_column=Column(Float, nullable=False))


class EmbeddedText(SQLModel, table=True):
    """Where the vector of a text is: the entry of a chunk in the index of embedded texts (see `models.embedded_texts`).

    An entry is a hint. What the collection of the course contains decides.
    """

    __tablename__ = "course_search_embedded_text"
    __table_args__ = (Index("ix_course_search_embedded_text_text_key", "text_key"),)

    course_id: str = Field(sa_column=Column(String, primary_key=True))
    chunk_id: str = Field(sa_column=Column(String, primary_key=True))
    text_key: int = Field(sa_column=Column(BigInteger, nullable=False))
    """The first 64 bits of a digest of the text, its context and the model signature."""

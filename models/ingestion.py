"""Counts the resources and chunks that stage one has written for each course."""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, String, case, cast, func, select
from sqlalchemy.orm import Mapped, Session
from sqlmodel import col

from models.ids import can_hold, id_equals
from models.tables import Chunk, Course, Resource


@dataclass(frozen=True)
class Ingestion:
    """Number of stage one's rows for a course."""

    resources: int = 0
    succeeded: int = 0
    """Resources with the status `succeeded`."""
    chunks: int = 0

    @property
    def finished(self) -> bool:
        """Whether stage one has ingested the course: it has resources, and all of them succeeded."""
        return 0 < self.resources == self.succeeded


def ingestion_by_course(session: Session, course_ids: Collection[str] | None = None) -> dict[str, Ingestion]:
    """The counts by course id, for all courses, or for the existing courses among `course_ids`.

    Takes three queries, regardless of the number of courses. Resources and chunks are counted in separate queries,
    because their `course_id` columns may have different types. The queries read no text: the database can count chunks
    in the index on `chunk.course_id`. Rows without a course are left out, because their id may be undecodable.
    """
    courses = select(col(Course.id))
    resources = _resources_by_course().having(_has_course(session, col(Resource.course_id)))
    chunks = _chunks_by_course().having(_has_course(session, col(Chunk.course_id)))
    if course_ids is not None:
        courses = courses.where(col(Course.id).in_(course_ids))
        resources = resources.where(col(Resource.course_id).in_(course_ids))
        chunks = chunks.where(col(Chunk.course_id).in_(course_ids))
    resource_counts = {course_id: (number, succeeded) for course_id, number, succeeded in session.execute(resources)}
    chunk_counts = dict(session.execute(chunks).all())
    return {
        course_id: Ingestion(*resource_counts.get(course_id, (0, 0)), chunk_counts.get(course_id, 0))
        for course_id in session.scalars(courses)
    }


def ingestion_of_course(session: Session, course_id: str) -> Ingestion:
    """The counts of one course; all zero for an unknown course."""
    resources = succeeded = chunks = 0
    if can_hold(session, col(Resource.course_id), course_id):
        counts = _resources_by_course().where(id_equals(col(Resource.course_id), course_id))
        _, resources, succeeded = session.execute(counts).first() or ("", 0, 0)
    if can_hold(session, col(Chunk.course_id), course_id):
        count = _chunks_by_course().where(id_equals(col(Chunk.course_id), course_id))
        _, chunks = session.execute(count).first() or ("", 0)
    return Ingestion(resources, succeeded, chunks)


def _has_course(session: Session, course_id: Mapped[str]) -> ColumnElement[bool]:
    """A condition on a group, so that it is checked once per course and not once per row.

    The columns may have different types and collations.
    """
    collation = "BINARY" if session.get_bind().dialect.name == "sqlite" else "C"
    return cast(course_id, String).collate(collation).in_(select(cast(col(Course.id), String)))


def _resources_by_course() -> Select[str, int, int]:
    succeeded = func.sum(case((col(Resource.status) == "succeeded", 1), else_=0))
    return select(col(Resource.course_id), func.count(), succeeded).group_by(col(Resource.course_id))


def _chunks_by_course() -> Select[str, int]:
    return select(col(Chunk.course_id), func.count()).group_by(col(Chunk.course_id))

"""Counts the resources and chunks of each course: those that stage one has written, and those of uploaded files."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Select, String, case, cast, func, select
from sqlalchemy.orm import Mapped, Session
from sqlmodel import col

from models.ids import can_hold, id_equals, is_text
from models.tables import Chunk, Course, Resource, ResourceStatus, UploadedResource


@dataclass(frozen=True)
class Ingestion:
    """Number of rows of a course."""

    resources: int = 0
    """Stage one's resources and uploaded files."""
    succeeded: int = 0
    """Those with the status `succeeded`."""
    chunks: int = 0
    uploads: int = 0
    """Uploaded files."""
    failed_uploads: int = 0
    """Uploaded files that failed."""
    kept_uploads: int = 0
    """Those of them that still have the chunks of earlier content."""

    @property
    def finished(self) -> bool:
        """Whether the course is ingested: it has resources, and all of them succeeded.

        An uploaded file that failed does not hold up the others, but something must have succeeded.
        """
        has_succeeded = self.succeeded + self.kept_uploads > 0
        return has_succeeded and self.succeeded + self.failed_uploads == self.resources


def ingestion_by_course(session: Session, course_ids: Collection[str] | None = None) -> dict[str, Ingestion]:
    """The counts by course id, for all courses, or for the existing courses among `course_ids`.

    Takes four queries, regardless of the number of courses. Resources and chunks are counted in separate queries,
    because their `course_id` columns may have different types. The queries read no text: the database can count chunks
    in the index on `chunk.course_id`, and there are few uploaded files. Rows without a course are left out, because
    their id may be undecodable.
    """
    courses = select(col(Course.id))
    resources = _resources_by_course().having(_has_course(session, col(Resource.course_id)))
    chunks = _chunks_by_course().having(_has_course(session, col(Chunk.course_id)))
    if course_ids is not None:
        courses = courses.where(col(Course.id).in_(course_ids))
        resources = resources.where(col(Resource.course_id).in_(course_ids))
        chunks = chunks.where(col(Chunk.course_id).in_(course_ids))
    uploads = _uploads_by_course()
    if course_ids is not None:
        uploads = uploads.where(col(UploadedResource.course_id).in_(course_ids))
    upload_counts = {course_id: counts for course_id, *counts in session.execute(uploads)}
    resource_counts = {course_id: (number, succeeded) for course_id, number, succeeded in session.execute(resources)}
    chunk_counts = dict(session.execute(chunks).all())
    return {
        course_id: Ingestion(
            *resource_counts.get(course_id, (0, 0)), chunk_counts.get(course_id, 0), *upload_counts.get(course_id, ())
        )
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
    uploads: Sequence[int] = ()
    if is_text(course_id):
        _, *uploads = session.execute(
            _uploads_by_course().where(col(UploadedResource.course_id) == course_id)
        ).first() or ("",)
    return Ingestion(resources, succeeded, chunks, *uploads)


def _has_course(session: Session, course_id: Mapped[str]) -> ColumnElement[bool]:
    """A condition on a group, so that it is checked once per course and not once per row.

    The columns may have different types and collations.
    """
    collation = "BINARY" if session.get_bind().dialect.name == "sqlite" else "C"
    return cast(course_id, String).collate(collation).in_(select(cast(col(Course.id), String)))


def _resources_by_course() -> Select[str, int, int]:
    succeeded = func.sum(case((col(Resource.status) == "succeeded", 1), else_=0))
    return select(col(Resource.course_id), func.count(), succeeded).group_by(col(Resource.course_id))


def _uploads_by_course() -> Select[str, int, int, int]:
    is_failed = col(UploadedResource.status) == ResourceStatus.FAILED
    failed = func.sum(case((is_failed, 1), else_=0))
    kept = func.sum(case((is_failed & (col(UploadedResource.chunks) > 0), 1), else_=0))
    return select(col(UploadedResource.course_id), func.count(), failed, kept).group_by(col(UploadedResource.course_id))


def _chunks_by_course() -> Select[str, int]:
    return select(col(Chunk.course_id), func.count()).group_by(col(Chunk.course_id))

"""How the courses are, as numbers: what the metrics show of the catalogue."""

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import String, and_, cast, func, not_, or_, select
from sqlalchemy.orm import Session
from sqlmodel import col

from models import counters
from models.tables import Course, EmbeddingStatus, ResourceStatus, UploadedResource


class Overview(NamedTuple):
    """The state of the catalogue at one time."""

    courses: Mapping[str, int]
    """Courses by embedding status."""
    given_up: int
    """Failed courses without a scheduled retry; they are among the failed ones."""
    due_since: datetime | None
    """Since when the oldest course has been due that a run is going to embed; None if none is.

    Courses whose files are being read are left out."""
    uploads: Mapping[str, int]
    """Uploaded files by status."""
    waiting_since: datetime | None
    """Since when the oldest file has been pending, or running without progress; None if there is none."""
    counters: counters.Amounts


def read_overview(session: Session) -> Overview:
    """Count the courses and the files, in one pass over the rows of each, and read the counters."""
    is_given_up = and_(col(Course.embedding_status) == EmbeddingStatus.FAILED, col(Course.embedding_retry_at).is_(None))
    file_status = col(UploadedResource.status)
    active = (ResourceStatus.PENDING, ResourceStatus.RUNNING)
    # Such a course waits for its other files, not for the embedding.
    read = select(col(UploadedResource.course_id)).where(file_status.in_(active))
    is_being_read = cast(col(Course.id), String).in_(read)
    query = select(
        col(Course.embedding_status),
        func.count(),
        func.count().filter(is_given_up),
        func.min(col(Course.embedding_due_since)).filter(not_(or_(is_given_up, is_being_read))),
    ).group_by(col(Course.embedding_status))
    rows = session.execute(query).all()
    of_files = select(file_status, func.count(), func.min(col(UploadedResource.updated_at))).group_by(file_status)
    files = session.execute(of_files).all()
    return Overview(
        courses={status: number for status, number, _, _ in rows},
        given_up=sum(number for _, _, number, _ in rows),
        due_since=min((since for *_, since in rows if since is not None), default=None),
        uploads={status: number for status, number, _ in files},
        waiting_since=min((since for status, _, since in files if status in active), default=None),
        counters=counters.read(session),
    )

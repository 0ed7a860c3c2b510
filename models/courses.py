"""Reading course rows. `models.course_state` writes them."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from sqlalchemy import String, bindparam, cast, or_, select
from sqlalchemy.orm import Session
from sqlmodel import col

from models.ids import can_hold, is_id
from models.tables import Course, EmbeddingStatus

MANY = 100
"""From this number of courses on, all rows are read at once instead of one query for each."""


def get_course(session: Session, course_id: str) -> Course | None:
    """The course as it is in the database now, or None if there is none."""
    if not can_hold(session, col(Course.id), course_id):
        return None
    query = select(Course).where(is_id(col(Course.id), course_id)).execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def list_courses(session: Session) -> list[Course]:
    """All courses by id: in numeric order where ids are integers, else in text order."""
    query = select(Course).order_by(col(Course.id)).execution_options(populate_existing=True)
    return list(session.scalars(query))


def list_course_ids(session: Session) -> Sequence[str]:
    """The ids of all courses, in the order of `list_courses`."""
    return session.scalars(select(col(Course.id)).order_by(col(Course.id))).all()


def courses_by_id(session: Session, course_ids: Sequence[str]) -> dict[str, Course | None]:
    """The courses with these ids; None for an id that no course has."""
    if len(course_ids) > MANY:
        courses = {course.id: course for course in list_courses(session)}
        return {course_id: courses.get(course_id) for course_id in course_ids}
    return {course_id: get_course(session, course_id) for course_id in course_ids}


def active_courses(session: Session, also: Collection[str] = ()) -> list[Course]:
    """The courses that are pending or running, and the existing ones with these ids."""
    active = col(Course.embedding_status).in_([EmbeddingStatus.PENDING, EmbeddingStatus.RUNNING])
    # Compared as text: an operator may add a partition key that the id column cannot hold.
    query = select(Course).where(or_(active, cast(col(Course.id), String).in_(also)))
    return list(session.scalars(query.execution_options(populate_existing=True)))


def is_active(course: Course) -> bool:
    """Whether the course is being embedded, or waits for it."""
    return course.embedding_status in (EmbeddingStatus.PENDING, EmbeddingStatus.RUNNING)


class PublishedCourse(NamedTuple):
    """The columns of a course row that a search reads."""

    id: str
    embedding_status: str
    embedding_error: str | None
    embedding_generation: int
    embedding_fingerprint: str | None


_published_course = select(*(col(getattr(Course, name)) for name in PublishedCourse._fields)).where(
    is_id(col(Course.id), bindparam("course_id", type_=String()))
)


def published_course(session: Session, course_id: str) -> PublishedCourse | None:
    """The columns a search reads, or None if there is no such course.

    Every search runs this query, so it is prepared once and builds no ORM object.
    """
    if not can_hold(session, col(Course.id), course_id):
        return None
    row = session.execute(_published_course, {"course_id": course_id}).one_or_none()
    return None if row is None else PublishedCourse(*row)

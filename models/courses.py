"""Reads course rows. `models.course_state` updates them."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import ColumnElement, String, bindparam, cast, func, or_, select
from sqlalchemy.orm import Session
from sqlmodel import col

from models.ids import can_hold, id_equals, is_text
from models.tables import Course, EmbeddingStatus

SINGLE_QUERY_ABOVE = 100
"""For more ids than this, all rows are read in one query: instead of one query per id, or one with many parameters."""


def get_course(session: Session, course_id: str) -> Course | None:
    """The current row of the course, or None if the course does not exist."""
    if not can_hold(session, col(Course.id), course_id):
        return None
    query = select(Course).where(id_equals(col(Course.id), course_id)).execution_options(populate_existing=True)
    return session.scalars(query).one_or_none()


def list_courses(session: Session) -> list[Course]:
    """All courses ordered by id: numerically for integer ids, otherwise as text."""
    query = select(Course).order_by(col(Course.id)).execution_options(populate_existing=True)
    return list(session.scalars(query))


def list_course_ids(session: Session) -> Sequence[str]:
    """The ids of all courses, in the order of `list_courses`."""
    return session.scalars(select(col(Course.id)).order_by(col(Course.id))).all()


class CoursePage(NamedTuple):
    """Some of the courses that were asked for."""

    courses: list[Course]
    next_after: str | None
    """The id after which the next page begins; None if this is the last one."""
    total: int
    """Number of courses on all pages."""


def course_page(
    session: Session,
    *,
    search: str | None = None,
    status: str | None = None,
    limit: int | None = None,
    after: str | None = None,
) -> CoursePage:
    """A page of the courses, in the order of `list_courses`.

    A page is found by the id where it begins. So it takes as long as any other, and courses that come or go meanwhile
    neither hide others nor repeat them.

    Args:
        session: An open transaction.
        search: Only courses with this text in their id, whatever its case.
        status: Only courses with this embedding status.
        limit: Maximum number of courses; None for all.
        after: The `next_after` of the page before; None for the first page.

    Raises:
        ValueError: No course can have the id `after`.
    """
    if search and not is_text(search):
        return CoursePage([], None, 0)
    conditions: list[ColumnElement[bool]] = [col(Course.id).is_not(None)]  # SQLite allows a text key that is NULL
    if search:
        conditions.append(cast(col(Course.id), String).icontains(search, autoescape=True))
    if status:
        conditions.append(col(Course.embedding_status) == status)
    total = session.scalar(select(func.count()).select_from(Course).where(*conditions)) or 0
    query = select(Course).where(*conditions).order_by(col(Course.id)).execution_options(populate_existing=True)
    if after is not None:
        if not can_hold(session, col(Course.id), after):
            raise ValueError("no course can have this id")
        query = query.where(col(Course.id) > after)
    if limit is not None:
        query = query.limit(limit + 1)
    found = list(session.scalars(query))
    page = found[:limit]
    return CoursePage(page, page[-1].id if len(found) > len(page) else None, total)


def withdrawn_courses(session: Session) -> dict[str, int]:
    """The generation by id of the courses that were published once, and are neither published nor being embedded now.

    Their texts are deleted if they have no chunk: see `models.course_state.withdraw_deleted`.
    """
    query = select(col(Course.id), col(Course.embedding_generation)).where(
        col(Course.embedding_status) == EmbeddingStatus.NOT_STARTED,
        col(Course.embedding_fingerprint).is_(None),
        col(Course.embedding_requested_at).is_(None),
        col(Course.embedding_generation) > 0,
    )
    return {course_id: generation for course_id, generation in session.execute(query) if course_id}


def courses_by_id(session: Session, course_ids: Sequence[str]) -> dict[str, Course | None]:
    """The courses with these ids; None for an id without a course."""
    if len(course_ids) > SINGLE_QUERY_ABOVE:
        courses = {course.id: course for course in list_courses(session)}
        return {course_id: courses.get(course_id) for course_id in course_ids}
    return {course_id: get_course(session, course_id) for course_id in course_ids}


def active_courses(session: Session, also: Collection[str] = ()) -> list[Course]:
    """All courses that are pending or running, and the courses with the ids `also`."""
    if len(also) > SINGLE_QUERY_ABOVE:
        return [course for course in list_courses(session) if is_active(course) or course.id in also]
    active = col(Course.embedding_status).in_([EmbeddingStatus.PENDING, EmbeddingStatus.RUNNING])
    # Compared as text, because `also` may contain partition keys that the id column cannot hold.
    query = select(Course).where(or_(active, cast(col(Course.id), String).in_(also)))
    return list(session.scalars(query.execution_options(populate_existing=True)))


def is_active(course: Course) -> bool:
    """Whether the course is pending or running."""
    return course.embedding_status in (EmbeddingStatus.PENDING, EmbeddingStatus.RUNNING)


class PublishedCourse(NamedTuple):
    """The columns of a course row that a search needs."""

    id: str
    embedding_status: str
    embedding_error: str | None
    embedding_generation: int
    embedding_fingerprint: str | None
    embedding_due_since: datetime | None
    embedding_calibration: str | None


_published_courses = select(*(col(getattr(Course, name)) for name in PublishedCourse._fields))
_published_course = _published_courses.where(id_equals(col(Course.id), bindparam("course_id", type_=String())))


def published_course(session: Session, course_id: str) -> PublishedCourse | None:
    """The columns that a search needs, or None if the course does not exist.

    Every search runs this query, so the statement is built only once, and no ORM object is created.
    """
    if not can_hold(session, col(Course.id), course_id):
        return None
    row = session.execute(_published_course, {"course_id": course_id}).one_or_none()
    return None if row is None else PublishedCourse(*row)


def published_courses(session: Session, course_ids: Collection[str] | None = None) -> list[PublishedCourse]:
    """The same columns of some courses, or of all. A course without an id cannot be embedded, so it is left out."""
    query = _published_courses
    if course_ids is not None:  # compared as text, because the id column may not be able to hold one of them
        query = query.where(cast(col(Course.id), String).in_([*filter(is_text, course_ids)]))
    return [PublishedCourse(*row) for row in session.execute(query) if row.id]

"""Access to the course rows: read one, list them, request an embedding. One transaction per call."""

import base64
import logging
from collections.abc import Sequence
from datetime import UTC, datetime

from models import course_state, courses
from models.courses import CoursePage, PublishedCourse
from models.database import CatalogueSettings, FileStamp, create_catalogue_engine, file_stamp, transaction
from models.messages import not_found_message, running_message
from models.overview import Overview, read_overview
from models.tables import Course
from models.text import quoted
from search_api.http.errors import AlreadyRunningError, CourseNotFoundError, InvalidRequestError

logger = logging.getLogger(__name__)


class Courses:
    """The course rows in the catalogue. Every method may raise `models.database.DatabaseUnavailableError`.

    The database is opened by the first call. After an outage the next call connects again.
    """

    def __init__(self, settings: CatalogueSettings) -> None:
        self.engine = create_catalogue_engine(settings)
        self._published: dict[str, tuple[FileStamp | None, PublishedCourse]] = {}
        self._all: tuple[FileStamp | None, Sequence[PublishedCourse]] = None, ()

    def get(self, course_id: str) -> Course:
        """The course.

        Raises:
            CourseNotFoundError: No course has this id.
        """
        with transaction(self.engine) as session:
            course = courses.get_course(session, course_id)
        if course is None:
            raise _not_found(course_id)
        return course

    def published(self, course_id: str) -> PublishedCourse:
        """The columns that a search reads.

        While a SQLite file is unchanged, the last row that was read is returned without a query.

        Raises:
            CourseNotFoundError: No course has this id.
        """
        known = self.published_at_once(course_id)
        if known is not None:
            return known
        stamp = file_stamp(self.engine)
        with transaction(self.engine) as session:
            course = courses.published_course(session, course_id)
        if course is None:
            raise _not_found(course_id)
        self._published[course_id] = stamp, course
        return course

    def published_at_once(self, course_id: str) -> PublishedCourse | None:
        """The same, if it is known without a query; otherwise None."""
        return self._known(course_id, file_stamp(self.engine))

    def published_together(self, course_ids: Sequence[str]) -> dict[str, PublishedCourse]:
        """The same of several courses, by id, in one query. A course that does not exist is left out."""
        stamp = file_stamp(self.engine)
        found = {id_: course for id_ in course_ids if (course := self._known(id_, stamp)) is not None}
        missing = set(course_ids) - found.keys()
        if missing:
            with transaction(self.engine) as session:
                read = {course.id: course for course in courses.published_courses(session, missing)}
            self._published.update((id_, (stamp, course)) for id_, course in read.items())
            found |= read
        return found

    def _known(self, course_id: str, stamp: FileStamp | None) -> PublishedCourse | None:
        """The columns of a course, if they were read while the SQLite file had this stamp."""
        read_at, course = self._published.get(course_id, (None, None))
        return course if stamp and read_at == stamp else None

    def all_published(self) -> Sequence[PublishedCourse]:
        """The same of all courses."""
        stamp, (read_at, known) = file_stamp(self.engine), self._all
        if stamp and read_at == stamp:
            return known
        with transaction(self.engine) as session:
            found = courses.published_courses(session)
        self._all = stamp, found
        return found

    def page(self, search: str | None, status: str | None, limit: int | None, cursor: str | None) -> CoursePage:
        """Some of the courses, by id (see `models.courses.course_page`).

        Args:
            search: Part of the id.
            status: Embedding status.
            limit: Maximum number of courses.
            cursor: Where the page begins, as `next_cursor` returned it.

        Raises:
            InvalidRequestError: The cursor is none of ours.
        """
        try:
            after = None if cursor is None else base64.b64decode(cursor, b"-_", validate=True).decode()
            with transaction(self.engine) as session:
                return courses.course_page(session, search=search, status=status, limit=limit, after=after)
        except ValueError:
            raise InvalidRequestError("cursor: must be the next_cursor of an answer") from None

    def overview(self) -> Overview:
        """How the courses are, as numbers."""
        with transaction(self.engine) as session:
            return read_overview(session)

    def request_embedding(self, course_id: str) -> None:
        """Mark the course for embedding. The pipeline embeds it, after its next start if it is down now.

        Raises:
            AlreadyRunningError: The course is being embedded now.
            CourseNotFoundError: No course has this id.
        """
        with transaction(self.engine) as session:
            requested = course_state.request_embedding(session, course_id, datetime.now(UTC))
        if not requested:
            raise AlreadyRunningError(running_message(self.get(course_id).id))
        logger.info("Embedding of course %s requested", quoted(course_id))

    def check(self) -> None:
        """Check that the database is available and migrated, by reading a row."""
        with transaction(self.engine) as session:
            courses.get_course(session, "1")

    def close(self) -> None:
        """Close the connections."""
        self.engine.dispose()


def next_cursor(page: CoursePage) -> str | None:
    """The cursor of the page after this one."""
    return None if page.next_after is None else base64.urlsafe_b64encode(page.next_after.encode()).decode()


def _not_found(course_id: str) -> CourseNotFoundError:
    return CourseNotFoundError(not_found_message(course_id))

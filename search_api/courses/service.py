"""Access to the course rows: read one, list all, request an embedding. One transaction per call."""

import logging
from datetime import UTC, datetime

from models import course_state, courses
from models.courses import PublishedCourse
from models.database import CatalogueSettings, FileStamp, create_catalogue_engine, file_stamp, transaction
from models.messages import not_found_message, running_message
from models.tables import Course
from models.text import quoted
from search_api.http.errors import AlreadyRunningError, CourseNotFoundError

logger = logging.getLogger(__name__)


class Courses:
    """The course rows in the catalogue. Every method may raise `models.database.DatabaseUnavailableError`.

    The database is opened by the first call. After an outage the next call connects again.
    """

    def __init__(self, settings: CatalogueSettings) -> None:
        self._engine = create_catalogue_engine(settings)
        self._published: dict[str, tuple[FileStamp | None, PublishedCourse]] = {}

    def get(self, course_id: str) -> Course:
        """The course.

        Raises:
            CourseNotFoundError: No course has this id.
        """
        with transaction(self._engine) as session:
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
        stamp = file_stamp(self._engine)
        with transaction(self._engine) as session:
            course = courses.published_course(session, course_id)
        if course is None:
            raise _not_found(course_id)
        self._published[course_id] = stamp, course
        return course

    def published_at_once(self, course_id: str) -> PublishedCourse | None:
        """The same, if it is known without a query; otherwise None."""
        stamp_at_read, course = self._published.get(course_id, (None, None))
        return course if course and stamp_at_read and stamp_at_read == file_stamp(self._engine) else None

    def all_published(self) -> list[PublishedCourse]:
        """The same columns of all courses."""
        with transaction(self._engine) as session:
            return courses.published_courses(session)

    def all(self) -> list[Course]:
        """All courses, by id."""
        with transaction(self._engine) as session:
            return list(courses.list_courses(session))

    def request_embedding(self, course_id: str) -> None:
        """Mark the course for embedding. The pipeline embeds it, after its next start if it is down now.

        Raises:
            AlreadyRunningError: The course is being embedded now.
            CourseNotFoundError: No course has this id.
        """
        with transaction(self._engine) as session:
            requested = course_state.request_embedding(session, course_id, datetime.now(UTC))
        if not requested:
            raise AlreadyRunningError(running_message(self.get(course_id).id))
        logger.info("Embedding of course %s requested", quoted(course_id))

    def check(self) -> None:
        """Check that the database is available and migrated, by reading a row."""
        with transaction(self._engine) as session:
            courses.get_course(session, "1")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _not_found(course_id: str) -> CourseNotFoundError:
    return CourseNotFoundError(not_found_message(course_id))

"""The course rows as the app uses them: read one, list all, ask for an embedding. One transaction a call."""

import logging
from datetime import UTC, datetime

from models import course_state, courses
from models.courses import PublishedCourse
from models.database import CatalogueSettings, FileStamp, create_catalogue_engine, file_stamp, transaction
from models.tables import Course
from models.text import quoted
from search_api.http.errors import AlreadyRunningError, CourseNotFoundError

logger = logging.getLogger(__name__)


class Courses:
    """The catalogue behind the API. Every method may raise `models.database.DatabaseUnavailableError`.

    Nothing is opened before the first call, and a database that was away is found again by the next one.
    """

    def __init__(self, settings: CatalogueSettings) -> None:
        self._engine = create_catalogue_engine(settings)
        self._published: dict[str, tuple[FileStamp | None, PublishedCourse]] = {}

    def get(self, course_id: str) -> Course:
        """The course.

        Raises:
            CourseNotFoundError: there is none with this id.
        """
        with transaction(self._engine) as session:
            course = courses.get_course(session, course_id)
        if course is None:
            raise _not_found(course_id)
        return course

    def published(self, course_id: str) -> PublishedCourse:
        """The course as a search sees it.

        Raises:
            CourseNotFoundError: there is none with this id.
        """
        version = file_stamp(self._engine)
        read_at, course = self._published.get(course_id, (None, None))
        if course is None or version is None or version != read_at:
            with transaction(self._engine) as session:
                course = courses.published_course(session, course_id)
            if course is None:
                raise _not_found(course_id)
            self._published[course_id] = version, course
        return course

    def all(self) -> list[Course]:
        """All courses, by id."""
        with transaction(self._engine) as session:
            return list(courses.list_courses(session))

    def request_embedding(self, course_id: str) -> None:
        """Mark the course for embedding; the pipeline takes it up, now or when it is running again.

        Raises:
            AlreadyRunningError: it is being embedded now.
            CourseNotFoundError: there is none with this id.
        """
        with transaction(self._engine) as session:
            requested = course_state.request_embedding(session, course_id, datetime.now(UTC))
        if not requested:
            self.get(course_id)
            raise AlreadyRunningError(f"Course {quoted(course_id)} is being embedded now")
        logger.info("Embedding of course %s requested", quoted(course_id))

    def check(self) -> None:
        """Read something, to know that the database answers and is migrated."""
        with transaction(self._engine) as session:
            courses.get_course(session, "1")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _not_found(course_id: str) -> CourseNotFoundError:
    return CourseNotFoundError(f"There is no course {quoted(course_id)}")

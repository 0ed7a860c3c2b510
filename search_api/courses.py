"""The course rows as the app uses them: read one, list all, ask for an embedding. One transaction a call."""

import logging
from datetime import UTC, datetime

from models import catalogue
from models.catalogue import PublishedCourse
from models.database import FileVersion, create_catalogue_engine, file_version, transaction
from models.settings import CatalogueSettings
from models.tables import Course
from search_api.errors import AlreadyRunningError, CourseNotFoundError, quoted

logger = logging.getLogger(__name__)


class Courses:
    """The catalogue behind the API. Every method may raise `models.database.DatabaseUnavailableError`.

    Nothing is opened before the first call, and a database that was away is found again by the next one.
    """

    def __init__(self, settings: CatalogueSettings) -> None:
        self._engine = create_catalogue_engine(settings)
        self._published: dict[str, tuple[FileVersion | None, PublishedCourse]] = {}

    def get(self, course_id: str) -> Course:
        """The course.

        Raises:
            CourseNotFoundError: there is none with this id.
        """
        with transaction(self._engine) as session:
            course = catalogue.get_course(session, course_id)
        if course is None:
            raise _not_found(course_id)
        return course

    def published(self, course_id: str) -> PublishedCourse:
        """The course as a search sees it.

        Raises:
            CourseNotFoundError: there is none with this id.
        """
        version = file_version(self._engine)
        read_at, course = self._published.get(course_id, (None, None))
        if course is None or version is None or version != read_at:
            with transaction(self._engine) as session:
                course = catalogue.published_course(session, course_id)
            if course is None:
                raise _not_found(course_id)
            self._published[course_id] = version, course
        return course

    def all(self) -> list[Course]:
        """All courses, by id."""
        with transaction(self._engine) as session:
            return list(catalogue.list_courses(session))

    def request_embedding(self, course_id: str) -> None:
        """Mark the course for embedding; the pipeline takes it up, now or when it is running again.

        Raises:
            AlreadyRunningError: it is being embedded now.
            CourseNotFoundError: there is none with this id.
        """
        with transaction(self._engine) as session:
            requested = catalogue.request_embedding(session, course_id, datetime.now(UTC))
        if not requested:
            self.get(course_id)
            raise AlreadyRunningError(f"Course {quoted(course_id)} is being embedded now")
        logger.info("Embedding of course %s requested", quoted(course_id))

    def check(self) -> None:
        """Read something, to know that the database answers and is migrated."""
        with transaction(self._engine) as session:
            catalogue.get_course(session, "1")

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()


def _not_found(course_id: str) -> CourseNotFoundError:
    return CourseNotFoundError(f"There is no course {quoted(course_id)}")

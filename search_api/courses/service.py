"""Access to the course rows: read one, list them, request an embedding. One transaction per call."""

import base64
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeVar

from models import course_state, courses
from models.courses import CoursePage, PublishedCourse
from models.database import (
    CatalogueSettings,
    DatabaseUnavailableError,
    FileStamp,
    create_catalogue_engine,
    file_stamp,
    is_temporary,
)
from models.messages import not_found_message, running_message
from models.overview import Overview, read_overview
from models.tables import Course
from models.text import quoted
from search_api.http.errors import AlreadyRunningError, CourseNotFoundError, InvalidRequestError, OverloadedError
from search_api.http.waits import transaction

logger = logging.getLogger(__name__)

PATIENCE_SECONDS = 2.0
"""How long a read of the catalogue may take before others use the last known rows. It takes a millisecond, and longer
on a machine without a free core."""
RETRY_SECONDS = 1.0
"""Pause before the catalogue is read again after a failure, by one search at a time."""
OLDEST_SECONDS = 3600.0
"""How long searches use the last known rows, which may name courses that were deleted meanwhile."""
_Rows = TypeVar("_Rows")


class Courses:
    """The course rows in the catalogue. Every method may raise `models.database.DatabaseUnavailableError`.

    The database is opened by the first call. After an outage the next call connects again.
    """

    def __init__(self, settings: CatalogueSettings) -> None:
        self.engine = create_catalogue_engine(settings)
        self._published: dict[str, tuple[FileStamp | None, PublishedCourse]] = {}
        self._all: tuple[FileStamp | None, Sequence[PublishedCourse]] = None, ()
        self._last: dict[str, PublishedCourse] = {}
        self._last_read_at = -OLDEST_SECONDS
        self._reads: dict[object, float] = {}
        self._failure = ""
        self._failed_at = 0.0

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
            self._last.pop(course_id, None)
            raise _not_found(course_id)
        self._published[course_id] = stamp, course
        self._last[course_id] = course
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
            for id_ in missing - read.keys():
                self._last.pop(id_, None)
            self._last.update(read)
            found |= read
        return found

    def _known(self, course_id: str, stamp: FileStamp | None) -> PublishedCourse | None:
        """The columns of a course, if they were read while the SQLite file had this stamp."""
        read_at, course = self._published.get(course_id, (None, None))
        return course if stamp and read_at == stamp else None

    def all_published(self) -> Sequence[PublishedCourse]:
        """The same of all courses."""
        stamp, (read_at, known) = file_stamp(self.engine), self._all
        if not (stamp and read_at == stamp):
            with transaction(self.engine) as session:
                known = courses.published_courses(session)
            self._all, self._last = (stamp, known), {course.id: course for course in known}
        self._last_read_at = time.monotonic()
        return known

    def unless_away(
        self, read: Callable[[], _Rows], last: Callable[[Mapping[str, PublishedCourse]], _Rows | None]
    ) -> tuple[_Rows, str]:
        """What is read, or was read last if the catalogue does not answer: a published course stays searchable.

        While it does not answer, one caller at a time tries, and the others do not wait. The rows are those that a
        search or `all_published` has read, which the snapshots ask for every few seconds.

        Args:
            read: Reads the catalogue.
            last: Takes the same from the last known rows by id; None if they do not have it.

        Returns:
            The rows, and why they may be old; empty if they are current.
        """
        known = last(self._last) if time.monotonic() - self._last_read_at < OLDEST_SECONDS else None
        if known is not None and (outage := self._outage()):
            return known, outage
        this = object()
        self._reads[this] = time.monotonic()
        try:
            rows = read()
        except DatabaseUnavailableError as error:
            if not is_temporary(error):
                raise
            self._failure, self._failed_at = str(error), time.monotonic()
            if known is None:
                raise
            return known, self._failure
        except OverloadedError:
            if known is None:
                raise
            return known, "it does not answer as fast as it is asked"
        finally:
            del self._reads[this]
        self._failure = ""
        return rows, ""

    def _outage(self) -> str:
        """Why the catalogue is not even asked; empty if it is."""
        now, started = time.monotonic(), next(iter(tuple(self._reads.values())), None)
        if self._failure and (started is not None or now < self._failed_at + RETRY_SECONDS):
            return self._failure
        if started is not None and now > started + PATIENCE_SECONDS:
            return f"it has not answered for {PATIENCE_SECONDS:g} s"
        return ""

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

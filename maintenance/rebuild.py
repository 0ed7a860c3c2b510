"""Rebuilds a course: its next run deletes the collection, and embeds every chunk.

Only the request is recorded, on the course's row, and it stays there until a run has published the course. So a rebuild
that is killed at any moment remains a rebuild, and no run writes to a collection that is being deleted.
"""

from datetime import UTC, datetime

from models.course_state import request_embedding
from models.courses import get_course
from models.database import Engine, transaction
from models.messages import not_found_message, running_message


class CourseRefusedError(Exception):
    """The course does not exist, or is running."""


def request_rebuild(engine: Engine, course_id: str) -> None:
    """Request the rebuild of a course.

    Raises:
        CourseRefusedError: The course does not exist, or is running.
    """
    with transaction(engine) as session:
        if request_embedding(session, course_id, datetime.now(UTC), rebuild=True):
            return
        course = get_course(session, course_id)
    raise CourseRefusedError(not_found_message(course_id) if course is None else running_message(course_id))

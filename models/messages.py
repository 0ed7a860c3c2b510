"""Messages about courses. The API, the commands and the doctor use the same words."""

from models.course_state import REBUILD_OWNER_PREFIX
from models.tables import Course
from models.text import quoted


def not_found_message(course_id: str) -> str:
    """The message for a course that does not exist."""
    return f"There is no course {quoted(course_id)}"


def running_message(course: Course) -> str:
    """The message for a course that cannot be embedded or rebuilt now, because it is running."""
    if (course.embedding_run_id or "").startswith(REBUILD_OWNER_PREFIX):
        return (
            f"Course {quoted(course.id)} is being rebuilt now; if that was interrupted, `make up` releases the course"
        )
    return f"Course {quoted(course.id)} is being embedded now"

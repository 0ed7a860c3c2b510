"""Messages about courses. The API, the commands and the doctor use the same words."""

from models.text import quoted


def not_found_message(course_id: str) -> str:
    """The message for a course that does not exist."""
    return f"There is no course {quoted(course_id)}"


def running_message(course_id: str) -> str:
    """The message for a course that cannot be embedded or rebuilt now, because it is running."""
    return f"Course {quoted(course_id)} is being embedded now"

"""Records questions and feedback, and reads what is recorded."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, select
from sqlmodel import col

from models.database import transaction
from models.questions import NewFeedback, NewQuestion, write_feedback, write_questions
from models.tables import Feedback, Question


def ask(
    engine: Engine,
    course_id: str,
    *texts: str,
    answerable: bool | None = True,
    unknown_terms: tuple[str, ...] = (),
    days_ago: float = 0,
) -> None:
    """Record questions, each with one result of relevance 0.5."""
    at = datetime.now(UTC) - timedelta(days=days_ago)
    with transaction(engine) as session:
        write_questions(
            session, [NewQuestion(course_id, at, text, 1, 0.5, answerable, unknown_terms) for text in texts]
        )


def judge(engine: Engine, course_id: str, text: str, chunk_id: str | None = None, *, helpful: bool) -> None:
    """Record feedback."""
    with transaction(engine) as session:
        write_feedback(session, [NewFeedback(course_id, datetime.now(UTC), text, chunk_id, helpful)])


def recorded_courses(engine: Engine) -> set[str]:
    """The ids of the courses of which there is a question or feedback."""
    with transaction(engine) as session:
        return {*session.scalars(select(col(Question.course_id))), *session.scalars(select(col(Feedback.course_id)))}

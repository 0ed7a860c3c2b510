"""Recorded questions on both databases: counted, read by course, and deleted."""

from datetime import UTC, datetime, timedelta

import pytest

from models import questions
from models.questions import (
    AskedText,
    CourseCounts,
    Judgements,
    anything_recorded,
    asked_texts,
    chunk_text,
    course_counts,
    delete_questions,
    judged_chunks,
    judged_texts,
)
from tests.support.catalogue import Catalogue
from tests.support.questions import ask, judge, recorded_courses

LAST_MONTH = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture
def recorded(text_catalogue: Catalogue) -> Catalogue:
    engine = text_catalogue.engine
    ask(engine, "a", "What is a via?", "What is a via?", "过孔是什么？")
    ask(engine, "a", "What is a via?", answerable=False, unknown_terms=("via", "过孔"))
    ask(engine, "a", "too old", days_ago=31)
    ask(engine, "b", "unknown relevance", answerable=None)
    judge(engine, "a", "What is a via?", "7", helpful=True)
    judge(engine, "a", "What is a via?", "7", helpful=False)
    judge(engine, "a", "What is a via?", helpful=False)
    judge(engine, "c", "only feedback", helpful=True)
    return text_catalogue


def test_counts(recorded: Catalogue) -> None:
    with recorded.session() as session:
        assert sorted(course_counts(session, LAST_MONTH)) == [
            CourseCounts("a", 4, 1, 1, 2),
            CourseCounts("b", 1, 0, 0, 0),
            CourseCounts("c", 0, 0, 1, 0),
        ]
        assert course_counts(session, LAST_MONTH, "b") == [CourseCounts("b", 1, 0, 0, 0)]
        assert anything_recorded(session)


def test_questions_and_feedback_of_a_course(recorded: Catalogue) -> None:
    with recorded.session() as session:
        assert asked_texts(session, "a", LAST_MONTH) == [
            AskedText("What is a via?", 3, 1, 0.5, ["via", "过孔"]),
            AskedText("过孔是什么？", 1, 0, 0.5, []),
        ]
        assert judged_texts(session, "a", LAST_MONTH) == {"What is a via?": Judgements(1, 2)}
        assert judged_chunks(session, "a", LAST_MONTH) == {"7": Judgements(1, 1)}


def test_only_the_most_frequent_are_read(recorded: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MAX_DISTINCT", 1)
    with recorded.session() as session:
        assert [asked.text for asked in asked_texts(session, "a", LAST_MONTH)] == ["What is a via?"]


def test_deletion_of_a_course_and_of_old_rows_in_pages(recorded: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "PAGE", 2)
    assert delete_questions(recorded.engine, before=LAST_MONTH) == 1
    assert delete_questions(recorded.engine, course_id="a") == 7
    assert recorded_courses(recorded.engine) == {"b", "c"}
    assert delete_questions(recorded.engine, course_id="a") == 0


def test_text_of_a_passage(catalogue: Catalogue) -> None:
    """With each type of ids, whatever the feedback names."""
    catalogue.add_course("1", chunks=["copper"])
    catalogue.add_course("2")
    with catalogue.session() as session:
        assert chunk_text(session, "1", "1") == "copper"
        for course_id, chunk_id in (("2", "1"), ("1", "01"), ("1", "no such id"), ("1", "\0"), ("x", "1")):
            assert chunk_text(session, course_id, chunk_id) is None

"""The report on what was asked: spellings are one question, paraphrases one gap."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from embedding.vectors import Vectors
from maintenance import questions
from maintenance.questions import AskedQuestion, Embed, QuestionReport, groups, question_report
from tests.support.courses import empty_catalogue, write_course
from tests.support.questions import ask, judge


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return empty_catalogue(tmp_path / "catalogue.db")


def report(engine: Engine, embed: Embed | None = None) -> QuestionReport:
    return question_report(engine, "c", datetime.now(UTC) - timedelta(days=30), embed)


def gaps(found: QuestionReport) -> list[list[str]]:
    return [[question.question for question in gap.questions] for gap in found.gaps]


def test_spellings_are_one_question(engine: Engine) -> None:
    ask(engine, "c", "What is a via?", "What is a via?", "what is  a VIA", "Ｗhat is a via？", "…")
    found = report(engine)
    assert [(question.question, question.asked) for question in found.most_asked] == [("What is a via?", 4), ("…", 1)]
    assert (found.gaps, found.is_complete) == ([], True)


def test_gaps_are_what_found_nothing_or_did_not_help(engine: Engine) -> None:
    ask(engine, "c", "answered", "answered")
    ask(engine, "c", "not helpful")
    ask(engine, "c", "unanswered", answerable=False, unknown_terms=("kangaroo",))
    ask(engine, "c", "unanswered", answerable=True)
    judge(engine, "c", "Not helpful!", helpful=False)
    judge(engine, "c", "never searched", helpful=False)
    judge(engine, "c", "answered", helpful=True)
    found = report(engine)
    assert [question for gap in found.gaps for question in gap.questions] == [
        AskedQuestion("unanswered", 2, 1, 0, 0, 0.5, ["kangaroo"]),
        AskedQuestion("not helpful", 1, 0, 0, 1, 0.5, []),
        AskedQuestion("never searched", 0, 0, 0, 1, None, ()),
    ]
    assert "never searched" not in {question.question for question in found.most_asked}


def test_paraphrases_in_the_same_words_are_one_gap(engine: Engine) -> None:
    ask(
        engine,
        "c",
        *("How is a multimeter calibrated?", "calibrating my multimeter", "how do I calibrate multimeters"),
        *("怎样校准万用表?", "万用表如何校准"),
        *("What is an oscilloscope?", "What is a fuse?"),
        answerable=False,
    )
    assert sorted(map(len, gaps(report(engine)))) == [1, 1, 2, 3]


def test_paraphrases_in_other_words_are_one_gap_by_their_vectors(engine: Engine) -> None:
    """Whatever cosine unrelated questions have with this model."""
    ask(engine, "c", "price of a board", "How expensive are PCBs?", "When is the exam?", answerable=False)

    def embed(texts: Sequence[str]) -> Vectors:
        """Unrelated texts have a cosine of about 0.8, and the two about prices one of 0.95."""
        vectors = np.zeros((len(texts), len(texts) + 2), dtype=np.float32)
        for row, text in enumerate(texts):
            about_prices = "price" in text or "expensive" in text
            vectors[row, 0] = np.sqrt(0.8)
            vectors[row, 1] = np.sqrt(0.15) if about_prices else 0
            vectors[row, row + 2] = np.sqrt(0.05 if about_prices else 0.2)
        return vectors

    assert sorted(map(len, gaps(report(engine, embed)))) == [1, 2]
    assert sorted(map(len, gaps(report(engine)))) == [1, 1, 1]


def test_groups_are_joined_by_their_mean_similarity() -> None:
    similarities = np.array([[1, 0.9, 0.1, 0], [0.9, 1, 0.6, 0], [0.1, 0.6, 1, 0], [0, 0, 0, 1]], dtype=float)
    assert groups(similarities, 0.5) == [[0, 1], [2], [3]]
    assert groups(similarities, 0.35) == [[0, 1, 2], [3]]
    assert groups(np.ones((1, 1)), 0.5) == [[0]]


def test_the_number_of_grouped_questions_is_limited(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MAX_GROUPED", 2)
    ask(engine, "c", "one", "two", "two", "three", "three", "three", answerable=False)
    found = report(engine)
    assert (gaps(found), found.ungrouped) == ([["three"], ["two"]], 1)


def test_passages_with_feedback(engine: Engine) -> None:
    write_course(engine, "c", {"c/1": "Copper foil", "c/2": "Solder"})
    judge(engine, "c", "a", "c/1", helpful=True)
    judge(engine, "c", "a", "c/2", helpful=False)
    judge(engine, "c", "b", "gone", helpful=True)
    assert report(engine).passages == [("c/2", 0, 1, "Solder"), ("c/1", 1, 0, "Copper foil"), ("gone", 1, 0, None)]

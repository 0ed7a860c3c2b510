"""`course-search questions`: its tables, its JSON, and what it says if there is nothing to show."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from cli.commands import questions as command
from cli.main import app
from embedding.vectors import Vectors
from tests.support.catalogue import Catalogue
from tests.support.questions import ask, judge


@pytest.fixture(autouse=True)
def _no_search_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEARCH_URL", "http://127.0.0.1:1")


@pytest.fixture
def course(catalogue: Catalogue) -> Catalogue:
    catalogue.add_course("c", chunks=["Copper foil"])
    return catalogue


def questions(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["questions", *arguments])


def record(catalogue: Catalogue) -> None:
    ask(catalogue.engine, "c", "What is copper?", "What is copper?")
    ask(catalogue.engine, "c", "How is a multimeter\ncalibrated?", answerable=False, unknown_terms=("multimeter",))
    ask(catalogue.engine, "c", "calibrating multimeters", answerable=False)
    judge(catalogue.engine, "c", "What is copper?", "1", helpful=True)


def test_tables(course: Catalogue) -> None:
    record(course)
    result = questions("c")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "c, last 30 days: 4 questions, 2 found nothing relevant; feedback: 1 helpful, 0 not helpful",
        "",
        "Asked most",
        "asked  found nothing  question",
        "2      0              What is copper?",
        "1      1              How is a multimeter calibrated?",
        "1      1              calibrating multimeters",
        "",
        "Not answered, grouped by words",
        "asked  unknown words  questions",
        "2      multimeter     How is a multimeter calibrated? | calibrating multimeters",
        "",
        "Passages with feedback",
        "helpful  not helpful  chunk  text",
        "1        0            1      Copper foil",
    ]
    assert "Compared by words only, because there is no embedding model at hand" in result.stderr
    assert "127.0.0.1:1" in result.stderr


def test_what_was_sent_does_not_control_the_terminal(course: Catalogue) -> None:
    hostile = "\x1b[31mred\u202e\x9b2J"
    ask(course.engine, "c", hostile, answerable=False, unknown_terms=("\x1b[2J",))
    judge(course.engine, "c", "x", hostile, helpful=True)
    shown = questions("c").stdout
    assert "red" in shown
    assert all(character == "\n" or character.isprintable() for character in shown)


def test_json(course: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a model that gives every question the same vector."""

    def embed(texts: Sequence[str]) -> Vectors:
        return np.eye(len(texts), dtype=np.float32)

    monkeypatch.setattr(command, "_embed", embed)
    record(course)
    found = json.loads(questions("c", "--json", "--days", "7").stdout)
    assert (found["course_id"], found["days"], found["grouped_by"]) == ("c", 7, "meaning")
    assert (found["asked"], found["found_nothing"], found["helpful"], found["not_helpful"]) == (4, 2, 1, 0)
    assert found["most_asked"][0] == {
        "question": "What is copper?",
        "asked": 2,
        "found_nothing": 0,
        "helpful": 1,
        "not_helpful": 0,
        "best_relevance": 0.5,
        "unknown_terms": [],
    }
    assert [len(gap["questions"]) for gap in found["gaps"]] == [2]
    assert found["passages"] == [{"chunk_id": "1", "helpful": 1, "not_helpful": 0, "text": "Copper foil"}]


def test_nothing_was_ever_recorded(course: Catalogue) -> None:
    result = questions("c")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.strip() == command.OFF


def test_nothing_was_asked_about_this_course(course: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUERY_LOG", "true")
    ask(course.engine, "another", "What is copper?")
    ask(course.engine, "c", "What is copper?", days_ago=2)
    result = questions("c", "--days", "1")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr.strip() == "Nothing was asked about c in the last 1 day."


def test_unknown_course(course: Catalogue) -> None:
    result = questions("nobody")
    assert result.exit_code == 1
    assert result.stderr.strip() == "There is no course 'nobody'"

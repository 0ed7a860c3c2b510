"""`course-search status`: its table and its JSON."""

import json
import sys
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine, event
from typer.testing import CliRunner, Result

from cli.main import app
from models.course_state import Retry, claim_course, fail_course, request_embedding
from tests.support.catalogue import Catalogue
from tests.support.courses import read_course
from tests.support.published import publish_row

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def status(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["status", *arguments])


@pytest.fixture
def courses(catalogue: Catalogue) -> Catalogue:
    """A course in each status except running."""
    catalogue.add_course("a")
    catalogue.add_course("b", ["succeeded"], ["text", "text"])
    catalogue.add_course("c")
    catalogue.add_course("电路")
    publish_row(catalogue.engine, "b")
    with catalogue.session() as session:
        request_embedding(session, "c", NOON)
        claim_course(session, "电路", "run")
        fail_course(session, "电路", "run", "no luck\n" + "x" * 200)
    return catalogue


def test_pipe_gets_one_aligned_row_per_course(courses: Catalogue) -> None:
    result = status()
    assert result.exit_code == 0, result.stderr
    requested = f"{NOON.astimezone():%Y-%m-%d %H:%M:%S}"
    assert result.stdout.splitlines() == [
        "course  status       progress  chunks  generation  requested            error",
        "a       not_started  0%        0       0",
        "b       done         100%      2       1",
        f"c       pending      0%        0       0           {requested}",
        f"电路    failed       0%        0       0                                no luck {'x' * 91}…",
        "",
        "4 courses: 1 done, 1 failed, 1 not_started, 1 pending",
    ]


def test_json_contains_all_fields(courses: Catalogue) -> None:
    rows = {course["course_id"]: course for course in json.loads(status("--json").stdout)["courses"]}
    assert list(rows) == ["a", "b", "c", "电路"]
    assert rows["b"] == {
        "course_id": "b",
        "embedding_status": "done",
        "embedding_progress": 1.0,
        "embedding_error": None,
        "embedding_generation": 1,
        "embedding_requested_at": None,
        "embedding_attempts": 0,
        "embedding_retry_at": None,
        "chunks": 2,
        "unfinished_files": [],
    }
    assert rows["c"]["embedding_requested_at"] == NOON.isoformat()
    assert rows["电路"]["embedding_error"] == "no luck\n" + "x" * 200


def test_next_retry_is_shown(catalogue: Catalogue) -> None:
    catalogue.add_course("a")
    with catalogue.session() as session:
        claim_course(session, "a", "run")
        fail_course(session, "a", "run", "no luck", retry=Retry.LATER)
    retry = read_course(catalogue.engine, "a").embedding_retry_at
    assert retry is not None
    assert f"(retry at {retry.astimezone():%H:%M:%S}) no luck" in status().stdout
    [row] = json.loads(status("--json").stdout)["courses"]
    assert (row["embedding_attempts"], row["embedding_retry_at"]) == (1, retry.isoformat())


def test_named_courses_are_shown_and_unknown_ones_reported(courses: Catalogue) -> None:
    result = status("b", "nobody", "b", "--json")
    assert result.exit_code == 1
    assert result.stderr == "There is no course 'nobody'\n"
    assert [course["course_id"] for course in json.loads(result.stdout)["courses"]] == ["b"]


def test_empty_catalogue_hints_at_load(catalogue: Catalogue) -> None:
    result = status()
    assert (result.exit_code, result.stdout) == (0, "")
    assert "course-search load" in result.stderr
    assert json.loads(status("--json").stdout) == {"courses": []}


def test_number_of_sql_queries_is_constant(catalogue: Catalogue) -> None:
    for number in range(30):
        catalogue.add_course(f"course {number}")
    statements: list[str] = []

    def record(*arguments: Any) -> None:
        statements.append(arguments[2])

    event.listen(Engine, "before_cursor_execute", record)
    assert status().exit_code == 0
    event.remove(Engine, "before_cursor_execute", record)
    assert 0 < len(statements) < 10


@pytest.mark.parametrize("terminal", [False, True])
def test_watch_ends_when_no_course_is_active(
    courses: Catalogue, monkeypatch: pytest.MonkeyPatch, terminal: bool
) -> None:
    if terminal:
        monkeypatch.setenv("TTY_COMPATIBLE", "1")
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    # the first pause follows the first display
    monkeypatch.setattr("cli.commands.status.time", SimpleNamespace(sleep=lambda _: publish_row(courses.engine, "c")))
    result = status("--watch")
    assert ("1 not_started, 1 pending" in result.stderr) == terminal
    assert result.stdout.endswith("4 courses: 2 done, 1 failed, 1 not_started\n")


def test_terminal_gets_a_coloured_table(courses: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "90")
    lines = status().stdout.splitlines()
    assert "\x1b[" in lines[0]
    assert lines[4].startswith("\x1b[31m电路")
    assert "no luck xxx" in lines[4], "only the error is shortened to the width of the terminal"
    assert "…" in lines[4]

"""`course-search load`: inputs, output, errors. How the catalogue changes is tested with `models.loading`."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from cli.main import app
from models.database import create_catalogue_engine, transaction
from models.ingestion import ingestion_by_course
from tests.support.catalogue import migrate, settings

GOOD = {
    "id": "c1",
    "course_id": "physics",
    "lecture_id": "l1",
    "section_id": "s1",
    "order_in_section": 0,
    "text": "Ohm's law",
    "language": "en",
    "source_type": "pdf",
}


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    url = f"sqlite:///{tmp_path}/catalogue.db"
    monkeypatch.setenv("DATABASE_URL", url)
    return url


@pytest.fixture
def migrated(database: str) -> str:
    migrate(database)
    return database


def write(name: str, *lines: Any) -> str:
    Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return name


def load(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, ["load", *arguments], input=stdin)


def chunks(url: str) -> dict[str, int]:
    engine = create_catalogue_engine(settings(url))
    with transaction(engine) as session:
        return {course_id: totals.chunks for course_id, totals in ingestion_by_course(session).items()}


def test_files_are_loaded_and_summarized_per_course(migrated: str) -> None:
    one = write("one.jsonl", GOOD, {**GOOD, "id": "c2"})
    two = write("two.jsonl", {**GOOD, "id": "d1", "course_id": "电路"})
    result = load(one, two)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "physics: 2 chunks (2 new, 0 changed, 0 removed)",
        "电路: 1 chunks (1 new, 0 changed, 0 removed)",
    ]
    assert result.stderr == ""
    assert chunks(migrated) == {"physics": 2, "电路": 1}


def test_text_that_cannot_be_decoded(migrated: str) -> None:
    """A load replaces the text of a chunk, but not a row whose ids cannot be decoded."""
    undecodable = "CAST(X'636166e9' AS TEXT)"
    engine = create_catalogue_engine(settings(migrated))
    load(write("one.jsonl", GOOD))
    with transaction(engine) as session:
        session.execute(text(f"UPDATE chunk SET text = {undecodable}"))
    assert load("--replace", "one.jsonl").stdout == "physics: 1 chunks (0 new, 1 changed, 0 removed)\n"
    with transaction(engine) as session:
        session.execute(text(f"UPDATE chunk SET course_id = {undecodable}"))
    result = load("--replace", "one.jsonl")
    assert result.exit_code == 1
    error, last = result.stderr.splitlines()
    assert "correct or delete the row" in error
    assert last == "Nothing was loaded."


def test_replace_removes_missing_chunks(migrated: str) -> None:
    load(write("one.jsonl", GOOD, {**GOOD, "id": "c2"}))
    assert load(write("one.jsonl", GOOD)).stdout == "physics: 2 chunks (0 new, 0 changed, 0 removed)\n"
    assert load("--replace", "one.jsonl").stdout == "physics: 1 chunks (0 new, 0 changed, 1 removed)\n"


def test_dash_reads_standard_input(migrated: str) -> None:
    assert load("-", stdin=json.dumps(GOOD)).exit_code == 0
    assert chunks(migrated) == {"physics": 1}


def test_pipe_is_read_to_its_end(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe has no size and cannot be read twice."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: int) -> int:
            raise io.UnsupportedOperation("seek")

    pipe = Pipe(json.dumps(GOOD).encode())
    monkeypatch.setattr(Path, "open", lambda *_: pipe)
    assert load("/dev/fd/63").exit_code == 0
    assert chunks(migrated) == {"physics": 1}


def failure_reasons(result: Result) -> list[str]:
    """The reasons on standard error of a failed command, which must have loaded nothing."""
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    *reasons, last = result.stderr.splitlines()
    assert last == "Nothing was loaded."
    return reasons


def test_invalid_lines_are_reported_with_file_and_line(migrated: str) -> None:
    one = write("one.jsonl", GOOD)
    two = write("two.jsonl", {**GOOD, "id": "c2"}, {**GOOD, "id": "c3", "text": ""})
    assert failure_reasons(load(one, two, "-", stdin="{")) == [
        "two.jsonl:2: text is blank",
        "-:1: not JSON: Expecting property name enclosed in double quotes at column 2",
    ]
    assert chunks(migrated) == {}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.jsonl", "missing.jsonl: No such file or directory"),
        ("directory", "directory: Is a directory"),
        ("empty.jsonl", "empty.jsonl: contains no chunks"),
    ],
)
def test_unreadable_file_is_reported(migrated: str, name: str, reason: str) -> None:
    Path("directory").mkdir()
    write("empty.jsonl")
    assert failure_reasons(load(write("one.jsonl", GOOD), name)) == [reason]
    assert chunks(migrated) == {}


def test_missing_or_unmigrated_database_is_reported(database: str) -> None:
    one = write("one.jsonl", GOOD)
    [reason] = failure_reasons(load(one))
    assert "does not exist; `course-search migrate` creates it" in reason
    Path(database.removeprefix("sqlite:///")).touch()
    [reason] = failure_reasons(load(one))
    assert "run `course-search migrate`" in reason


def test_unreachable_database_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    [reason] = failure_reasons(load(write("one.jsonl", GOOD)))
    assert "Connection refused" in reason


def test_unsupported_database_url_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "mysql://h/d")
    assert failure_reasons(load(write("one.jsonl", GOOD))) == [
        "DATABASE_URL is for mysql: only sqlite:///… and postgresql://… are supported"
    ]


def test_terminal_shows_progress(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert "one.jsonl" in load(write("one.jsonl", GOOD)).stderr

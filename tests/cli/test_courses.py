"""All commands about courses report an unusable catalogue in one line."""

import sqlite3
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from embedding.vector_store.collections import VectorStore
from tests.support.catalogue import migrate

COMMANDS = [["status"], ["embed", "--all"], ["embed", "a"], ["rebuild", "a"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
class TestUnusableCatalogue:
    @pytest.fixture(autouse=True)
    def _chroma_answers(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """`rebuild` first checks that Chroma can be read."""
        monkeypatch.setattr(VectorStore, "check", lambda _: None)

    def error_line(self, command: list[str]) -> str:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert result.stdout == ""
        [line] = result.stderr.splitlines()
        return line

    def test_missing(self, command: list[str]) -> None:
        assert "does not exist; `course-search migrate` creates it" in self.error_line(command)

    def test_not_migrated(self, command: list[str]) -> None:
        Path("data").mkdir()
        Path("data/catalogue.db").touch()
        assert "run `course-search migrate`" in self.error_line(command)

    def test_unreachable(self, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        assert "Connection refused" in self.error_line(command)

    def test_unsupported_database(self, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "mysql://h/d")
        assert "only sqlite:///… and postgresql://… are supported" in self.error_line(command)


@pytest.mark.parametrize("command", [["status"], ["embed", "--all"]], ids=" ".join)
def test_text_that_cannot_be_decoded_is_reported_in_one_line(command: list[str]) -> None:
    migrate("sqlite:///data/catalogue.db")
    connection = sqlite3.connect("data/catalogue.db")
    with connection:
        connection.execute("INSERT INTO course (id) VALUES (CAST(X'636166e9' AS TEXT))")
    connection.close()
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 1
    [line] = result.stderr.splitlines()
    assert "The database contains text that cannot be decoded" in line
    assert line.endswith("correct or delete the row.")

"""All commands about courses report an unusable catalogue in one line."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

COMMANDS = [["status"], ["embed", "--all"], ["embed", "a"], ["rebuild", "a"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
class TestUnusableCatalogue:
    def error_line(self, command: list[str]) -> str:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert result.stdout == ""
        [line] = result.stderr.splitlines()
        return line

    def test_missing(self, command: list[str]) -> None:
        assert "does not exist; `alembic upgrade head` creates it" in self.error_line(command)

    def test_not_migrated(self, command: list[str]) -> None:
        Path("data").mkdir()
        Path("data/catalogue.db").touch()
        assert "run `alembic upgrade head`" in self.error_line(command)

    def test_unreachable(self, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        assert "Connection refused" in self.error_line(command)

    def test_unsupported_database(self, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "mysql://h/d")
        assert "only sqlite:///… and postgresql://… are supported" in self.error_line(command)

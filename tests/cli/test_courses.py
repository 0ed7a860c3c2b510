"""What all commands about courses do about a catalogue that cannot be used."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

COMMANDS = [["status"], ["embed", "--all"], ["embed", "a"], ["rebuild", "a"]]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
class TestCatalogueThatCannotBeUsed:
    def refusal(self, command: list[str]) -> str:
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 1
        assert result.stdout == ""
        [line] = result.stderr.splitlines()
        return line

    def test_missing(self, command: list[str]) -> None:
        assert "does not exist; `alembic upgrade head` creates it" in self.refusal(command)

    def test_not_migrated(self, command: list[str]) -> None:
        Path("data").mkdir()
        Path("data/catalogue.db").touch()
        assert "run `alembic upgrade head`" in self.refusal(command)

    def test_away(self, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
        assert "Connection refused" in self.refusal(command)

    def test_of_another_kind(self, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DATABASE_URL", "mysql://h/d")
        assert "only sqlite:///… and postgresql://… are supported" in self.refusal(command)

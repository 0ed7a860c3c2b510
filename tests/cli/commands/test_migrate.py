"""`course-search migrate`, in any directory."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from cli.main import app
from migrations.revision import VERSION_TABLE


def test_tables_are_created_and_a_newer_database_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "sqlite:///./deep/catalogue.db")
    for _ in range(2):
        result = CliRunner().invoke(app, ["migrate"])
        assert result.exit_code == 0
        assert result.stdout.startswith("The catalogue is at revision 0")
    engine = create_engine(f"sqlite:///{tmp_path}/deep/catalogue.db")
    with engine.begin() as connection:
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
    engine.dispose()
    result = CliRunner().invoke(app, ["migrate"])
    assert result.exit_code == 1
    assert "a newer version of course-search has migrated it" in result.stderr

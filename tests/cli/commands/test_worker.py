"""`course-search worker` says what is missing, and never shows the password of the broker."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from maintenance.checks.workers import check_workers

BROKER = "redis://:secret@127.0.0.1:1/0"
POSTGRES = "postgresql://127.0.0.1:1/x"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "CELERY_BROKER_URL is not set"),
        ({"CELERY_BROKER_URL": "amqp://guest:secret@host"}, "not the URL of a Redis server"),
        ({"CELERY_BROKER_URL": BROKER}, "set DAGSTER_POSTGRES_URL, or remove CELERY_BROKER_URL"),
        ({"CELERY_BROKER_URL": BROKER, "DAGSTER_POSTGRES_URL": POSTGRES}, "DATABASE_URL is a SQLite file"),
    ],
)
def test_what_is_missing_is_named(
    settings: dict[str, str], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(app, ["worker"])
    assert result.exit_code == 1
    assert expected in result.output
    assert "secret" not in result.output


def test_doctor_names_a_broker_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("maintenance.checks.workers.ANSWER_SECONDS", 0.2)
    [finding] = check_workers(BROKER)
    assert "No broker answers at CELERY_BROKER_URL" in finding.message
    assert list(check_workers("")) == []

"""`course-search doctor`: its output on a terminal, and its imports."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.processes import free_port
from orchestration.instance.files import instance_file

pytestmark = pytest.mark.integration


def test_terminal_output_is_coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    Path(".env").write_text("EMBEDING_DEVICE=cpu\n")
    output = CliRunner().invoke(app, ["doctor"]).stdout
    assert "\x1b[32mok" in output
    assert "\x1b[33mwarning" in output


def test_doctor_does_not_import_torch_dagster_or_fastapi(tmp_path: Path) -> None:
    code = """
import sys
from typer.testing import CliRunner
from cli.main import app
assert CliRunner().invoke(app, ["doctor"]).exit_code == 1
print([name for name in ("torch", "dagster", "fastapi") if name in sys.modules])
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_where_dagster_has_run_doctor_checks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with the storage of a `.env`, which Dagster itself does not read."""
    home = Path("data/dagster")
    home.mkdir(parents=True)
    shutil.copy(instance_file(postgres=True, celery=False), home / "dagster.yaml")
    Path(".env").write_text(f"DAGSTER_POSTGRES_URL=postgresql://nobody@127.0.0.1:{free_port()}/dagster\n")
    monkeypatch.setenv("DAGSTER_POSTGRES_URL", "")  # restored at the end: doctor sets it
    monkeypatch.delenv("DAGSTER_POSTGRES_URL")
    output = CliRunner().invoke(app, ["doctor"]).stdout
    assert re.search(
        r"error +dagster +The Dagster instance in .*data/dagster cannot be read: .*onnection refused", output
    )

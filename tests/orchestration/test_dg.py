"""The `dg` command line finds the definitions by `[tool.dg]` in pyproject.toml."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def dg(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("dg"), *arguments],
        cwd=ROOT,
        env={**os.environ, "DAGSTER_DISABLE_TELEMETRY": "1", "VIRTUAL_ENV": sys.prefix},
        capture_output=True,
        text=True,
        check=False,
    )


def test_dg_check_defs_passes() -> None:
    result = dg("check", "defs")
    assert result.returncode == 0, result.stdout + result.stderr


def test_dg_list_defs_finds_assets_and_sensors() -> None:
    definitions = json.loads(dg("list", "defs", "--json").stdout)
    assert {asset["asset_key"] for asset in definitions["assets"]} == {
        "course_chunks",
        "course_collection",
        "course_snapshot",
        "course_questions",
    }
    assert {sensor["name"] for sensor in definitions["sensors"]} == {
        "stage_one_sensor",
        "resource_sensor",
        "withdrawn_course_sensor",
        "course_status_sensor",
        "deleted_course_sensor",
        "lost_collection_sensor",
        "alert_sensor",
    }


def test_dg_and_the_workspace_name_the_same_code_location() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["dg"]["project"]
    [location] = yaml.safe_load((ROOT / "workspace.yaml").read_text())["load_from"]
    assert project["code_location_name"] == location["python_module"]["location_name"]

"""The documentation matches the code."""

import re
from pathlib import Path

import pytest
import yaml
from dotenv import dotenv_values
from typer.main import get_command

from cli.all_settings import ALL_SETTINGS as SETTINGS
from cli.main import app
from models.settings import Settings
from search_api.http.errors import ERRORS
from tests.support.settings import SETTING_NAMES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def test_all_settings_contains_every_settings_class() -> None:
    assert set(Settings.__subclasses__()) == set(SETTINGS)


def test_env_example_lists_every_setting_once() -> None:
    assert sorted(re.findall(r"^# ([A-Z_]+)=", ENV_EXAMPLE, re.MULTILINE)) == sorted(SETTING_NAMES)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda settings: settings.__name__)
def test_env_example_contains_the_defaults(settings: type[Settings], tmp_path: Path) -> None:
    """With all settings uncommented, the file changes nothing."""
    uncommented = tmp_path / "uncommented"
    uncommented.write_text(re.sub(r"^# ([A-Z_]+=)", r"\1", ENV_EXAMPLE, flags=re.MULTILINE), encoding="utf-8")
    assert dotenv_values(uncommented).keys() == set(SETTING_NAMES)
    assert settings(_env_file=uncommented) == settings()


def test_env_example_contains_the_description_of_each_setting() -> None:
    unwrapped = re.sub(r"\n# ", " ", ENV_EXAMPLE)
    for settings in SETTINGS:
        for field in settings.model_fields.values():
            assert field.description
            assert field.description in unwrapped


def test_readme_lists_every_error_with_its_status_and_meaning() -> None:
    rows = set(re.findall(r"^\| (\d{3}) \| `(\w+)` \| (.+) \|$", README, re.MULTILINE))
    assert rows == {(str(error.status), error.code, error.meaning()) for error in ERRORS.values()}


def test_readme_lists_every_command() -> None:
    commands = set(getattr(get_command(app), "commands"))  # noqa: B009 - a Typer group, whose type lacks the attribute
    assert set(re.findall(r"^\| `course-search ([a-z-]+)", README, re.MULTILINE)) == commands


def test_make_targets_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):.*## ", makefile, re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z-]+)", README)) <= targets


def test_documented_paths_exist() -> None:
    for document in ("README.md", "ARCHITECTURE.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for path in re.findall(r"`((?:[a-z_0-9]+/)+[a-z_0-9]+\.[a-z]+)`", text):
            assert (ROOT / path).exists(), f"{document} names {path}"


def test_dagster_instance_files_differ_only_in_storage() -> None:
    files = [
        yaml.safe_load((ROOT / "orchestration" / "instance" / name).read_text(encoding="utf-8"))
        for name in INSTANCE_FILES
    ]
    storages = [file.pop("storage", None) for file in files]
    assert files[0] == files[1]
    assert storages == [None, {"postgres": {"postgres_url": {"env": "DAGSTER_POSTGRES_URL"}}}]


INSTANCE_FILES = ("dagster.yaml", "dagster-postgres.yaml")

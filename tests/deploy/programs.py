"""What deployment files may name: programs with their arguments, settings, directories and versions of the product."""

import re
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cli.all_settings import ALL_SETTINGS
from tests.docs.test_commands import problem_with
from tests.support.settings import SETTING_NAMES

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CONSTRAINTS = dict(
    line.split("==") for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines() if "==" in line
)
VERSION: str = PROJECT["project"]["version"]
OF_OTHERS = {"PYTHONUNBUFFERED", "PATH", "HOME", "PIP_DISABLE_PIP_VERSION_CHECK", "PIP_NO_CACHE_DIR", "SQLITE_TMPDIR"}
"""Variables that are no settings."""
DIRECTORIES = {
    name.upper()
    for settings in ALL_SETTINGS
    for name, field in settings.model_fields.items()
    if isinstance(field.default, Path)
}
"""Settings that are directories. The product writes below them, and nowhere else but to temporary files."""
WORKSPACE = "instance/workspace.yaml"


def require_settings(names: Iterable[str]) -> None:
    """Assert that these environment variables are settings of the product."""
    assert set(names) - set(SETTING_NAMES) - OF_OTHERS == set()


def require_command(words: Sequence[str]) -> None:
    """Assert that the product has this command with these arguments."""
    assert not problem_with(words), f"{' '.join(words)}: {problem_with(words)}"
    for word in words:
        if word.endswith(WORKSPACE):
            assert (ROOT / "orchestration" / WORKSPACE).exists()


def without_directory(program: str) -> str:
    return re.sub(r"^/opt/course-search/bin/", "", program)

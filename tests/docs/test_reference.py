"""The reference, and the files that list the settings, say what the code says."""

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from cli.all_settings import ALL_SETTINGS as SETTINGS
from docs.reference.generate import outdated
from models.settings import Settings
from tests.docs.pages import PAGES, ROOT, WRITTEN, Page
from tests.support.settings import SETTING_NAMES

ENV_EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
OTHER_VARIABLES = {
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("UVICORN_ACCESS_LOG", "UVICORN_FORWARDED_ALLOW_IPS", "UVICORN_ROOT_PATH", "GLIBC_TUNABLES"),
    "TORCH_INDEX",  # of the container image
    *("DAGSTER_CLI_API_GRPC_LOG_FORMAT", "CACHE_MAX_MB", "KEYWORD_INDEX_DIR"),  # the last two are of 0.1.0
    *("COURSE_SEARCH_URL", "COURSE_SEARCH_TOKEN"),  # of the client
}


def test_the_reference_is_current() -> None:
    assert list(outdated()) == [], "run `make docs`"


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


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.path)
def test_settings_in_a_page_exist(page: Page) -> None:
    shells = [content for _, content in page.blocks]
    named = {
        name
        for code in (*page.code, *shells)
        for name in re.findall(r"(?<![\w.])([A-Z]+(?:_[A-Z]+)+_?)(?![\w*…])", code)
        if not name.startswith("OTEL_")
    }
    assert named - set(SETTING_NAMES) - OTHER_VARIABLES == set()


def test_pages_are_reached_from_the_readme() -> None:
    """In at most two steps: through the README, or the index of the documentation."""
    index = {str(Path("docs") / link) for link in next(p for p in PAGES if p.path == "docs/README.md").links}
    readme = set(next(p for p in PAGES if p.path == "README.md").links)
    pages = {p.path for p in PAGES if p.path.startswith("docs/") and not p.path.startswith("docs/adr/")}
    assert pages - index - readme - {"docs/README.md"} == set()
    assert {link for link in readme if link.startswith("docs/") and link.endswith(".md")} <= pages | index | {
        "docs/adr/README.md"
    }

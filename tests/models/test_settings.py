"""What all settings have in common: home directories, tokens, and messages without secrets."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from cli.all_settings import ALL_SETTINGS
from models.database import CatalogueSettings, catalogue_url
from models.settings import Settings, without_password

PATHS = [
    (settings, name)
    for settings in ALL_SETTINGS
    for name, field in settings.model_fields.items()
    if field.annotation is Path
]
TOKENS = [
    (settings, name)
    for settings in ALL_SETTINGS
    for name, field in settings.model_fields.items()
    if "_checked_token" in str(field.annotation)
]
every_path = pytest.mark.parametrize(("settings", "name"), PATHS)
every_token = pytest.mark.parametrize(("settings", "name"), TOKENS)


def test_paths_and_tokens_are_found() -> None:
    assert len(PATHS) == 7
    assert len(TOKENS) == 4


@every_path
@pytest.mark.parametrize("source", ["environment", ".env"])
def test_tilde_is_the_home_directory(
    settings: type[Settings], name: str, source: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    if source == ".env":
        Path(".env").write_text(f"{name.upper()}=~/cs/data\n")
    else:
        monkeypatch.setenv(name, "~/cs/data")
    assert getattr(settings(), name) == tmp_path / "home/cs/data"


def test_tilde_in_the_path_of_a_sqlite_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert catalogue_url(CatalogueSettings(database_url="sqlite:///~/cs/x.db")).database == f"{tmp_path}/cs/x.db"


@every_path
def test_unknown_home_directory_is_refused(settings: type[Settings], name: str) -> None:
    with pytest.raises(ValidationError, match="the home directory of ~nobody-of-this-name/x is unknown"):
        settings.model_validate({name: "~nobody-of-this-name/x"})


@every_token
@pytest.mark.parametrize("value", ["sekret\n", " sekret", "sekret\r\n", "\tsekret "])
def test_white_space_around_a_token_is_removed(
    settings: type[Settings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INTERNAL_TOKEN", "new")  # INTERNAL_TOKEN_OLD needs it
    monkeypatch.setenv(name.upper(), value)
    assert getattr(settings(), name) == SecretStr("sekret")


@every_token
@pytest.mark.parametrize("value", ["sek\nret", "sek\x7fret", "sekrét", "\N{ZERO WIDTH SPACE}sekret"])
def test_token_that_no_header_can_contain_is_refused_and_not_shown(
    settings: type[Settings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(ValidationError, match="which a header cannot contain") as refused:
        settings()
    assert "ret" not in str(refused.value).replace("secret", "")
    assert value not in str(refused.value)


@every_token
@pytest.mark.parametrize("value", ["\n", "  "])
def test_blank_token_is_refused(
    settings: type[Settings], name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty secret file must not leave the API open."""
    monkeypatch.setenv(name.upper(), value)
    with pytest.raises(ValidationError, match="it is blank"):
        settings()


@pytest.mark.parametrize("settings", ALL_SETTINGS)
def test_message_of_an_invalid_setting_does_not_contain_its_value(settings: type[Settings]) -> None:
    with pytest.raises(ValidationError) as refused:
        settings.model_validate({name: ["sekret"] for name in settings.model_fields})
    assert "sekret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("http://127.0.0.1:8001", "http://127.0.0.1:8001"),
        ("https://user:pass@chroma.example/x", "https://chroma.example/x"),
        ("http://user:pa/ss@[::1]:9001", "http://[::1]:9001"),
        ("http://user:p@ss@host", "http://host"),
        ("user:pass@host:1", "host:1"),
        ("./models/qwen3", "./models/qwen3"),
    ],
)
def test_shown_url_has_no_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize("url", ["hunter2", "postgresql://u:x@h:hunter2/d"])
def test_message_of_an_invalid_database_url_does_not_contain_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="DATABASE_URL is not a database URL") as refused:
        catalogue_url(CatalogueSettings(database_url=url))
    assert "hun" not in str(refused.value)
    assert refused.value.__suppress_context__

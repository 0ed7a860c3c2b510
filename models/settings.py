"""The base class of all settings. A value comes from the environment, else from `.env` in the working directory.

Each settings class is in the module that it configures; `.env.example` lists all settings.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, SecretStr, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Base class of all settings classes. An empty value selects the default; `~` in a path is the home directory.

    The message of an invalid setting does not contain its value, which may be a secret.
    """

    model_config = SettingsConfigDict(
        env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    @field_validator("*")
    @classmethod
    def _expand_home_directory(cls, value: Any) -> Any:
        return home_expanded(value) if isinstance(value, Path) else value


def home_expanded(path: Path) -> Path:
    """The path with the home directory in place of a leading `~` or `~user`.

    Raises:
        PydanticCustomError: The home directory is unknown. It is a ValueError.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise PydanticCustomError(
            "home", "the home directory of {path} is unknown; use an absolute path", {"path": str(path)}
        ) from None


def _checked_token(token: SecretStr) -> SecretStr:
    value = token.get_secret_value().strip()
    if not value:
        raise PydanticCustomError("token", "it is blank; remove it, or set a token")
    if not (value.isascii() and value.isprintable()):
        raise PydanticCustomError(
            "token", "it contains a line break or a character outside ASCII, which a header cannot contain"
        )
    return SecretStr(value)


Token = Annotated[SecretStr, AfterValidator(_checked_token)]
"""A secret in a header: printable ASCII. White space around it is removed, for example the line break of its file."""


def without_password(url: str) -> str:
    """The URL without user name and password, for messages. It need not be valid."""
    scheme, separator, address = url.partition("://") if "://" in url else ("", "", url)
    return f"{scheme}{separator}{address.rpartition('@')[2]}"

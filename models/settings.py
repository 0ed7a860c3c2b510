"""The base class of all settings. A value comes from the environment, else from `.env` in the working directory.

Each settings class is in the module that it configures; `.env.example` lists all settings.
"""

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Base class of all settings classes. An empty value selects the default."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

"""How settings are read: from the environment, then from `.env` in the working directory, then the default.

Each settings class stands beside the code it configures; `.env.example` lists all settings.
"""

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Base of all settings classes. An empty value means the default."""

    model_config = SettingsConfigDict(env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True)

"""Settings of `course-search up`: addresses and ports, and the storage of Dagster's state."""

from pathlib import Path

from pydantic import Field

from models.settings import Settings

PRODUCT_LOCK = ".up.lock"
"""Lock file in DAGSTER_HOME that `up` holds while it runs."""


class LauncherSettings(Settings):
    """A port that is not set is its usual port if that is free, and any free port otherwise."""

    search_host: str = Field("127.0.0.1", description="Address the search app listens on.")
    search_port: int | None = Field(None, ge=1, le=65535, description="Port of the search app, usually 8000.")
    dagster_host: str = Field("127.0.0.1", description="Address the Dagster UI listens on.")
    dagster_port: int | None = Field(None, ge=1, le=65535, description="Port of the Dagster UI, usually 3000.")
    chroma_port: int | None = Field(
        None, ge=1, le=65535, description="Port of the Chroma server that `up` starts, usually 8001; loopback only."
    )
    dagster_home: Path = Field(
        Path("./data/dagster"), description="Directory of the Dagster instance: its state and logs."
    )
    dagster_postgres_url: str | None = Field(
        None, description="PostgreSQL for Dagster's own state instead of files in DAGSTER_HOME."
    )
